"""Cases of reductions, scans along an axis, and sorting."""

from __future__ import annotations

import math

import numpy as np

from accelkit.parity.cases import BITS, CLOSE, EQUAL, Case, cases
from accelkit.parity.source import Shape, Source

_RANKED: tuple[Shape, ...] = ((5,), (3, 4), (2, 1, 3), (33,), (2, 3, 2, 2), (4, 17))


def _terms(shape: Shape, axes: Shape) -> int:
    return max(math.prod(shape[axis] for axis in axes), 1)


def _magnitude(x: np.ndarray, axes: Shape) -> float:
    """Size of the terms of a sum: the largest sum of absolute values."""
    return float(np.max(np.sum(np.abs(x.astype(np.float64)), axis=axes), initial=0.0))


@cases("reduce_sum", kinds="iuf")
def reduce_sum(name: str, source: Source) -> Case:
    """Sums; integers wrap around, nothing gives 0, infinities and NaN pass through."""
    shape = source.shape((*_RANKED, (0, 3), ()))
    axes = source.axes(len(shape))
    if not source.dtype.is_floating:
        return Case(name, (source.integers(shape),), {"axes": axes}, comparison=BITS)
    x = source.normal(shape)
    seldom = source.choose((False, False, True))  # one NaN hides the rounding of its whole sum
    return Case(
        name,
        (source.special(x) if seldom else x,),
        {"axes": axes},
        gradients=(0,),
        floor=_magnitude(x, axes),
        length=_terms(shape, axes),
    )


@cases("reduce_product", kinds="iuf")
def reduce_product(name: str, source: Source) -> Case:
    """Products; integers wrap around, nothing gives 1."""
    shape = source.shape((*_RANKED[:3], (2, 3, 2, 2), (0, 3), ()))
    axes = source.axes(len(shape))
    if not source.dtype.is_floating:
        return Case(name, (source.integers(shape),), {"axes": axes}, comparison=BITS)
    sizes = source.generator.uniform(0.5, 1.5, shape)
    x = source.rounded(sizes * source.generator.choice((-1.0, 1.0), shape))
    terms = _terms(shape, axes)
    return Case(name, (x,), {"axes": axes}, gradients=(0,), length=terms, gradient_length=terms)


@cases("reduce_max", "reduce_min", kinds="iuf")
def reduce_extremum(name: str, source: Source) -> Case:
    """Extrema of ties, of infinities, and of NaN, which wins."""
    shape = source.shape((*_RANKED, ()))
    axes = source.axes(len(shape))
    tied = source.smooth or source.flag()
    x = source.ties(shape) if tied else source.anything(shape)
    gradients = (0,) if tied and source.dtype.is_floating else ()
    return Case(name, (x,), {"axes": axes}, comparison=EQUAL, gradients=gradients)


@cases("reduce_any", "reduce_all", kinds="b")
def reduce_logic(name: str, source: Source) -> Case:
    """Disjunction and conjunction; of nothing too."""
    shape = source.shape((*_RANKED, (0, 3), ()))
    x = source.bools(shape)
    if source.flag():
        x = np.full(shape, source.flag())
    return Case(name, (x,), {"axes": source.axes(len(shape))}, comparison=BITS)


@cases("argmax", "argmin", kinds="iuf")
def argument(name: str, source: Source) -> Case:
    """The first extremum, the first NaN above all."""
    shape = source.shape(_RANKED)
    x = source.ties(shape) if source.flag() else source.anything(shape)
    return Case(name, (x,), {"axis": source.below(len(shape))}, comparison=BITS)


@cases("cumulative_sum", kinds="iuf")
def cumulative_sum(name: str, source: Source) -> Case:
    """Sums so far."""
    shape = source.shape((*_RANKED, (0, 3)))
    axis = source.below(len(shape))
    if not source.dtype.is_floating:
        return Case(name, (source.integers(shape),), {"axis": axis}, comparison=BITS)
    x = source.normal(shape)
    terms = _terms(shape, (axis,))
    return Case(
        name,
        (x,),
        {"axis": axis},
        comparison=CLOSE,
        gradients=(0,),
        floor=_magnitude(x, (axis,)),
        length=terms,
        gradient_length=terms,
    )


@cases("argsort", kinds="biuf")
def argsort(name: str, source: Source) -> Case:
    """A stable order; NaN is greater than infinity."""
    shape = source.shape((*_RANKED, (0, 3)))
    parameters = {"axis": source.below(len(shape)), "descending": source.flag()}
    return Case(name, (_sortable(source, shape),), parameters, comparison=BITS)


@cases("sort", kinds="biuf")
def sort(name: str, source: Source) -> Case:
    """Sorted values."""
    shape = source.shape((*_RANKED, (0, 3)))
    parameters = {"axis": source.below(len(shape)), "descending": source.flag()}
    gradients = (0,) if source.dtype.is_floating else ()
    x = _sortable(source, shape)
    return Case(name, (x,), parameters, comparison=EQUAL, gradients=gradients)


def _sortable(source: Source, shape: Shape) -> np.ndarray:
    if source.dtype.kind == "b":
        return source.bools(shape)
    x = source.ties(shape) if source.flag() else source.anything(shape)
    return source.distinct(shape) if source.dtype.is_floating and source.smooth else x
