"""Creating, rearranging, cutting, joining and indexing arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from accelkit.dtypes import DType
from accelkit.primitives.shaping import ConstantArray
from accelkit_tensorflow.framework import tf

ops = tf.raw_ops
Shape = tuple[int, ...]


def widen(x: Any) -> Any:
    """Sixteen-bit floats as float32, in which their sums are computed; others as they are."""
    return ops.Cast(x=x, DstT=tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x


def narrow(x: Any, dtype: Any) -> Any:
    """A result of widened operands in their own dtype."""
    return x if x.dtype == dtype else ops.Cast(x=x, DstT=dtype)


def reshape(x: Any, shape: Shape) -> Any:
    """The same elements under another shape."""
    return ops.Reshape(tensor=x, shape=tf.constant(shape, tf.int32))


def scalar(value: bool | int | float, dtype: Any) -> Any:
    """A constant of shape (). By way of NumPy: TensorFlow caches Python's 0.0 for -0.0 too."""
    return tf.constant(np.array(value, tf.as_dtype(dtype).as_numpy_dtype))


def _full(*, shape: Shape, value: bool | int | float, dtype: DType) -> Any:
    return ops.Fill(dims=tf.constant(shape, tf.int32), value=scalar(value, dtype.name))


def _iota(*, shape: Shape, axis: int, dtype: DType) -> Any:
    index = ops.Cast(x=tf.range(shape[axis], dtype=tf.int64), DstT=dtype.name)
    extents = tuple(n if i == axis else 1 for i, n in enumerate(shape))
    return _broadcast_to(reshape(index, extents), shape=shape)


def _constant(*, value: ConstantArray) -> Any:
    return tf.constant(value.array)


def _reshape(x: Any, *, shape: Shape) -> Any:
    return reshape(x, shape)


def _transpose(x: Any, *, permutation: Shape) -> Any:
    return ops.Transpose(x=x, perm=tf.constant(permutation, tf.int32))


def _broadcast_to(x: Any, *, shape: Shape) -> Any:
    return ops.BroadcastTo(input=x, shape=tf.constant(shape, tf.int32))


def _reverse(x: Any, *, axes: Shape) -> Any:
    return ops.ReverseV2(tensor=x, axis=tf.constant(axes, tf.int32))


def slice_(x: Any, *, start: Shape, stop: Shape, step: Shape) -> Any:
    """x[start:stop:step] on every axis."""
    begin, end, strides = (tf.constant(v, tf.int32) for v in (start, stop, step))
    return ops.StridedSlice(input=x, begin=begin, end=end, strides=strides)


def _pad(x: Any, *, low: Shape, high: Shape, interior: Shape, value: int | float) -> Any:
    fill = scalar(value, x.dtype)
    for axis, between in enumerate(interior):
        if between and x.shape[axis] > 1:
            x = _spread(x, axis, between, fill)
    if any(low) or any(high):
        border = tf.constant([*zip(low, high, strict=True)], tf.int32)
        x = ops.PadV2(input=x, paddings=border, constant_values=fill)
    return x


def _spread(x: Any, axis: int, between: int, fill: Any) -> Any:
    """x with ``between`` fills between the elements of one axis."""
    before, extent, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    rows = reshape(x, (math.prod(before) * extent, 1, math.prod(after)))
    border = tf.constant([[0, 0], [0, between], [0, 0]], tf.int32)
    padded = ops.PadV2(input=rows, paddings=border, constant_values=fill)
    spread = reshape(padded, (*before, extent * (between + 1), *after))
    stop = (*before, extent * (between + 1) - between, *after)
    return slice_(spread, start=(0,) * len(stop), stop=stop, step=(1,) * len(stop))


def _concatenate(*arrays: Any, axis: int) -> Any:
    return ops.ConcatV2(values=arrays, axis=tf.constant(axis, tf.int32))


def _index(indices: Any) -> Any:
    known = indices.dtype in (tf.int32, tf.int64)
    return indices if known else ops.Cast(x=indices, DstT=tf.int64)


def _take(x: Any, indices: Any, *, axis: int) -> Any:
    return ops.GatherV2(params=x, indices=_index(indices), axis=tf.constant(axis, tf.int32))


def _take_grad(g: Any, indices: Any, *, axis: int, extent: int) -> Any:
    count = indices.shape.rank
    moved = (*range(axis, axis + count), *range(axis), *range(axis + count, g.shape.rank))
    rest = tuple(g.shape[i] for i in moved[count:])
    rows = _transpose(widen(g), permutation=moved)
    sums = ops.UnsortedSegmentSum(
        data=reshape(rows, (math.prod(indices.shape), *rest)),
        segment_ids=reshape(_index(indices), (-1,)),
        num_segments=tf.constant(extent, tf.int32),
    )
    back = (*range(1, axis + 1), 0, *range(axis + 1, len(rest) + 1))
    return narrow(_transpose(sums, permutation=back), g.dtype)


def _positions(indices: Any, axis: int) -> Any:
    """The full coordinates that indices along one axis stand for: (..., ndim)."""
    index = ops.Cast(x=indices, DstT=tf.int64)
    extents = tuple(indices.shape)
    grids = [
        _broadcast_to(
            reshape(
                tf.range(n, dtype=tf.int64),
                tuple(n if j == i else 1 for j in range(len(extents))),
            ),
            shape=extents,
        )
        for i, n in enumerate(extents)
    ]
    grids[axis] = index
    return ops.Pack(values=grids, axis=len(extents))


def take_along_axis(x: Any, indices: Any, *, axis: int) -> Any:
    """x[..., indices[..., j, ...], ...]."""
    return ops.GatherNd(params=x, indices=_positions(indices, axis))


def _take_along_axis_grad(g: Any, indices: Any, *, axis: int, extent: int) -> Any:
    shape = (*g.shape[:axis], extent, *g.shape[axis + 1 :])
    sums = ops.ScatterNd(
        indices=_positions(indices, axis), updates=widen(g), shape=tf.constant(shape, tf.int64)
    )
    return narrow(sums, g.dtype)


SHAPING: dict[str, Callable[..., Any]] = {
    "full": _full,
    "iota": _iota,
    "constant": _constant,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "reverse": _reverse,
    "slice": slice_,
    "pad": _pad,
    "concatenate": _concatenate,
    "take": _take,
    "take_grad": _take_grad,
    "take_along_axis": take_along_axis,
    "take_along_axis_grad": _take_along_axis_grad,
}
