"""Creating, rearranging, cutting, joining and indexing arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from accelkit.dtypes import DType
from accelkit.primitives.shaping import ConstantArray
from accelkit_numpy.precision import widen_half

Shape = tuple[int, ...]


def _full(*, shape: Shape, value: bool | int | float, dtype: DType) -> Any:
    return np.full(shape, value, dtype.numpy)


def _iota(*, shape: Shape, axis: int, dtype: DType) -> Any:
    extents = [1] * len(shape)
    extents[axis] = shape[axis]
    index = np.arange(shape[axis]).astype(dtype.numpy)
    return np.broadcast_to(index.reshape(extents), shape)


def _constant(*, value: ConstantArray) -> Any:
    return value.array


def _reshape(x: Any, *, shape: Shape) -> Any:
    return x.reshape(shape)


def _transpose(x: Any, *, permutation: Shape) -> Any:
    return x.transpose(permutation)


def _broadcast_to(x: Any, *, shape: Shape) -> Any:
    return np.broadcast_to(x, shape)


def _reverse(x: Any, *, axes: Shape) -> Any:
    return np.flip(x, axes)


def _slice(x: Any, *, start: Shape, stop: Shape, step: Shape) -> Any:
    return x[tuple(map(slice, start, stop, step))]


def _pad(x: Any, *, low: Shape, high: Shape, interior: Shape, value: int | float) -> Any:
    shape, inner = [], []
    for extent, a, b, i in zip(x.shape, low, high, interior, strict=True):
        covered = extent + max(extent - 1, 0) * i
        shape.append(a + covered + b)
        inner.append(slice(a, a + covered, i + 1))
    result = np.full(shape, value, x.dtype)
    result[tuple(inner)] = x
    return result


def _concatenate(*arrays: Any, axis: int) -> Any:
    return np.concatenate(arrays, axis)


def _take(x: Any, indices: Any, *, axis: int) -> Any:
    return np.take(x, indices, axis)


def _take_grad(g: Any, indices: Any, *, axis: int, extent: int) -> Any:
    rest_after = g.shape[axis + indices.ndim :]
    result = np.zeros((*g.shape[:axis], extent, *rest_after), g.dtype)
    where = (*(slice(None),) * axis, indices)
    np.add.at(result, where, g)
    return result


def _take_along_axis(x: Any, indices: Any, *, axis: int) -> Any:
    return np.take_along_axis(x, indices, axis)


def _take_along_axis_grad(g: Any, indices: Any, *, axis: int, extent: int) -> Any:
    result = np.zeros((*g.shape[:axis], extent, *g.shape[axis + 1 :]), g.dtype)
    where = list(np.ogrid[tuple(map(slice, g.shape))])
    where[axis] = indices
    np.add.at(result, tuple(where), g)
    return result


SHAPING: dict[str, Callable[..., Any]] = {
    "full": _full,
    "iota": _iota,
    "constant": _constant,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "reverse": _reverse,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "take": _take,
    "take_grad": widen_half(_take_grad),
    "take_along_axis": _take_along_axis,
    "take_along_axis_grad": widen_half(_take_along_axis_grad),
}
