"""Cases of random numbers: the same bits everywhere."""

from __future__ import annotations

import numpy as np

from accelkit.parity.cases import BITS, CLOSE, Case, cases
from accelkit.parity.source import Shape, Source

_SHAPES: tuple[Shape, ...] = ((5, 7), (9,), (2, 3, 4), (), (1,), (0, 4))
# Elements of a block, blocks within a word, and block counters past 2^32 (elements past 2^34).
_OFFSETS = (0, 1, 6, (1 << 32) - 3, (1 << 32) + 5, (1 << 34) - 9, (1 << 34) + 2, 1 << 40)


def _key(source: Source) -> np.ndarray:
    return source.generator.integers(0, 1 << 32, 2, np.uint64).astype(np.uint32)


@cases("random_keep_mask", only=("float32",))
def random_keep_mask(name: str, source: Source) -> Case:
    """Bits against a threshold."""
    parameters = {
        "shape": source.shape(_SHAPES),
        "rate": source.choose((0.5, 0.0, 0.1, 0.999)),
        "offset": source.choose(_OFFSETS),
    }
    return Case(name, (_key(source),), parameters, comparison=BITS)


@cases("random_uniform", only=("float32", "float64"))
def random_uniform(name: str, source: Source) -> Case:
    """24 or 53 random bits per number."""
    parameters = {
        "shape": source.shape(_SHAPES),
        "dtype": source.dtype,
        "offset": source.choose(_OFFSETS),
    }
    return Case(name, (_key(source),), parameters, comparison=BITS)


@cases("random_normal", only=("float32", "float64"))
def random_normal(name: str, source: Source) -> Case:
    """The same uniforms everywhere, transformed with the device's own functions."""
    parameters = {
        "shape": source.shape(_SHAPES),
        "dtype": source.dtype,
        "offset": source.choose(_OFFSETS),
    }
    # The cosine's argument reaches 2 pi, and its rounding is scaled by a radius of up to 8.
    return Case(
        name, (_key(source),), parameters, comparison=CLOSE, floor=1.0, length=64, widen=False
    )


@cases("dropout")
def dropout(name: str, source: Source) -> Case:
    """The same elements dropped everywhere, and in the derivative."""
    parameters = {
        "rate": source.choose((0.5, 0.0, 0.1)),
        "offset": source.choose(_OFFSETS),
    }
    x = source.normal(source.shape(_SHAPES))
    return Case(name, (x, _key(source)), parameters, comparison=CLOSE, gradients=(0,))
