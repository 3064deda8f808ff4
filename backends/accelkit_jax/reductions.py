"""Reductions, scans along an axis, sorting, and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from accelkit_jax.elementwise import is_float, number
from accelkit_jax.shaping import accumulation_dtype

Axes = tuple[int, ...]


def _lowest(x: Any) -> Any:
    return -jnp.inf if is_float(x) else jnp.iinfo(x.dtype).min


def _highest(x: Any) -> Any:
    return jnp.inf if is_float(x) else jnp.iinfo(x.dtype).max


def _fold(x: Any, initial: Any, combine: Callable[..., Any], axes: Axes) -> Any:
    return lax.reduce(x, number(initial, x), combine, axes)


def _reduce_sum(x: Any, *, axes: Axes) -> Any:
    wide = x.astype(accumulation_dtype(x.dtype))
    return _fold(wide, 0, lax.add, axes).astype(x.dtype)


def _reduce_product(x: Any, *, axes: Axes) -> Any:
    wide = x.astype(accumulation_dtype(x.dtype))
    return _fold(wide, 1, lax.mul, axes).astype(x.dtype)


def _reduce_max(x: Any, *, axes: Axes) -> Any:
    return _fold(x, _lowest(x), lax.max, axes)


def _reduce_min(x: Any, *, axes: Axes) -> Any:
    return _fold(x, _highest(x), lax.min, axes)


def _reduce_any(x: Any, *, axes: Axes) -> Any:
    return _fold(x, False, lax.bitwise_or, axes)


def _reduce_all(x: Any, *, axes: Axes) -> Any:
    return _fold(x, True, lax.bitwise_and, axes)


def _argmax(x: Any, *, axis: int) -> Any:
    return lax.argmax(x, axis, jnp.int64)


def _argmin(x: Any, *, axis: int) -> Any:
    return lax.argmin(x, axis, jnp.int64)


def _cumulative_sum(x: Any, *, axis: int) -> Any:
    wide = x.astype(accumulation_dtype(x.dtype))
    return lax.cumsum(wide, axis).astype(x.dtype)


def _argsort(x: Any, *, axis: int, descending: bool) -> Any:
    order = jnp.argsort(x, axis=axis, stable=True, descending=descending)
    return order.astype(jnp.int64)


def _sort(x: Any, *, axis: int, descending: bool) -> Any:
    return jnp.sort(x, axis=axis, stable=True, descending=descending)


def matmul(
    a: Any,
    b: Any,
    *,
    transpose_a: bool,
    transpose_b: bool,
    precision: lax.Precision = lax.Precision.HIGHEST,
) -> Any:
    """op(a) @ op(b) over equal leading axes."""
    batch = tuple(range(a.ndim - 2))
    contracted_a = a.ndim - 2 if transpose_a else a.ndim - 1
    contracted_b = b.ndim - 1 if transpose_b else b.ndim - 2
    product = lax.dot_general(
        a,
        b,
        (((contracted_a,), (contracted_b,)), (batch, batch)),
        precision=precision,
        preferred_element_type=accumulation_dtype(a.dtype),
    )
    return product.astype(a.dtype)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": _reduce_sum,
    "reduce_product": _reduce_product,
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_min,
    "reduce_any": _reduce_any,
    "reduce_all": _reduce_all,
    "argmax": _argmax,
    "argmin": _argmin,
    "cumulative_sum": _cumulative_sum,
    "argsort": _argsort,
    "sort": _sort,
    "matmul": matmul,
}
