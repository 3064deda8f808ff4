"""Creating, rearranging, cutting, joining and indexing arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from accelkit.dtypes import DType
from accelkit.primitives.shaping import ConstantArray
from accelkit_jax.elementwise import broadcast_to, number

Shape = tuple[int, ...]


def accumulation_dtype(dtype: Any) -> Any:
    """What sums of ``dtype`` are computed in: float32 for the 16-bit floats."""
    return jnp.float32 if dtype in (jnp.float16, jnp.bfloat16) else dtype


def _full(*, shape: Shape, value: bool | int | float, dtype: DType) -> Any:
    return lax.full(shape, value, dtype.numpy)


def _iota(*, shape: Shape, axis: int, dtype: DType) -> Any:
    return lax.broadcasted_iota(dtype.numpy, shape, axis)


def _constant(*, value: ConstantArray) -> Any:
    return jnp.asarray(value.array)


def _reshape(x: Any, *, shape: Shape) -> Any:
    return lax.reshape(x, shape)


def _transpose(x: Any, *, permutation: Shape) -> Any:
    return lax.transpose(x, permutation)


def _broadcast_to(x: Any, *, shape: Shape) -> Any:
    return broadcast_to(x, shape)


def _reverse(x: Any, *, axes: Shape) -> Any:
    return lax.rev(x, axes)


def _slice(x: Any, *, start: Shape, stop: Shape, step: Shape) -> Any:
    return lax.slice(x, start, stop, step)


def _pad(x: Any, *, low: Shape, high: Shape, interior: Shape, value: int | float) -> Any:
    return lax.pad(x, number(value, x), list(zip(low, high, interior, strict=True)))


def _concatenate(*arrays: Any, axis: int) -> Any:
    return lax.concatenate(arrays, axis)


def _take(x: Any, indices: Any, *, axis: int) -> Any:
    return jnp.take(x, indices, axis, mode="clip")


def _take_grad(g: Any, indices: Any, *, axis: int, extent: int) -> Any:
    shape = (*g.shape[:axis], extent, *g.shape[axis + indices.ndim :])
    where = (*(slice(None),) * axis, indices)
    return _scatter_add(g, shape, where)


def _take_along_axis(x: Any, indices: Any, *, axis: int) -> Any:
    return jnp.take_along_axis(x, indices, axis, mode="clip")


def _take_along_axis_grad(g: Any, indices: Any, *, axis: int, extent: int) -> Any:
    shape = (*g.shape[:axis], extent, *g.shape[axis + 1 :])
    where = [lax.broadcasted_iota(indices.dtype, g.shape, i) for i in range(g.ndim)]
    where[axis] = indices
    return _scatter_add(g, shape, tuple(where))


def _scatter_add(g: Any, shape: Shape, where: tuple[Any, ...]) -> Any:
    wide = accumulation_dtype(g.dtype)
    zeros = lax.full(shape, 0, wide)
    total = zeros.at[where].add(g.astype(wide), mode="drop")
    return total.astype(g.dtype)


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
    "take_grad": _take_grad,
    "take_along_axis": _take_along_axis,
    "take_along_axis_grad": _take_along_axis_grad,
}
