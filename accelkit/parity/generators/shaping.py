"""Cases of primitives that create, rearrange, cut and index tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from accelkit.parity.cases import BITS, CLOSE, Case, cases
from accelkit.parity.source import Shape, Source
from accelkit.primitives.shaping import ConstantArray

_RANKED: tuple[Shape, ...] = ((5,), (3, 4), (2, 1, 3), (1,), (0, 3), (2, 3, 2, 2))


def _moved(
    name: str, source: Source, *arrays: np.ndarray, repeats: int = 1, **parameters: Any
) -> Case:
    """A case that moves the first array's elements, each to at most so many places."""
    gradients = (0,) if source.dtype.is_floating else ()
    return Case(
        name, arrays, parameters, comparison=BITS, gradients=gradients, gradient_length=repeats
    )


@cases("full", kinds="biuf")
def full(name: str, source: Source) -> Case:
    """One number everywhere."""
    values: dict[str, tuple[bool | int | float, ...]] = {
        "b": (False, True),
        "i": (0, -1, 100),
        "u": (0, 1, 200),
        "f": (0.0, 1.5, -0.0, math.inf, -math.inf, math.nan, 0.1),
    }
    parameters = {
        "shape": source.shape(),
        "value": source.choose(values[source.dtype.kind]),
        "dtype": source.dtype,
    }
    return Case(name, (), parameters, comparison=BITS)


@cases("iota", kinds="iuf")
def iota(name: str, source: Source) -> Case:
    """Indices along an axis."""
    shape = source.shape(_RANKED)
    parameters = {"shape": shape, "axis": source.below(len(shape)), "dtype": source.dtype}
    return Case(name, (), parameters, comparison=BITS)


@cases("constant", kinds="biuf")
def constant(name: str, source: Source) -> Case:
    """An array that is part of the program."""
    value = ConstantArray(source.anything(source.shape()))
    return Case(name, (), {"value": value}, comparison=BITS)


@cases("reshape", kinds="biuf")
def reshape(name: str, source: Source) -> Case:
    """The same elements under another shape."""
    pools: tuple[tuple[Shape, ...], ...] = (
        ((6,), (2, 3), (1, 6, 1), (3, 2)),
        ((24,), (2, 3, 4), (4, 6), (2, 2, 3, 2)),
        ((), (1,), (1, 1, 1)),
        ((0, 3), (0,), (2, 0)),
    )
    pool = source.choose(pools[:3] if source.smooth else pools)
    return _moved(name, source, source.anything(source.choose(pool)), shape=source.choose(pool))


@cases("transpose", kinds="biuf")
def transpose(name: str, source: Source) -> Case:
    """Axes in another order."""
    shape = source.shape()
    remaining = list(range(len(shape)))
    order = tuple(remaining.pop(source.below(len(remaining))) for _ in shape)
    return _moved(name, source, source.anything(shape), permutation=order)


@cases("broadcast_to", kinds="biuf")
def broadcast_to(name: str, source: Source) -> Case:
    """Repetition along new axes and axes of extent 1."""
    shape = source.shape()
    kept = tuple(1 if source.flag() else n for n in shape)
    x = source.anything(kept[source.below(len(kept) + 1) :])
    return _moved(name, source, x, repeats=max(math.prod(shape), 1), shape=shape)


@cases("reverse", kinds="biuf")
def reverse(name: str, source: Source) -> Case:
    """The opposite order along some axes."""
    shape = source.shape()
    return _moved(name, source, source.anything(shape), axes=source.axes(len(shape)))


