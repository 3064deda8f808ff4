"""Indexing: slices, integers, new axes, integer tensors, masks."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from accelkit import dtypes
from accelkit.device import Device
from accelkit.errors import (
    AccelkitError,
    DTypeError,
    IndexOutOfRangeError,
    OptionError,
    ShapeError,
)
from accelkit.ops.coercion import as_axis, asarray, cast, scalar_like, tensor
from accelkit.ops.manipulation import broadcast_arrays, permute_dims, reshape
from accelkit.primitives import elementwise, shaping
from accelkit.tensor import Tensor


def getitem(x: Tensor, key: Any) -> Tensor:
    """x[key] by NumPy's rules: integers, slices, ``...``, None, integer tensors and bool masks.

    Integer tensors must be in range (negative ones count from the end): a device cannot check
    them without waiting. The result of a mask has a shape that depends on data, so while tracing
    a mask must be a NumPy array.

    Raises:
        ShapeError: for too many indices, or a mask that does not fit its axes.
        IndexOutOfRangeError: for an integer out of range.
        DTypeError: for an index of another kind.
        OptionError: for more than one ``...``.
    """
    x = tensor(x)
    parts = [_normal(part, x) for part in (key if isinstance(key, tuple) else (key,))]
    consumed = sum(_axes_of(part) for part in parts)
    if consumed > x.ndim:
        raise ShapeError(f"{consumed} indices for a tensor of shape {x.shape}.")
    ellipses = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1:
        raise OptionError("An index holds at most one Ellipsis.")
    position = ellipses[0] if ellipses else len(parts)
    parts[position : position + 1] = [slice(None)] * (x.ndim - consumed)
    if all(isinstance(part, int | slice | None) for part in parts):
        return _basic(x, parts)[0]
    x, parts = _expand_masks(x, parts)
    return _advanced(*_basic(x, parts), leading=_leads(parts))


def _normal(part: Any, x: Tensor) -> Any:
    if part is None or part is Ellipsis or isinstance(part, slice | Tensor):
        return part
    if isinstance(part, np.ndarray | list):
        array = np.asarray(part)
        if array.dtype == np.bool_:
            return array  # known now, even while tracing
        return asarray(part if array.size else array.astype(np.int64), device=_place(x))
    if isinstance(part, bool | np.bool_):
        raise DTypeError("Index with a bool tensor; Python bools are not supported.")
    try:
        return operator.index(part)
    except TypeError:
        raise DTypeError(
            f"Cannot index with {type(part).__name__}. Use integers, slices, None, ..., or "
            f"integer or bool tensors."
        ) from None


def _place(x: Tensor) -> Device | None:
    """Where to put an index for ``x``."""
    return None if x.is_traced else x.device


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray) or (isinstance(part, Tensor) and part.dtype is dtypes.bool_)


def _axes_of(part: Any) -> int:
    """How many axes of the tensor an index stands for."""
    if part is None or part is Ellipsis:
        return 0
    return int(part.ndim) if _is_mask(part) else 1


def _expand_masks(x: Tensor, parts: list[Any]) -> tuple[Tensor, list[Any]]:
    """Masks as integer tensors, one per axis that they cover."""
    result: list[Any] = []
    axis = 0
    for part in parts:
        if not _is_mask(part):
            result.append(part)
            axis += _axes_of(part)
            continue
        if isinstance(part, Tensor):
            part._require_data("Indexing with a mask")
        mask = part.numpy() if isinstance(part, Tensor) else part
        if mask.shape != x.shape[axis : axis + mask.ndim]:
            raise ShapeError(
                f"A mask of shape {mask.shape} does not fit axes {axis} to {axis + mask.ndim - 1} "
                f"of shape {x.shape}."
            )
        if mask.ndim == 0:  # takes all or nothing, along a new axis
            x, mask = reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])), mask.reshape(1)
        result += [asarray(i.astype(np.int64), device=_place(x)) for i in np.nonzero(mask)]
        axis += mask.ndim
    return x, result


def _leads(parts: list[Any]) -> bool:
    """NumPy's rule: the axes of integer tensors come first if a slice or None separates them.

    Plain integers count as integer tensors here.
    """
    chosen = [i for i, part in enumerate(parts) if isinstance(part, int | Tensor)]
    return chosen != list(range(chosen[0], chosen[-1] + 1))


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
                raise IndexOutOfRangeError(
                    f"Index {part} is out of range for axis {axis} of shape {x.shape}: it must be "
                    f"in [{-extent}, {extent})."
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
    try:
        low, high, step = part.indices(extent)
    except AccelkitError:  # a tensor as a bound
        raise
    except (TypeError, ValueError):
        raise OptionError(
            f"A slice holds integers and None, and its step is not 0, got {part}."
        ) from None
    if step > 0:
        return low, max(low, high), step, False
    count = max(0, math.ceil((low - high) / -step))
    if count == 0:
        return 0, 0, 1, False
    return low + (count - 1) * step, low + 1, -step, True


def _advanced(x: Tensor, parts: list[Any], *, leading: bool) -> Tensor:
    """Integer tensors: broadcast together, then one lookup in the joined axes."""
    axes = [i for i, part in enumerate(parts) if isinstance(part, Tensor)]
    for part in (parts[i] for i in axes):
        if not part.dtype.is_integer:
            raise DTypeError(f"Index with an integer or bool tensor, got {part.dtype}.")
    if leading:
        order = [*axes, *(i for i in range(x.ndim) if i not in axes)]
        x, parts = permute_dims(x, order), [parts[i] for i in order]
        axes = list(range(len(axes)))
    first, count = axes[0], len(axes)
    indices = broadcast_arrays(*(parts[i] for i in axes))
    extents = x.shape[first : first + count]
    flat = _wrapped(indices[0], extents[0])
    for index, extent in zip(indices[1:], extents[1:], strict=True):
        flat = flat * extent + _wrapped(index, extent)
    joined = reshape(x, (*x.shape[:first], math.prod(extents), *x.shape[first + count :]))
    return shaping.take(joined, flat, axis=first)


def _wrapped(index: Tensor, extent: int) -> Tensor:
    """int64 indices, negative ones counted from the end."""
    unsigned = index.dtype.kind == "u"
    index = cast(index, dtypes.int64)
    if unsigned:
        return index
    negative = elementwise.less(index, scalar_like(0, index))
    return elementwise.select(negative, index + extent, index)


def _integer(indices: Any, x: Tensor, name: str) -> Tensor:
    found = indices if isinstance(indices, Tensor) else asarray(indices, device=_place(x))
    if not found.dtype.is_integer:
        raise DTypeError(f"{name} needs integer indices, got {found.dtype}.")
    return found


def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
    """The elements of x at integer indices along one axis (the only one if axis is None).

    Raises:
        ShapeError: if axis is None and x has not exactly one.
    """
    x = tensor(x)
    i = _integer(indices, x, "take")
    if axis is None and x.ndim != 1:
        raise ShapeError(f"take needs an axis for a tensor of shape {x.shape}.")
    position = as_axis(0 if axis is None else axis, x.ndim)
    return shaping.take(x, _wrapped(i, x.shape[position]), axis=position)


def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Tensor:
    """Per position, the element of x at an integer index along the axis."""
    x = tensor(x)
    i = _integer(indices, x, "take_along_axis")
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
