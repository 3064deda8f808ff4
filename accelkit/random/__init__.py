"""Random numbers: Philox4x32-10 streams, the same bits on every backend and machine."""

from typing import TYPE_CHECKING

from accelkit.foreign_names import refuser
from accelkit.random.arguments import Key
from accelkit.random.blocks import philox4x32, philox4x32_block
from accelkit.random.normals import random_normal
from accelkit.random.philox import (
    keep_threshold,
    random_bits,
    random_keep_mask,
    random_uniform,
    subkey,
)
from accelkit.random.stream import (
    Stream,
    bernoulli,
    categorical,
    integers,
    key,
    normal,
    uniform,
)

__all__ = [
    "Key",
    "Stream",
    "bernoulli",
    "categorical",
    "integers",
    "keep_threshold",
    "key",
    "normal",
    "philox4x32",
    "philox4x32_block",
    "random_bits",
    "random_keep_mask",
    "random_normal",
    "random_uniform",
    "subkey",
    "uniform",
]

if not TYPE_CHECKING:  # type checkers know what names there are
    __getattr__ = refuser(__name__, __all__)
