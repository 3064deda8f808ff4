"""Batch normalisation by TensorFlow's own kernels on CPUs.

Not inside of XLA, which takes them for E[x^2] - E[x]^2: that cancels. There the definition is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from accelkit_tensorflow.framework import tf

__all__ = ["KERNEL_BATCH_NORMALIZATION"]

ops = tf.raw_ops


def _images(x: Any) -> Any:
    """(..., C) as images (N, H, W, C), which the kernels ask for."""
    return x if x.shape.rank == 4 else tf.reshape(x, [-1, 1, 1, x.shape[-1]])


def _batch_norm(x: Any, scale: Any, bias: Any, *, epsilon: float) -> tuple[Any, Any, Any]:
    unused = tf.constant([], tf.float32)
    found = ops.FusedBatchNormV3(
        x=_images(x),
        scale=scale,
        offset=bias,
        mean=unused,
        variance=unused,
        epsilon=epsilon,
        is_training=True,
    )
    # The third result has Bessel's correction; what is kept for the gradient has not.
    return tf.reshape(found.y, x.shape), found.batch_mean, found.reserve_space_2


def _batch_norm_grad(
    x: Any, scale: Any, mean: Any, var: Any, g: Any, *, epsilon: float
) -> tuple[Any, Any, Any]:
    found = ops.FusedBatchNormGradV3(
        y_backprop=_images(g),
        x=_images(x),
        scale=scale,
        reserve_space_1=mean,
        reserve_space_2=var,
        reserve_space_3=tf.constant([], tf.float32),
        epsilon=epsilon,
        is_training=True,
    )
    by_x = tf.reshape(found.x_backprop, x.shape)
    return by_x, found.scale_backprop, found.offset_backprop


# For float32.
KERNEL_BATCH_NORMALIZATION: Final[dict[str, Callable[..., Any]]] = {
    "batch_norm": _batch_norm,
    "batch_norm_grad": _batch_norm_grad,
}
