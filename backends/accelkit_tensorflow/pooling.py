"""The gradient of max-pooling by TensorFlow's own kernel on CPUs, which is oneDNN's.

As the definition, it gives all of a window's gradient to the first maximum in row-major order. One
thing differs: the gradient of a window at a padded border that holds nothing but -inf is dropped,
since the padding counts as its first maximum. The kernel's maximum itself drops NaN and is not
used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from accelkit_tensorflow.framework import tf

__all__ = ["KERNEL_POOLING"]

ops = tf.raw_ops
Pair = tuple[int, int]


def _max_pool2d_grad(
    x: Any, y: Any, g: Any, *, window: Pair, strides: Pair, padding: tuple[Pair, Pair]
) -> Any:
    top, left = padding[0][0], padding[1][0]
    height, width = x.shape[1:3]
    is_padded = any(map(any, padding))
    if is_padded:
        border = tf.constant([(0, 0), *padding, (0, 0)], tf.int32)
        lowest = tf.constant(float("-inf"), x.dtype)
        x = ops.PadV2(input=x, paddings=border, constant_values=lowest)
    geometry = {"ksize": [1, *window, 1], "strides": [1, *strides, 1], "padding": "VALID"}
    # oneDNN's gradient takes the winners from a pooling beside it; without one, another kernel
    # runs that is ten times slower.
    pooled = ops.MaxPool(input=x, **geometry)
    found = ops.MaxPoolGrad(orig_input=x, orig_output=pooled, grad=g, **geometry)
    if not is_padded:
        return found
    return found[:, top : top + height, left : left + width, :]


# For float32.
KERNEL_POOLING: Final[dict[str, Callable[..., Any]]] = {"max_pool2d_grad": _max_pool2d_grad}
