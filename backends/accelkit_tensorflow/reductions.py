"""Reductions, scans along an axis, sorting, and matrix products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from accelkit_tensorflow.elementwise import is_nan, number
from accelkit_tensorflow.framework import tf
from accelkit_tensorflow.shaping import narrow, take_along_axis, widen

ops = tf.raw_ops
Axes = tuple[int, ...]


def _axes(axes: Axes | int) -> Any:
    """The axes as a tensor, made once where operations run at once: that takes as long as a sum."""
    return _constant(axes) if tf.executing_eagerly() else tf.constant(axes, tf.int32)


@functools.lru_cache(maxsize=1024)
def _constant(axes: Axes | int) -> Any:
    return tf.constant(axes, tf.int32)


def _sum(operation: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, *, axes: Axes) -> Any:
        return narrow(operation(input=widen(x), axis=_axes(axes)), x.dtype)

    return run


def _extremum(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A maximum or minimum that NaN wins: XLA drops it as TensorFlow configures it for CPUs."""

    def run(x: Any, *, axes: Axes) -> Any:
        found = operation(input=x, axis=_axes(axes))
        if not x.dtype.is_floating:
            return found
        unknown = ops.Any(input=is_nan(x), axis=_axes(axes))
        return ops.SelectV2(condition=unknown, t=number(float("nan"), x), e=found)

    return run


def _logical(operation: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, *, axes: Axes) -> Any:
        return operation(input=x, axis=_axes(axes))

    return run


def _position(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Index of the first extremum along an axis, the first NaN counting as one."""

    def run(x: Any, *, axis: int) -> Any:
        dimension = _axes(axis)
        found = operation(input=x, dimension=dimension, output_type=tf.int64)
        if not x.dtype.is_floating:
            return found
        nans = is_nan(x)
        first = ops.ArgMax(
            input=ops.Cast(x=nans, DstT=tf.int32), dimension=dimension, output_type=tf.int64
        )
        unknown = ops.Any(input=nans, axis=dimension)
        return ops.SelectV2(condition=unknown, t=first, e=found)

    return run


# XLA has no sums along an axis or products of some integers. They are exact modulo a power of
# two, so a wider or signed type gives the same bits.
_SUMMED_AS = {
    tf.int8: tf.int32,
    tf.int16: tf.int32,
    tf.uint8: tf.int32,
    tf.uint16: tf.int32,
    tf.uint32: tf.int32,
    tf.uint64: tf.int64,
}


def _cumulative_sum(x: Any, *, axis: int) -> Any:
    summed = narrow(widen(x), _SUMMED_AS.get(x.dtype, widen(x).dtype))
    return narrow(ops.Cumsum(x=summed, axis=_axes(axis)), x.dtype)


_SORTED_AS = {
    tf.bool: tf.int32,
    tf.int8: tf.int32,
    tf.int16: tf.int32,
    tf.uint8: tf.int32,
    tf.uint16: tf.int32,
    tf.uint32: tf.int64,
    tf.float16: tf.float32,
    tf.bfloat16: tf.float32,
}


def _sort_key(x: Any) -> Any:
    """Numbers in the order of ``x``, of a type that TensorFlow and XLA sort."""
    if x.dtype == tf.uint64:
        signed = ops.Bitcast(input=x, type=tf.int64)
        return ops.BitwiseXor(x=signed, y=tf.constant(tf.int64.min, tf.int64))
    key = narrow(x, _SORTED_AS.get(x.dtype, x.dtype))
    return _bits_in_order(key) if key.dtype.is_floating else key


def _bits_in_order(x: Any) -> Any:
    """Integers in the order of floats with NaN as the greatest; floats sort wrongly beside NaN.

    The bits of positive floats are in order; those of negative ones are, once all but the sign are
    inverted.
    """
    kind, places = (tf.int64, 63) if x.dtype == tf.float64 else (tf.int32, 31)
    zero = tf.zeros((), x.dtype)
    bits = ops.Bitcast(input=tf.where(x == zero, zero, x), type=kind)  # -0.0 and 0.0 are equal
    greatest = tf.constant(kind.max, kind)
    negative = ops.RightShift(x=bits, y=tf.constant(places, kind))  # all ones, else zero
    key = ops.BitwiseXor(x=bits, y=ops.BitwiseAnd(x=negative, y=greatest))
    return tf.where(x == x, key, greatest)


def _argsort(x: Any, *, axis: int, descending: bool) -> Any:
    direction = "DESCENDING" if descending else "ASCENDING"
    order = tf.argsort(_sort_key(x), axis=axis, direction=direction, stable=True)
    return ops.Cast(x=order, DstT=tf.int64)


def _sort(x: Any, *, axis: int, descending: bool) -> Any:
    return take_along_axis(x, _argsort(x, axis=axis, descending=descending), axis=axis)


def _matmul(a: Any, b: Any, *, transpose_a: bool, transpose_b: bool) -> Any:
    computed = _SUMMED_AS.get(a.dtype)
    if computed is not None:
        x, y = narrow(a, computed), narrow(b, computed)
        found = _matmul(x, y, transpose_a=transpose_a, transpose_b=transpose_b)
        return narrow(found, a.dtype)
    if a.shape.rank == 2:
        return ops.MatMul(a=a, b=b, transpose_a=transpose_a, transpose_b=transpose_b)
    return ops.BatchMatMulV2(x=a, y=b, adj_x=transpose_a, adj_y=transpose_b)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": _sum(ops.Sum),
    "reduce_product": _sum(ops.Prod),
    "reduce_max": _extremum(ops.Max),
    "reduce_min": _extremum(ops.Min),
    "reduce_any": _logical(ops.Any),
    "reduce_all": _logical(ops.All),
    "argmax": _position(ops.ArgMax),
    "argmin": _position(ops.ArgMin),
    "cumulative_sum": _cumulative_sum,
    "argsort": _argsort,
    "sort": _sort,
    "matmul": _matmul,
}
