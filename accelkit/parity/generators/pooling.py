"""Cases of pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from accelkit.device import Device
from accelkit.parity.cases import BITS, EQUAL, Case, cases
from accelkit.parity.source import Shape, Source
from accelkit.primitives import PRIMITIVES
from accelkit.primitives.pooling import pool_output_shape


def _pool(source: Source) -> tuple[Shape, Shape, dict[str, Any]]:
    """Shapes of the images and of the result, and the parameters."""
    window = source.choose(((2, 2), (3, 3), (3, 2), (1, 2)))
    strides = source.choose(((2, 2), (1, 1), (3, 2), (2, 1)))
    padding = tuple((source.below(min(w, 3)), source.below(min(w, 3))) for w in window)
    image = source.choose(((6, 6), (7, 5), (3, 8)))
    shape = (source.choose((2, 1)), *image, source.choose((3, 1)))
    parameters = {"window": window, "strides": strides, "padding": padding}
    result = pool_output_shape(shape, window, strides, padding)  # type: ignore[arg-type]
    return shape, result, parameters


def _reference(name: str, *arrays: np.ndarray, **parameters: Any) -> np.ndarray:
    from accelkit.registry import backend

    result: np.ndarray = backend("numpy").run(PRIMITIVES[name], arrays, parameters, Device("numpy"))
    return result


@cases("max_pool2d")
def max_pool2d(name: str, source: Source) -> Case:
    """Maxima of ties, of infinities, and of NaN, which wins; padding never does."""
    shape, _, parameters = _pool(source)
    tied = source.smooth or source.flag()
    x = source.ties(shape) if tied else source.special(source.normal(shape))
    return Case(
        name,
        (x,),
        parameters,
        comparison=EQUAL,
        gradients=(0,) if tied else (),
        gradient_length=math.prod(parameters["window"]),
    )


@cases("max_pool2d_winners")
def max_pool2d_winners(name: str, source: Source) -> Case:
    """The first maximum in row-major order; windows with NaN are unspecified."""
    shape, _, parameters = _pool(source)
    x = source.ties(shape) if source.flag() else source.special(source.normal(shape))
    x = np.where(np.isnan(x), -np.inf, x).astype(x.dtype)
    return Case(name, (x,), parameters, comparison=BITS)


@cases("max_pool2d_gather")
def max_pool2d_gather(name: str, source: Source) -> Case:
    """Elements at given winners."""
    shape, _, parameters = _pool(source)
    winners = _reference("max_pool2d_winners", source.normal(shape), **parameters)
    taps = math.prod(parameters["window"])
    arrays = winners, source.normal(shape)
    return Case(name, arrays, parameters, comparison=BITS, gradients=(1,), gradient_length=taps)


@cases("max_pool2d_scatter")
def max_pool2d_scatter(name: str, source: Source) -> Case:
    """Addition at given winners."""
    shape, result, parameters = _pool(source)
    winners = _reference("max_pool2d_winners", source.normal(shape), **parameters)
    parameters["image_size"] = shape[1:3]
    length = math.prod(parameters["window"])
    arrays = winners, source.normal(result)
    return Case(name, arrays, parameters, gradients=(1,), floor=1.0, length=length)


@cases("max_pool2d_grad")
def max_pool2d_grad(name: str, source: Source) -> Case:
    """The gradient goes to the first of equal maxima."""
    shape, result, parameters = _pool(source)
    x = source.ties(shape)
    y = _reference("max_pool2d", x, **parameters)
    length = math.prod(parameters["window"])
    arrays = x, y, source.normal(result)
    return Case(name, arrays, parameters, gradients=(2,), floor=1.0, length=length)


@cases("avg_pool2d")
def avg_pool2d(name: str, source: Source) -> Case:
    """Means that count padding as zeros."""
    shape, _, parameters = _pool(source)
    length = math.prod(parameters["window"])
    return Case(
        name,
        (source.normal(shape),),
        parameters,
        gradients=(0,),
        floor=1.0,
        length=length,
        gradient_length=length,
    )


@cases("avg_pool2d_grad")
def avg_pool2d_grad(name: str, source: Source) -> Case:
    """The same share to every element of a window."""
    shape, result, parameters = _pool(source)
    length = math.prod(parameters["window"])
    parameters["image_size"] = shape[1:3]
    return Case(
        name,
        (source.normal(result),),
        parameters,
        gradients=(0,),
        floor=1.0,
        length=length,
        gradient_length=length,
    )
