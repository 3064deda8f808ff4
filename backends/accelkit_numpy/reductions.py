"""Reductions, scans, sorting, and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from accelkit_numpy.precision import widen_half

Axes = tuple[int, ...]


def _reduce_sum(x: Any, *, axes: Axes) -> Any:
    # Over no axes NumPy adds 0, which changes the sign of -0.0.
    return np.sum(x, axis=axes, dtype=x.dtype) if axes else x


def _reduce_product(x: Any, *, axes: Axes) -> Any:
    return np.prod(x, axis=axes, dtype=x.dtype)


def _reduce_max(x: Any, *, axes: Axes) -> Any:
    return np.max(x, axis=axes)


def _reduce_min(x: Any, *, axes: Axes) -> Any:
    return np.min(x, axis=axes)


def _reduce_any(x: Any, *, axes: Axes) -> Any:
    return np.any(x, axis=axes)


def _reduce_all(x: Any, *, axes: Axes) -> Any:
    return np.all(x, axis=axes)


def _argmax(x: Any, *, axis: int) -> Any:
    return np.argmax(x, axis=axis).astype(np.int64)


def _argmin(x: Any, *, axis: int) -> Any:
    return np.argmin(x, axis=axis).astype(np.int64)


def _cumulative_sum(x: Any, *, axis: int) -> Any:
    return np.cumsum(x, axis=axis, dtype=x.dtype)


def _argsort(x: Any, *, axis: int, descending: bool) -> Any:
    if not descending:
        return np.argsort(x, axis=axis, kind="stable").astype(np.int64)
    # Sorting backwards what is then read backwards keeps the order of equal elements.
    order = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
    return (x.shape[axis] - 1) - np.flip(order, axis).astype(np.int64)


def _sort(x: Any, *, axis: int, descending: bool) -> Any:
    return np.take_along_axis(x, _argsort(x, axis=axis, descending=descending), axis)


def _matmul(a: Any, b: Any, *, transpose_a: bool, transpose_b: bool) -> Any:
    return np.matmul(
        a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b
    )


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": widen_half(_reduce_sum),
    "reduce_product": widen_half(_reduce_product),
    "reduce_max": widen_half(_reduce_max),
    "reduce_min": widen_half(_reduce_min),
    "reduce_any": _reduce_any,
    "reduce_all": _reduce_all,
    "argmax": widen_half(_argmax),
    "argmin": widen_half(_argmin),
    "cumulative_sum": widen_half(_cumulative_sum),
    "argsort": widen_half(_argsort),
    "sort": widen_half(_sort),
    "matmul": widen_half(_matmul),
}
