"""Functions that rearrange, join and repeat."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from accelkit import dtypes
from accelkit.arguments import require_instance, require_integer
from accelkit.errors import OptionError, ShapeError
from accelkit.ops.coercion import as_axes, as_axis, as_number, as_shape, asarray, cast, tensor
from accelkit.primitives import shaping
from accelkit.primitives.elementwise import broadcast_shapes
from accelkit.tensor import Tensor

Axis = int | tuple[int, ...] | None


def reshape(x: Tensor, /, shape: Any, *, copy: bool | None = None) -> Tensor:
    """The same elements in row-major order under another shape; one extent may be -1.

    Raises:
        ShapeError: if the number of elements differs.
    """
    x = tensor(x)
    extents = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if extents.count(-1) == 1:
        known = math.prod(n for n in extents if n != -1)
        if known == 0 or x.size % known:
            raise ShapeError(
                f"Cannot deduce the -1 of {extents} for shape {x.shape} ({x.size} elements)."
            )
        extents = tuple(x.size // known if n == -1 else n for n in extents)
    target = as_shape(extents)
    return x if target == x.shape else shaping.reshape(x, shape=target)


def permute_dims(x: Tensor, /, axes: Sequence[int]) -> Tensor:
    """Axis i of the result is axis axes[i] of x."""
    x = tensor(x)
    permutation = tuple(as_axis(a, x.ndim) for a in axes)
    return shaping.transpose(x, permutation=permutation)


def matrix_transpose(x: Tensor, /) -> Tensor:
    """Each matrix of a stack transposed: the last two axes swapped."""
    return tensor(x).mT


def swap_axes(x: Tensor, a: int, b: int) -> Tensor:
    """x with two axes swapped."""
    x = tensor(x)
    axes = list(range(x.ndim))
    a, b = as_axis(a, x.ndim), as_axis(b, x.ndim)
    axes[a], axes[b] = axes[b], axes[a]
    return permute_dims(x, axes)


def moveaxis(x: Tensor, source: Any, destination: Any, /) -> Tensor:
    """Axes moved to new positions; the others keep their order.

    Raises:
        ShapeError: if there is not one destination for each source.
    """
    x = tensor(x)
    sources = [as_axis(a, x.ndim) for a in _listed(source)]
    targets = [as_axis(a, x.ndim) for a in _listed(destination)]
    if len(sources) != len(targets):
        raise ShapeError(f"moveaxis got {len(sources)} sources and {len(targets)} destinations.")
    order = [a for a in range(x.ndim) if a not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return permute_dims(x, order)


def _listed(value: Any) -> list[int]:
    return list(value) if isinstance(value, tuple | list) else [value]


def expand_dims(x: Tensor, /, axis: Any = 0) -> Tensor:
    """x with new axes of extent 1 at the given positions of the result."""
    x = tensor(x)
    count = len(_listed(axis))
    axes = as_axes(axis, x.ndim + count)
    extents = iter(x.shape)
    return reshape(x, tuple(1 if i in axes else next(extents) for i in range(x.ndim + count)))


def flatten(x: Tensor, /, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """The axes from ``start_axis`` to ``end_axis`` as one, in row-major order.

    (N, H, W, C) with ``start_axis=1`` becomes (N, H * W * C); a scalar becomes (1,).

    Raises:
        ShapeError: if there is no such axis, or the first lies behind the last.
    """
    x = tensor(x)
    if x.ndim == 0:
        return reshape(x, (1,))
    first, last = as_axis(start_axis, x.ndim), as_axis(end_axis, x.ndim)
    if first > last:
        raise ShapeError(
            f"flatten needs start_axis before end_axis, got {start_axis} and {end_axis} for shape "
            f"{x.shape}."
        )
    joined = math.prod(x.shape[first : last + 1])
    return reshape(x, (*x.shape[:first], joined, *x.shape[last + 1 :]))


def squeeze(x: Tensor, /, axis: Any = None) -> Tensor:
    """x without the given axes, which must have extent 1; without all such axes for None.

    Raises:
        ShapeError: for an axis that does not exist or has another extent.
    """
    x = tensor(x)
    if axis is None:
        return reshape(x, tuple(n for n in x.shape if n != 1))
    axes = as_axes(axis, x.ndim)
    for a in axes:
        if x.shape[a] != 1:
            raise ShapeError(f"squeeze needs extent 1 on axis {a}, got shape {x.shape}.")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def broadcast_to(x: Tensor, /, shape: Any) -> Tensor:
    """x repeated to a shape by NumPy's rules."""
    x = tensor(x)
    target = as_shape(shape)
    return x if target == x.shape else shaping.broadcast_to(x, shape=target)


