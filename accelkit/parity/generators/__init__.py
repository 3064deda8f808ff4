"""Case generators of every primitive of the core, by the modules that declare them."""

from accelkit.parity.generators import (
    bookkeeping,
    control,
    elementwise,
    normalization,
    pooling,
    products,
    random,
    reductions,
    scheduling,
    shaping,
)

__all__ = [
    "bookkeeping",
    "control",
    "elementwise",
    "normalization",
    "pooling",
    "products",
    "random",
    "reductions",
    "scheduling",
    "shaping",
]
