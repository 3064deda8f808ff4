"""Cases of matrix products and convolutions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from accelkit.parity.cases import BITS, Case, cases
from accelkit.parity.source import Shape, Source
from accelkit.primitives.convolution import conv2d_output_shape, window_extent


@cases("matmul", kinds="iuf")
def matmul(name: str, source: Source) -> Case:
    """Batched products of either orientation; nothing to contract gives zeros."""
    sizes = (1, 3, 5, 17) if source.smooth else (3, 1, 5, 17, 0)
    m, k, n = (source.choose(sizes) for _ in range(3))
    batch = source.choose(((), (2,), (2, 3)))
    swap_a, swap_b = source.flag(), source.flag()
    a = source.numbers((*batch, *((k, m) if swap_a else (m, k))))
    b = source.numbers((*batch, *((n, k) if swap_b else (k, n))))
    parameters = {"transpose_a": swap_a, "transpose_b": swap_b}
    if not source.dtype.is_floating:
        return Case(name, (a, b), parameters, comparison=BITS)
    return Case(
        name,
        (a, b),
        parameters,
        gradients=(0, 1),
        floor=math.sqrt(k),
        length=k,
        gradient_length=max(m, n),
    )


@cases("sgd_update_matmul", only=("float32", "float64"))
def sgd_update_matmul(name: str, source: Source) -> Case:
    """Gradients of one row up to several register tiles, with every option of the update."""
    m, n = source.choose((1, 5, 17, 70)), source.choose((1, 5, 33))
    k = source.choose((1, 3, 17))
    swap_a, swap_b = source.flag(), source.flag()
    a = source.normal((k, m) if swap_a else (m, k))
    b = source.normal((n, k) if swap_b else (k, n))
    p, v = source.normal((m, n)), source.normal((m, n))
    rate = source.rounded(0.05)
    parameters = {
        "transpose_a": swap_a,
        "transpose_b": swap_b,
        "momentum": source.choose((0.9, 0.5)),
        "weight_decay": source.choose((0.0, 5e-4)),
        "nesterov": source.flag(),
    }
    return Case(
        name,
        (p, a, b, v, rate),
        parameters,
        gradients=(0, 1, 2, 3),
        floor=3.0 + math.sqrt(k),
        length=k,
        gradient_length=max(m, n),
    )


def _window(source: Source) -> tuple[Shape, Shape, dict[str, Any]]:
    """Image size, kernel size, and strides, padding and dilation that leave something over."""
    image = source.choose(((7, 6), (5, 5), (9, 4), (11, 10)))
    kernel = source.choose(((3, 3), (1, 1), (2, 3), (5, 4), (1, 3)))
    strides = source.choose(((1, 1), (2, 2), (1, 3), (4, 3)))
    padding = (
        source.choose(((0, 0), (1, 1), (2, 0), (0, 1))),
        source.choose(((0, 0), (1, 1), (0, 2), (2, 1))),
    )
    dilation = source.choose(((1, 1), (2, 1), (2, 3)))
    extents = [
        window_extent(image[i], kernel[i], strides[i], padding[i], dilation[i]) for i in (0, 1)
    ]
    dilation = dilation if min(extents) > 0 else (1, 1)
    return image, kernel, {"strides": strides, "padding": padding, "dilation": dilation}


def _convolution(source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """Images, weights, a cotangent of the result, and the parameters."""
    image, kernel, window = _window(source)
    groups = source.choose((1, 2, 4))
    channels, filters = (groups * source.choose((1, 3)) for _ in range(2))
    batch = source.choose((2, 1, 3))
    parameters = {**window, "groups": groups}
    x_shape, w_shape = (batch, *image, channels), (*kernel, channels // groups, filters)
    g_shape = conv2d_output_shape(x_shape, w_shape, **parameters)
    x, w, g = (source.normal(shape) for shape in (x_shape, w_shape, g_shape))
    return x, w, g, parameters


@cases("conv2d")
def conv2d(name: str, source: Source) -> Case:
    """Strides, dilation, groups, asymmetric padding, kernels larger than their stride or not."""
    x, w, g, parameters = _convolution(source)
    return _contraction(name, (x, w), parameters, w, g)


@cases("conv2d_input_grad")
def conv2d_input_grad(name: str, source: Source) -> Case:
    """The cotangent of the images; rows that no window reaches get zeros."""
    x, w, g, parameters = _convolution(source)
    return _contraction(name, (g, w), {**parameters, "image_size": x.shape[1:3]}, w, g)


@cases("conv2d_weight_grad")
def conv2d_weight_grad(name: str, source: Source) -> Case:
    """The cotangent of the weights."""
    x, w, g, parameters = _convolution(source)
    return _contraction(name, (x, g), {**parameters, "kernel_size": w.shape[:2]}, w, g)


def _contraction(
    name: str,
    arrays: tuple[np.ndarray, ...],
    parameters: dict[str, Any],
    w: np.ndarray,
    g: np.ndarray,
) -> Case:
    """All three contractions sum over parts of the same two index sets."""
    taps = max(math.prod(w.shape[:3]), math.prod(w.shape[:2]) * w.shape[3])
    positions = math.prod(g.shape[:3])
    length = positions if name.endswith("weight_grad") else taps
    return Case(
        name,
        arrays,
        parameters,
        gradients=(0, 1),
        floor=math.sqrt(length),
        length=length,
        gradient_length=max(taps, positions),
    )


@cases("depthwise_conv2d")
def depthwise_conv2d(name: str, source: Source) -> Case:
    """One or several filters per channel."""
    image, kernel, window = _window(source)
    channels, multiplier = source.choose((3, 1, 5)), source.choose((1, 2))
    x = source.normal((source.choose((2, 1)), *image, channels))
    w = source.normal((*kernel, channels, multiplier))
    taps = math.prod(kernel)
    return Case(
        name,
        (x, w),
        window,
        gradients=(0, 1),
        floor=math.sqrt(taps),
        length=taps,
        gradient_length=2 * math.prod(image),
    )