@cases("slice", kinds="biuf")
def slice_(name: str, source: Source) -> Case:
    """Strided boxes, empty ones included."""
    shape = source.shape(((5,), (4, 7), (6, 3, 4), (), (1,), (0, 3)))
    start = tuple(source.below(n + 1) if not source.smooth else n // 3 for n in shape)
    stop = tuple(a + source.below(n - a + 1) for a, n in zip(start, shape, strict=True))
    step = tuple(1 + source.below(3) for _ in shape)
    return _moved(name, source, source.anything(shape), start=start, stop=stop, step=step)


@cases("pad", kinds="iuf")
def pad(name: str, source: Source) -> Case:
    """Padding before, after and between."""
    shape = source.shape(((5,), (3, 4), (2, 1, 3), (), (0, 3), (1, 2, 3, 2)))
    low, high, interior = (tuple(source.below(3) for _ in shape) for _ in range(3))
    fills: tuple[int | float, ...] = (0, 1)
    if source.dtype.is_floating:
        fills = (0.0, 1.5) if source.smooth else (0.0, 1.5, -math.inf, math.nan)
    x = source.anything(shape)
    fill = source.choose(fills)
    return _moved(name, source, x, low=low, high=high, interior=interior, value=fill)


@cases("concatenate", kinds="biuf")
def concatenate(name: str, source: Source) -> Case:
    """One to four operands, some of them empty."""
    shape = source.shape(((3,), (3, 4), (2, 1, 3), (2, 3, 2, 2)))
    axis = source.below(len(shape))
    extents = [source.choose((1, 2, 3, 0)) for _ in range(1 + source.below(4))]
    arrays = tuple(source.anything((*shape[:axis], n, *shape[axis + 1 :])) for n in extents)
    gradients = tuple(range(len(arrays))) if source.dtype.is_floating else ()
    return Case(name, arrays, {"axis": axis}, comparison=BITS, gradients=gradients)


_INDEX_SHAPES: tuple[Shape, ...] = ((4,), (2, 3), (), (0,))


@cases("take", kinds="biuf")
def take(name: str, source: Source) -> Case:
    """Elements by index, repeated ones included."""
    shape = source.shape(((5,), (3, 4), (2, 5, 3)))
    axis = source.below(len(shape))
    index = source.indices(source.shape(_INDEX_SHAPES), shape[axis])
    repeats = max(index.size, 1)
    return _moved(name, source, source.anything(shape), index, repeats=repeats, axis=axis)


@cases("take_grad", kinds="iuf")
def take_grad(name: str, source: Source) -> Case:
    """Addition at repeated indices."""
    shape = source.shape(((5,), (3, 4), (2, 5, 3)))
    axis = source.below(len(shape))
    index = source.indices(source.shape(_INDEX_SHAPES), shape[axis])
    g = source.numbers((*shape[:axis], *index.shape, *shape[axis + 1 :]))
    return _added(name, source, g, index, axis=axis, extent=shape[axis])


@cases("take_along_axis", kinds="biuf")
def take_along_axis(name: str, source: Source) -> Case:
    """Elements by an index per position."""
    shape = source.shape(((5,), (3, 4), (2, 5, 3)))
    axis = source.below(len(shape))
    count = source.choose((1, 3, 7))
    index = source.indices((*shape[:axis], count, *shape[axis + 1 :]), shape[axis])
    return _moved(name, source, source.anything(shape), index, repeats=count, axis=axis)


@cases("take_along_axis_grad", kinds="iuf")
def take_along_axis_grad(name: str, source: Source) -> Case:
    """Addition at an index per position."""
    shape = source.shape(((5,), (3, 4), (2, 5, 3)))
    axis = source.below(len(shape))
    count = source.choose((1, 3, 7))
    index_shape = (*shape[:axis], count, *shape[axis + 1 :])
    index = source.indices(index_shape, shape[axis])
    return _added(name, source, source.numbers(index_shape), index, axis=axis, extent=shape[axis])


def _added(name: str, source: Source, g: np.ndarray, index: np.ndarray, **parameters: Any) -> Case:
    floating = source.dtype.is_floating
    return Case(
        name,
        (g, index),
        parameters,
        comparison=CLOSE if floating else BITS,
        gradients=(0,) if floating else (),
        floor=float(np.max(np.abs(g.astype(np.float64)), initial=0.0)) if floating else 0.0,
        length=max(index.size, 1),
    )