def broadcast_arrays(*arrays: Tensor) -> list[Tensor]:
    """All arrays repeated to their common shape."""
    if not arrays:
        return []
    tensors = [tensor(a) for a in arrays]
    shape = broadcast_shapes(*(t.shape for t in tensors))
    return [broadcast_to(t, shape) for t in tensors]


def _promoted(arrays: Sequence[Tensor]) -> list[Tensor]:
    require_instance("arrays", arrays, Iterable, "Give a list of tensors.")
    tensors = [tensor(a) for a in arrays]
    if not tensors:
        raise OptionError("Expected at least one tensor to join, got none.")
    dtype = tensors[0].dtype
    for other in tensors[1:]:
        dtype = dtypes.promote(dtype, other.dtype)
    return [cast(t, dtype) for t in tensors]


def concat(arrays: Sequence[Tensor], /, *, axis: int | None = 0) -> Tensor:
    """Tensors joined along an existing axis; flattened first if axis is None."""
    tensors = _promoted(arrays)
    if axis is None:
        tensors, axis = [reshape(t, (-1,)) if t.size else reshape(t, (0,)) for t in tensors], 0
    return shaping.concatenate(*tensors, axis=as_axis(axis, tensors[0].ndim))


def stack(arrays: Sequence[Tensor], /, *, axis: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis.

    Raises:
        ShapeError: for tensors of different shapes.
    """
    tensors = _promoted(arrays)
    for other in tensors[1:]:
        if other.shape != tensors[0].shape:
            raise ShapeError(f"stack needs equal shapes, got {tensors[0].shape}, {other.shape}.")
    position = as_axis(axis, tensors[0].ndim + 1)
    return concat([expand_dims(t, position) for t in tensors], axis=position)


def unstack(x: Tensor, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices of x along an axis, which they lose."""
    x = tensor(x)
    position = as_axis(axis, x.ndim)
    before = (slice(None),) * position
    return tuple(x[(*before, i)] for i in range(x.shape[position]))


def split(x: Tensor, parts: int, *, axis: int = 0) -> tuple[Tensor, ...]:
    """x cut along an axis into equal parts.

    Raises:
        OptionError: for anything but a positive number of parts.
        ShapeError: if the axis does not divide into them.
    """
    x = tensor(x)
    require_integer("parts", parts)
    position = as_axis(axis, x.ndim)
    extent = x.shape[position]
    if extent % parts:
        raise ShapeError(f"Cannot split extent {extent} of axis {axis} into {parts} equal parts.")
    width = extent // parts
    before = (slice(None),) * position
    return tuple(x[(*before, slice(i * width, (i + 1) * width))] for i in range(parts))


def flip(x: Tensor, /, *, axis: Axis = None) -> Tensor:
    """x with the order of elements reversed along axes; along all of them for None."""
    x = tensor(x)
    return shaping.reverse(x, axes=as_axes(axis, x.ndim))


def roll(x: Tensor, /, shift: Any, *, axis: Axis = None) -> Tensor:
    """Elements moved along axes; what leaves at one end enters at the other.

    Raises:
        OptionError: if there is not one shift for each axis.
    """
    x = tensor(x)
    if axis is None:
        return reshape(roll(reshape(x, (x.size,)), shift, axis=0), x.shape)
    axes = _listed(axis)
    shifts = _listed(shift) * (len(axes) if not isinstance(shift, tuple | list) else 1)
    if len(shifts) != len(axes):
        raise OptionError(f"roll got {len(shifts)} shifts for {len(axes)} axes.")
    for amount, a in zip(map(_as_shift, shifts), axes, strict=True):
        position = as_axis(a, x.ndim)
        extent = x.shape[position]
        cut = -amount % extent if extent else 0
        if cut:
            before = (slice(None),) * position
            x = concat([x[(*before, slice(cut, None))], x[(*before, slice(0, cut))]], axis=position)
    return x


def _as_shift(amount: Any) -> int:
    try:
        return operator.index(amount)
    except TypeError:
        raise OptionError(f"roll shifts by integers, got {amount!r}.") from None


def repeat(x: Tensor, repeats: int | Tensor, /, *, axis: int | None = None) -> Tensor:
    """Each element repeated, next to each other: a fixed number of times, or one number each.

    With an integer tensor of numbers the shape depends on data: not in a trace.
    """
    x = tensor(x)
    if axis is None:
        return repeat(reshape(x, (x.size,)), repeats, axis=0)
    position = as_axis(axis, x.ndim)
    if isinstance(repeats, Tensor):
        return _repeat_each(x, repeats, position)
    require_integer("repeats", repeats, least=0)
    shape = x.shape
    wide = (*shape[: position + 1], repeats, *shape[position + 1 :])
    spread = broadcast_to(expand_dims(x, position + 1), wide)
    return reshape(spread, (*shape[:position], shape[position] * repeats, *shape[position + 1 :]))


def _repeat_each(x: Tensor, repeats: Tensor, axis: int) -> Tensor:
    repeats._require_data("repeat with a number per element")
    counts = repeats.numpy()
    extent = x.shape[axis]
    if not repeats.dtype.is_integer or repeats.ndim > 1 or repeats.size not in (1, extent):
        raise ShapeError(
            f"repeat needs integers of shape ({extent},) for axis {axis} of {x.shape}, got "
            f"{repeats.spec}."
        )
    if (counts < 0).any():
        raise OptionError(f"repeat needs numbers of at least 0, got {counts.min()}.")
    index = np.repeat(np.arange(extent), np.broadcast_to(counts.reshape(-1), (extent,)))
    return shaping.take(x, asarray(index, device=repeats.device), axis=axis)


def tile(x: Tensor, repetitions: tuple[int, ...], /) -> Tensor:
    """x repeated as a whole along each axis."""
    x = tensor(x)
    repetitions = as_shape(repetitions)
    ndim = max(x.ndim, len(repetitions))
    counts = (1,) * (ndim - len(repetitions)) + tuple(repetitions)
    x = reshape(x, (1,) * (ndim - x.ndim) + x.shape)
    narrow = tuple(n for extent in x.shape for n in (1, extent))
    wide = tuple(n for count, extent in zip(counts, x.shape, strict=True) for n in (count, extent))
    joined = tuple(c * n for c, n in zip(counts, x.shape, strict=True))
    return reshape(broadcast_to(reshape(x, narrow), wide), joined)


def pad(
    x: Tensor, /, widths: Sequence[tuple[int, int]], *, value: bool | int | float = 0
) -> Tensor:
    """x with ``value`` around it: one (before, after) pair of widths per axis.

    Raises:
        ShapeError: for another number of pairs, or negative widths.
    """
    x = tensor(x)
    pairs = [as_shape(pair) for pair in widths] if isinstance(widths, Sequence) else []
    if len(pairs) != x.ndim or any(len(pair) != 2 for pair in pairs):
        raise ShapeError(
            f"pad needs {x.ndim} pairs (before, after) for shape {x.shape}, got {widths}."
        )
    return shaping.pad(
        x,
        low=tuple(a for a, _ in pairs),
        high=tuple(b for _, b in pairs),
        interior=(0,) * x.ndim,
        value=as_number(value, x.dtype),
    )
