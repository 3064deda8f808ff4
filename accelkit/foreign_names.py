"""What users of other libraries look for, and what it is called here."""

from __future__ import annotations

__all__ = ["hint"]

_METHODS = {
    "clamp": "x.clip(min, max)",
    "clone": "x itself: tensors are immutable",
    "copy": "x itself: tensors are immutable",
    "cpu": "x.to(device)",
    "cuda": "x.to(device)",
    "detach": "accelkit.stop_gradient(x)",
    "dim": "x.ndim",
    "double": 'x.astype("float64")',
    "float": 'x.astype("float32")',
    "half": 'x.astype("float16")',
    "int": 'x.astype("int32")',
    "long": 'x.astype("int64")',
    "numel": "x.size",
    "permute": "x.permute_dims(axes)",
    "ravel": "x.flatten()",
    "swapaxes": "x.swap_axes(a, b)",
    "transpose": "x.permute_dims(axes), x.swap_axes(a, b) or x.T",
    "type": "x.astype(dtype)",
    "unsqueeze": "x.expand_dims(axis)",
    "view": "x.reshape(shape)",
}
_FUNCTIONS = {
    "array": "asarray",
    "arccos": "acos",
    "arcsin": "asin",
    "arctan": "atan",
    "arctan2": "atan2",
    "bmm": "matmul",
    "cat": "concat",
    "clamp": "clip",
    "concatenate": "concat",
    "convert_to_tensor": "asarray",
    "cumprod": "cumulative_prod",
    "cumsum": "cumulative_sum",
    "dot": "vecdot",
    "gather": "take_along_axis",
    "mm": "matmul",
    "no_grad": "grad where a derivative is wanted; nothing is recorded elsewhere",
    "norm": "vector_norm",
    "permute": "permute_dims",
    "power": "pow",
    "ravel": "flatten",
    "swapaxes": "swap_axes",
    "topk": "top_k",
    "transpose": "permute_dims",
    "unsqueeze": "expand_dims",
}


def hint(name: str, *, of_tensors: bool) -> str:
    """A sentence on what to write instead of a name of torch, Keras, JAX or NumPy, or nothing.

    Args:
        name: What was looked for and is not here.
        of_tensors: Whether as an attribute of a tensor; else as a function of :mod:`accelkit`.
    """
    found = (_METHODS if of_tensors else _FUNCTIONS).get(name)
    if found is None:
        return ""
    return f" Use {found if of_tensors else f'accelkit.{found}'}."
