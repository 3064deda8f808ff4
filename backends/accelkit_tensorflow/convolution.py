"""Convolutions of NHWC images and their gradients.

XLA pads as it goes. TensorFlow's own kernels are oneDNN's only where the padding is "SAME" or
"VALID": for these, images are padded before the convolution. Operands without elements TensorFlow
refuses or, for no images, returns as they are: there the result is zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accelkit.primitives.convolution import conv2d_output_shape, reaches_past_the_window
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


def _is_empty(*operands: Any) -> bool:
    return any(0 in x.shape for x in operands)


# The weights tell TensorFlow how many groups there are.
def _conv2d(x: Any, w: Any, *, strides: Pair, padding: Padding, dilation: Pair, groups: int) -> Any:
    if _is_empty(x, w):
        given = tuple(x.shape), tuple(w.shape)
        return tf.zeros(conv2d_output_shape(*given, strides, padding, dilation, groups), x.dtype)
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
    around: Padding = ((0, 0), (0, 0))
    if reaches_past_the_window(w.shape[:2], padding, dilation):
        # Of the padded images, then cut: XLA ends the process when it swaps the operands of what
        # it makes of such a padding (TensorFlow 2.21).
        around, padding = padding, around
    height, width = (size + sum(pads) for size, pads in zip(image_size, around, strict=True))
    shape = (g.shape[0], height, width, w.shape[2] * groups)
    if _is_empty(g, w):
        return tf.zeros((g.shape[0], *image_size, shape[3]), g.dtype)
    found = ops.Conv2DBackpropInput(
        input_sizes=tf.constant(shape, tf.int32),
        filter=w,
        out_backprop=g,
        **_geometry(strides, padding, dilation),
    )
    (top, bottom), (left, right) = around
    return found[:, top : height - bottom, left : width - right] if any(map(any, around)) else found


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
    if _is_empty(x, g):
        return tf.zeros(shape, g.dtype)
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


def _is_same(kernel_size: Sequence[int], strides: Pair, padding: Padding) -> bool:
    """Whether TensorFlow's "SAME" pads like this."""
    sides = zip(padding, kernel_size, strict=True)
    return strides == (1, 1) and all(a == b and a + b == k - 1 for (a, b), k in sides)


def _padded(x: Any, padding: Padding) -> Any:
    if not any(map(any, padding)):
        return x
    border = tf.constant([(0, 0), *padding, (0, 0)], tf.int32)
    return ops.Pad(input=x, paddings=border)


def _kernel_conv2d(x: Any, w: Any, *, strides: Pair, padding: Padding, **_: Any) -> Any:
    steps = [1, *strides, 1]
    if _is_same(w.shape[:2], strides, padding):
        return ops.Conv2D(input=x, filter=w, strides=steps, padding="SAME")
    return ops.Conv2D(input=_padded(x, padding), filter=w, strides=steps, padding="VALID")


def _kernel_input_grad(
    g: Any, w: Any, *, image_size: Pair, strides: Pair, padding: Padding, **_: Any
) -> Any:
    is_same = _is_same(w.shape[:2], strides, padding)
    borders: Padding = ((0, 0), (0, 0)) if is_same else padding
    (top, bottom), (left, right) = borders
    height, width = image_size
    shape = (g.shape[0], top + height + bottom, left + width + right, w.shape[2])
    found = ops.Conv2DBackpropInput(
        input_sizes=tf.constant(shape, tf.int32),
        filter=w,
        out_backprop=g,
        strides=[1, *strides, 1],
        padding="SAME" if is_same else "VALID",
    )
    if not any(map(any, borders)):
        return found
    return found[:, top : top + height, left : left + width, :]


def _kernel_weight_grad(
    x: Any, g: Any, *, kernel_size: Pair, strides: Pair, padding: Padding, **_: Any
) -> Any:
    is_same = _is_same(kernel_size, strides, padding)
    shape = (*kernel_size, x.shape[3], g.shape[3])
    return ops.Conv2DBackpropFilter(
        input=x if is_same else _padded(x, padding),
        filter_sizes=tf.constant(shape, tf.int32),
        out_backprop=g,
        strides=[1, *strides, 1],
        padding="SAME" if is_same else "VALID",
    )


# For one group and no dilation.
KERNEL_CONVOLUTION: dict[str, Callable[..., Any]] = {
    "conv2d": _kernel_conv2d,
    "conv2d_input_grad": _kernel_input_grad,
    "conv2d_weight_grad": _kernel_weight_grad,
}
