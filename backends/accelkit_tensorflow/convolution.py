"""Convolutions of NHWC images and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelkit_tensorflow.framework import tf

ops = tf.raw_ops
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def _geometry(strides: Pair, padding: Padding, dilation: Pair) -> dict[str, Any]:
    return {
        "strides": [1, *strides, 1],
        "padding": "EXPLICIT",
        "explicit_paddings": [0, 0, *padding[0], *padding[1], 0, 0],
        "dilations": [1, *dilation, 1],
    }


# The weights tell TensorFlow how many groups there are.
def _conv2d(x: Any, w: Any, *, strides: Pair, padding: Padding, dilation: Pair, groups: int) -> Any:
    return ops.Conv2D(input=x, filter=w, **_geometry(strides, padding, dilation))


def _conv2d_input_grad(
    g: Any,
    w: Any,
    *,
    image_size: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Any:
    shape = (g.shape[0], *image_size, w.shape[2] * groups)
    return ops.Conv2DBackpropInput(
        input_sizes=tf.constant(shape, tf.int32),
        filter=w,
        out_backprop=g,
        **_geometry(strides, padding, dilation),
    )


def _conv2d_weight_grad(
    x: Any,
    g: Any,
    *,
    kernel_size: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Any:
    shape = (*kernel_size, x.shape[3] // groups, g.shape[3])
    return ops.Conv2DBackpropFilter(
        input=x,
        filter_sizes=tf.constant(shape, tf.int32),
        out_backprop=g,
        **_geometry(strides, padding, dilation),
    )


CONVOLUTION: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "conv2d_input_grad": _conv2d_input_grad,
    "conv2d_weight_grad": _conv2d_weight_grad,
}
