"""The table of primitives: everything that a backend can be asked to compute.

``PRIMITIVES`` maps names to declarations; :func:`primitive` adds one of your own.
"""

from accelkit.primitives import (
    bookkeeping,
    control,
    convolution,
    elementwise,
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
    "bookkeeping",
    "control",
    "convolution",
    "elementwise",
    "get",
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
