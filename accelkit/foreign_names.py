"""What users of other libraries look for, and what it is called here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from accelkit.errors import nearest

__all__ = ["missing_from_module", "missing_from_tensor", "refuser"]

_METHODS = {
    "backward": "accelkit.grad(function), which gives the derivative as a function",
    "grad": "accelkit.grad(function), which gives the derivative as a function",
    "requires_grad": "accelkit.grad(function), which gives the derivative as a function",
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
_NAMES = {
    "accelkit": {
        "Variable": "accelkit.asarray",
        "arccos": "accelkit.acos",
        "arcsin": "accelkit.asin",
        "arctan": "accelkit.atan",
        "arctan2": "accelkit.atan2",
        "array": "accelkit.asarray",
        "bmm": "accelkit.matmul",
        "cat": "accelkit.concat",
        "clamp": "accelkit.clip",
        "concatenate": "accelkit.concat",
        "convert_to_tensor": "accelkit.asarray",
        "cumprod": "accelkit.cumulative_prod",
        "cumsum": "accelkit.cumulative_sum",
        "dot": "accelkit.vecdot",
        "gather": "accelkit.take_along_axis",
        "manual_seed": "step.init(seed, input_shape), or accelkit.random.key(seed)",
        "mm": "accelkit.matmul",
        "no_grad": "accelkit.grad where a derivative is wanted; nothing is recorded elsewhere",
        "norm": "accelkit.vector_norm",
        "permute": "accelkit.permute_dims",
        "power": "accelkit.pow",
        "rand": "accelkit.random.uniform",
        "randn": "accelkit.random.normal",
        "ravel": "accelkit.flatten",
        "swapaxes": "accelkit.swap_axes",
        "topk": "accelkit.top_k",
        "transpose": "accelkit.permute_dims",
        "unsqueeze": "accelkit.expand_dims",
    },
    "accelkit.losses": {
        "BCEWithLogitsLoss": "losses.BinaryCrossEntropy",
        "BinaryCrossentropy": "losses.BinaryCrossEntropy",
        "CategoricalCrossentropy": "losses.SoftmaxCrossEntropy",
        "CrossEntropy": "losses.SoftmaxCrossEntropy",
        "CrossEntropyLoss": "losses.SoftmaxCrossEntropy",
        "MSELoss": "losses.MeanSquaredError",
        "SparseCategoricalCrossentropy": "losses.SoftmaxCrossEntropy",
    },
    "accelkit.nn": {
        "BCEWithLogitsLoss": "losses.BinaryCrossEntropy",
        "BatchNorm1d": "nn.BatchNorm",
        "BatchNorm2d": "nn.BatchNorm",
        "BatchNormalization": "nn.BatchNorm",
        "Conv2D": "nn.Conv2d",
        "CrossEntropyLoss": "losses.SoftmaxCrossEntropy",
        "Dense": "nn.Linear",
        "LayerNormalization": "nn.LayerNorm",
        "MSELoss": "losses.MeanSquaredError",
        "MaxPooling2D": "nn.MaxPool2d",
        "MultiheadAttention": "nn.MultiHeadAttention",
    },
    "accelkit.optim": {
        "AdamW": "optim.adamw",
        "SGD": "optim.sgd",
        "clip_grad_norm_": "the option clip_norm of an optimizer",
        "ema": "optim.averaged",
    },
}


def missing_from_tensor(name: str) -> str:
    """The message for an attribute that tensors do not have."""
    hint = f" Use {_METHODS[name]}." if name in _METHODS else ""
    return f"A tensor has no attribute {name!r}.{hint}"


def missing_from_module(module: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that a module does not have.

    Args:
        module: Its full name.
        name: What was looked for.
        known: Names of the module, of which the nearest are suggested.
    """
    found = _NAMES[module].get(name)
    if found is not None:
        hint = f" Use {found}."
    else:
        hint = "" if name.startswith("_") else f" {nearest(name, known)}".rstrip()
    return f"module {module!r} has no attribute {name!r}.{hint}"


def refuser(module: str, known: Sequence[str]) -> Callable[[str], NoReturn]:
    """A module's ``__getattr__``, called for names that it does not have."""

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(missing_from_module(module, name, known))

    return __getattr__
