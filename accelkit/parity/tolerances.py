"""How far two backends may differ: the one table, and the one measure.

The deviation of a tensor ``a`` from its reference ``b`` is ``max|a - b| / max|b|``: relative to
the tensor's norm, not to each element. An element that is the small difference of large terms
carries the rounding of those terms, so elementwise bounds would reject correct programs.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from accelkit import dtypes
from accelkit.dtypes import DType

__all__ = ["TOLERANCES", "TRAINING_BOUNDS", "Tolerance", "TrainingBounds", "deviation", "tolerance"]


class Tolerance(NamedTuple):
    """Largest accepted deviation of one primitive from the float64 reference.

    Attributes:
        value: Of its results.
        gradient: Of its vector-Jacobian product, which takes a few roundings more.
    """

    value: float
    gradient: float


# A handful of roundings each: 8 and 16 units in the last place for the wide types; for the
# narrow ones, whose definitions round after every step, about 4 and 8.
TOLERANCES: Final = {
    "float64": Tolerance(value=2e-15, gradient=4e-15),
    "float32": Tolerance(value=1e-6, gradient=2e-6),
    "float16": Tolerance(value=4e-3, gradient=8e-3),
    "bfloat16": Tolerance(value=3e-2, gradient=6e-2),
}


class TrainingBounds(NamedTuple):
    """Largest accepted deviations from the float64 oracle in a training run.

    Attributes:
        losses: Of every step's loss, on the oracle's branches, and of a free run's loss until its
            branches differ from the oracle's.
        gradients: Of one step's gradients, from the oracle's state, on its branches.
        weights: Of the weights after the last step, on the oracle's branches; None where they are
            reported, not bounded.
    """

    losses: float
    gradients: float
    weights: float | None


TRAINING_BOUNDS: Final = {
    "float32": TrainingBounds(losses=1e-5, gradients=1e-5, weights=None),
    "float64": TrainingBounds(losses=1e-10, gradients=1e-10, weights=1e-10),
}


def tolerance(dtype: DType, *, gradient: bool, length: int = 1) -> float:
    """The accepted deviation for results of ``dtype``.

    Args:
        dtype: Of the operands; integers and bools have none.
        gradient: Whether the results are cotangents.
        length: Number of terms that one element sums. The rounding errors of a sum of n terms,
            relative to its size, grow like sqrt(n) (Higham, *Accuracy and Stability of Numerical
            Algorithms*, section 4.2).
    """
    if not dtype.is_floating:
        return 0.0
    entry = TOLERANCES[dtype.name]
    return (entry.gradient if gradient else entry.value) * math.sqrt(max(length, 1))


def deviation(found: np.ndarray, wanted: np.ndarray, *, floor: float = 0.0) -> float:
    """``max|found - wanted| / max(max|wanted|, floor)``; infinite where NaN or infinities differ.

    Args:
        found: Any floating dtype.
        wanted: The reference, float64 or as ``found``; it is rounded to the range of ``found``
            first, so that what overflows there must be infinite.
        floor: Size of the terms of which ``wanted`` is the sum, where they may cancel.

    Subnormal numbers count as zero: some devices flush them.
    """
    tiny = float(dtypes.dtype(found.dtype).is_floating and smallest_normal(found.dtype))
    a = found.astype(np.float64)
    with np.errstate(over="ignore"):
        b = wanted.astype(found.dtype).astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return math.inf
    a, b = a[finite], wanted.astype(np.float64)[finite]
    if not np.isfinite(a).all():
        return math.inf
    if not a.size:
        return 0.0
    a = np.where(np.abs(a) < tiny, 0.0, a)
    b = np.where(np.abs(b) < tiny, 0.0, b)
    difference = float(np.max(np.abs(a - b)))
    norm = max(float(np.max(np.abs(b))), floor)
    return 0.0 if difference <= tiny else (difference / norm if norm else math.inf)


def smallest_normal(dtype: np.dtype) -> float:
    """The smallest normal number of a floating dtype, bfloat16 included."""
    if dtype.kind == "V" or dtypes.dtype(dtype) is dtypes.bfloat16:
        return float(np.finfo(np.float32).tiny)  # bfloat16 has float32's exponents
    return float(np.finfo(dtype).tiny)
