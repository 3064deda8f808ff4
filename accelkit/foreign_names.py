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
_NO_GRAD = "accelkit.grad where a derivative is wanted; nothing is recorded elsewhere"
_JACOBIAN = "accelkit.vjp, once for each row of the identity as the cotangent"
_OWN_CELL = "accelkit.scan over a cell of your own, in a module's forward"
_SCATTER = "accelkit.one_hot(indices, count), transposed, @ values, which adds; or accelkit.where"
_OWN_LOSS = "a subclass of losses.Loss, whose __call__ gives one number per sample"
_OWN_OPTIMIZER = "a subclass of optim.Optimizer"
_NAMES = {
    "accelkit": {
        "Parameter": "scope.parameter(name, shape, initializer) in a module's forward",
        "Variable": "accelkit.asarray",
        "absolute": "accelkit.abs",
        "amax": "accelkit.max",
        "amin": "accelkit.min",
        "arccos": "accelkit.acos",
        "arcsin": "accelkit.asin",
        "arctan": "accelkit.atan",
        "arctan2": "accelkit.atan2",
        "argwhere": "accelkit.nonzero",
        "array": "accelkit.asarray",
        "as_tensor": "accelkit.asarray",
        "bmm": "accelkit.matmul",
        "cat": "accelkit.concat",
        "chunk": "accelkit.split",
        "clamp": "accelkit.clip",
        "compile": "accelkit.jit",
        "concatenate": "accelkit.concat",
        "convert_to_tensor": "accelkit.asarray",
        "cross_entropy": "accelkit.softmax_cross_entropy",
        "cumprod": "accelkit.cumulative_prod",
        "cumsum": "accelkit.cumulative_sum",
        "dot": "accelkit.vecdot",
        "eval_shape": "accelkit.trace",
        "fori_loop": "accelkit.scan",
        "from_numpy": "accelkit.asarray",
        "gather": "accelkit.take_along_axis",
        "index_select": "accelkit.take",
        "inference_mode": _NO_GRAD,
        "jacfwd": _JACOBIAN,
        "jacobian": _JACOBIAN,
        "jacrev": _JACOBIAN,
        "jvp": "accelkit.vjp twice: the vjp of a vjp, taken at any cotangent, is the jvp",
        "load": "accelkit.checkpoint.load_checkpoint, or restore_state for a training state",
        "make_jaxpr": "accelkit.trace",
        "manual_seed": "step.init(seed, input_shape), or accelkit.random.key(seed)",
        "mm": "accelkit.matmul",
        "no_grad": _NO_GRAD,
        "norm": "accelkit.vector_norm",
        "outer": "x[:, None] * y",
        "permute": "accelkit.permute_dims",
        "power": "accelkit.pow",
        "rand": "accelkit.random.uniform",
        "randn": "accelkit.random.normal",
        "ravel": "accelkit.flatten",
        "remat": "the option remat of train.TrainStep",
        "save": "accelkit.checkpoint.CheckpointManager, and save_state for a training state",
        "scaled_dot_product_attention": "nn.MultiHeadAttention",
        "scatter": _SCATTER,
        "scatter_add": _SCATTER,
        "segment_sum": _SCATTER,
        "set_default_device": "accelkit.default_device(device), in a `with` block",
        "swapaxes": "accelkit.swap_axes",
        "tensor": "accelkit.asarray",
        "topk": "accelkit.top_k",
        "transpose": "accelkit.permute_dims",
        "tree_map": "accelkit.tree.map",
        "unique": "accelkit.unique_values",
        "unsqueeze": "accelkit.expand_dims",
        "vmap": "a batch axis in front: operations broadcast over it, and matmul takes stacks",
        "while_loop": "accelkit.scan for a known number of steps, or a Python loop around a jit",
    },
    "accelkit.data": {
        "DataLoader": "data.Loader",
        "Dataset": "data.SequenceSource of anything with __len__ and __getitem__",
        "TensorDataset": "data.ArraySource",
    },
    "accelkit.losses": {
        "BCEWithLogitsLoss": "losses.BinaryCrossEntropy",
        "BinaryCrossentropy": "losses.BinaryCrossEntropy",
        "CategoricalCrossentropy": "losses.SoftmaxCrossEntropy",
        "CrossEntropy": "losses.SoftmaxCrossEntropy",
        "CrossEntropyLoss": "losses.SoftmaxCrossEntropy",
        "HuberLoss": _OWN_LOSS,
        "L1Loss": _OWN_LOSS,
        "MSELoss": "losses.MeanSquaredError",
        "NLLLoss": "losses.SoftmaxCrossEntropy, of logits",
        "SparseCategoricalCrossentropy": "losses.SoftmaxCrossEntropy",
    },
    "accelkit.metrics": {
        "Accuracy": "metrics.TopKAccuracy(1)",
        "SparseCategoricalAccuracy": "metrics.TopKAccuracy(1)",
    },
    "accelkit.nn": {
        "BCEWithLogitsLoss": "losses.BinaryCrossEntropy",
        "BatchNorm1d": "nn.BatchNorm",
        "BatchNorm2d": "nn.BatchNorm",
        "BatchNormalization": "nn.BatchNorm",
        "Conv2D": "nn.Conv2d",
        "CrossEntropyLoss": "losses.SoftmaxCrossEntropy",
        "Dense": "nn.Linear",
        "GRU": _OWN_CELL,
        "Identity": "nn.Function(lambda x: x)",
        "LSTM": _OWN_CELL,
        "LayerNormalization": "nn.LayerNorm",
        "MSELoss": "losses.MeanSquaredError",
        "MaxPooling2D": "nn.MaxPool2d",
        "ModuleDict": "a dict as a field: forward runs each by scope.run(name, layer, x)",
        "ModuleList": "a tuple as a field: forward runs each by scope.run(name, layer, x)",
        "MultiheadAttention": "nn.MultiHeadAttention",
        "Parameter": "scope.parameter(name, shape, initializer) in forward",
        "RNN": _OWN_CELL,
        "functional": "the functions of accelkit itself, such as accelkit.relu",
        "init": "the initializers of nn, such as nn.he_normal",
    },
    "accelkit.optim": {
        "AdamW": "optim.adamw",
        "RMSprop": _OWN_OPTIMIZER,
        "SGD": "optim.sgd",
        "apply_updates": "optimizer.apply(parameters, gradients, slots, numbers)",
        "clip_grad_norm_": "the option clip_norm of an optimizer, or clip_by_global_norm",
        "ema": "optim.averaged",
        "lr_scheduler": "optim.StepSchedule, CosineSchedule, WarmUp, or any function of the step",
    },
    "accelkit.train": {
        "Trainer": "train.TrainStep in a loop, or `python -m accelkit.train`",
        "fit": "train.TrainStep in a loop, or `python -m accelkit.train`",
    },
    "accelkit.random": {
        "PRNGKey": "random.key(seed)",
        "choice": "random.integers, or random.categorical for given probabilities",
        "fold_in": "random.key(seed, step=...), or random.Stream(key).key(path)",
        "gumbel": "-log(-log(random.uniform(key, shape)))",
        "permutation": "accelkit.argsort(random.uniform(key, (count,)))",
        "rand": "random.uniform(key, shape)",
        "randint": "random.integers(key, shape, low=..., high=...)",
        "randn": "random.normal(key, shape)",
        "seed": "random.key(seed): every draw takes a key",
        "shuffle": "accelkit.argsort(random.uniform(key, (count,)))",
        "split": "random.Stream(key), whose key() is another one at each call",
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
    found = _NAMES.get(module, {}).get(name)
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
