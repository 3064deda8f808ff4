"""Random numbers: Philox4x32-10 streams, the same bits on every backend and machine."""

from accelkit.random.arguments import Key
from accelkit.random.normals import random_normal
from accelkit.random.philox import (
    keep_threshold,
    philox4x32,
    philox4x32_block,
    random_bits,
    random_keep_mask,
    random_uniform,
    subkey,
)
from accelkit.random.stream import Stream, key, normal, uniform

__all__ = [
    "Key",
    "Stream",
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
