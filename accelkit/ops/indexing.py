"""Indexing: slices, integers, new axes, integer tensors, masks."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from accelkit import dtypes
from accelkit.errors import DTypeError, OptionError, ShapeError
from accelkit.ops.coercion import as_axis, asarray, scalar_like, tensor
from accelkit.ops.manipulation import broadcast_arrays, permute_dims, reshape
from accelkit.primitives import elementwise, shaping
from accelkit.tensor import Tensor


def getitem(x: Tensor, key: Any) -> Tensor:
    """x[key], for every kind of key in the standard: see there.

    Integer tensors must be in range (negative ones count from the end): a device cannot check
    them without waiting. A bool mask needs its data, so not while tracing.
    """
    x = tensor(x)
    parts = list(key) if isinstance(key, tuple) else [key]
    parts = [_normal(part) for part in parts]
    consumed = sum(_axes_of(part) for part in parts)
    if consumed > x.ndim:
        raise ShapeError(f"{consumed} indices for a tensor of shape {x.shape}.")
    fill = [slice(None)] * (x.ndim - consumed)
    if Ellipsis in [p for p in parts if not isinstance(p, Tensor)]:
        position = next(i for i, p in enumerate(parts) if p is Ellipsis)
        parts[position : position + 1] = fill
        if any(p is Ellipsis for p in parts):
            raise OptionError("An index holds at most one Ellipsis.")
    else:
        parts += fill
    parts = _expand_masks(parts)
    x, rest = _basic(x, parts)
    return _advanced(x, rest) if any(isinstance(p, Tensor) for p in rest) else x


def _normal(part: Any) -> Any:
    if part is None or part is Ellipsis or isinstance(part, slice | Tensor):
        return part
    if isinstance(part, np.ndarray | list):
        return asarray(part)
    if isinstance(part, bool | np.bool_):
        raise DTypeError("Index with a bool tensor; Python bools are not supported.")
    try:
        return operator.index(part)
    except TypeError:
        raise DTypeError(
            f"Cannot index with {type(part).__name__}. Use integers, slices, None, ..., or "
            f"integer or bool tensors."
        ) from None


def _axes_of(part: Any) -> int:
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, Tensor) and part.dtype is dtypes.bool_ else 1


def _expand_masks(parts: list[Any]) -> list[Any]:
    result: list[Any] = []
    for part in parts:
        if isinstance(part, Tensor) and part.dtype is dtypes.bool_:
            part._require_data("Indexing with a mask")
            found = np.nonzero(part.numpy())
            result += [asarray(index.astype(np.int64), device=part.device) for index in found]
        else:
            result.append(part)
    return result


def _basic(x: Tensor, parts: list[Any]) -> tuple[Tensor, list[Any]]:
    """Apply slices, integers and new axes; integer tensors remain, one entry per axis."""
    start, stop, step, flipped, shape, rest = [], [], [], [], [], []
    axis = 0
    for part in parts:
        if part is None:
            shape.append(1)
            rest.append(slice(None))
            continue
        extent = x.shape[axis]
        if isinstance(part, int):
            if not -extent <= part < extent:
                raise IndexError(
                    f"Index {part} is out of range for axis {axis} of shape {x.shape}."
                )
            low, high, stride = part % extent, part % extent + 1, 1
        elif isinstance(part, slice):
            low, high, stride, reverse = _forward(part, extent)
            if reverse:
                flipped.append(axis)
            shape.append(-(-(high - low) // stride))
            rest.append(slice(None))
        else:
            low, high, stride = 0, extent, 1
            shape.append(extent)
            rest.append(part)
        start.append(low)
        stop.append(high)
        step.append(stride)
        axis += 1
    if tuple(start) != (0,) * x.ndim or tuple(stop) != x.shape or any(s != 1 for s in step):
        x = shaping.slice_(x, start=tuple(start), stop=tuple(stop), step=tuple(step))
    if flipped:
        x = shaping.reverse(x, axes=tuple(flipped))
    return reshape(x, tuple(shape)), rest


def _forward(part: slice, extent: int) -> tuple[int, int, int, bool]:
    """A slice as 0 <= low <= high <= extent with a positive step, and whether to flip it."""
    low, high, step = part.indices(extent)
    if step > 0:
        return low, max(low, high), step, False
    count = max(0, math.ceil((low - high) / -step))
    if count == 0:
        return 0, 0, 1, False
    return low + (count - 1) * step, low + 1, -step, True


def _advanced(x: Tensor, parts: list[Any]) -> Tensor:
    """Integer tensors: broadcast together, then one lookup in the joined axes."""
    axes = [i for i, part in enumerate(parts) if isinstance(part, Tensor)]
    for part in (parts[i] for i in axes):
        if not part.dtype.is_integer:
            raise DTypeError(f"Index with an integer or bool tensor, got {part.dtype}.")
    together = axes == list(range(axes[0], axes[-1] + 1))
    if not together:
        order = [*axes, *(i for i in range(x.ndim) if i not in axes)]
        x, parts = permute_dims(x, order), [parts[i] for i in order]
        axes = list(range(len(axes)))
    first, count = axes[0], len(axes)
    indices = broadcast_arrays(*(parts[i] for i in axes))
    extents = x.shape[first : first + count]
    flat: Tensor | None = None
    for index, extent in zip(indices, extents, strict=True):
        wrapped = _wrapped(elementwise.cast(index, dtype=dtypes.int64), extent)
        flat = wrapped if flat is None else flat * extent + wrapped
    joined = reshape(x, (*x.shape[:first], math.prod(extents), *x.shape[first + count :]))
    return shaping.take(joined, flat, axis=first)


def _wrapped(index: Tensor, extent: int) -> Tensor:
    """Negative indices counted from the end."""
    if index.dtype.kind == "u":
        return index
    negative = elementwise.less(index, scalar_like(0, index))
    return elementwise.select(negative, index + extent, index)


def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
    """The elements of x at integer indices along one axis (the only one if axis is None)."""
    x, i = tensor(x), tensor(indices)
    if axis is None and x.ndim != 1:
        raise ShapeError(f"take needs an axis for a tensor of shape {x.shape}.")
    position = as_axis(0 if axis is None else axis, x.ndim)
    return shaping.take(x, _wrapped(i, x.shape[position]), axis=position)


def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Tensor:
    """Per position, the element of x at an integer index along the axis."""
    x, i = tensor(x), tensor(indices)
    position = as_axis(axis, x.ndim)
    wrapped = _wrapped(i, x.shape[position])
    return shaping.take_along_axis(x, wrapped, axis=position)


def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    """The int64 indices of elements other than zero. Its shape depends on data: not in a trace."""
    x = tensor(x)
    x._require_data("nonzero")
    return tuple(
        asarray(index.astype(np.int64), device=x.device) for index in np.nonzero(x.numpy())
    )
