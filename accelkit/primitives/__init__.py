"""The table of primitives: everything that a backend can be asked to compute.

``PRIMITIVES`` maps names to declarations; :func:`primitive` adds one of your own.
"""

from accelkit.primitives import (
    activations,
    batch_normalization,
    bookkeeping,
    control,
    convolution,
    elementwise,
    layer_normalization,
    linear_algebra,
    normalization,
    optimizer,
    pooling,
    random,
    reductions,
    scheduling,
    shaping,
)
from accelkit.primitives.primitive import PRIMITIVES, Primitive, get, primitive

__all__ = [
    "PRIMITIVES",
    "Primitive",
    "activations",
    "batch_normalization",
    "bookkeeping",
    "control",
    "convolution",
    "elementwise",
    "get",
    "layer_normalization",
    "linear_algebra",
    "normalization",
    "optimizer",
    "pooling",
    "primitive",
    "random",
    "reductions",
    "scheduling",
    "shaping",
]
