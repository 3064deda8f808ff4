"""Convolutions and their gradients; XLA sees them as convolutions of NHWC images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from accelkit.primitives.convolution import reaches_past_the_window
from accelkit_jax.shaping import accumulation_dtype

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FULL = lax.Precision.HIGHEST


def conv2d(
    x: Any,
    w: Any,
    *,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    precision: lax.Precision = _FULL,
) -> Any:
    """Cross-correlation: (N, H, W, C) and (kh, kw, C / groups, O) to (N, OH, OW, O)."""
    return lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=_LAYOUT,
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=accumulation_dtype(x.dtype),
    ).astype(x.dtype)


def conv2d_input_grad(
    g: Any, w: Any, *, image_size: Pair, groups: int, padding: Padding, **parameters: Any
) -> Any:
    """The cotangent of the images: (N, OH, OW, O) and the weights to (N, H, W, C)."""
    wide = accumulation_dtype(g.dtype)
    weights = w.astype(wide)
    around: Padding = ((0, 0), (0, 0))
    if reaches_past_the_window(w.shape[:2], padding, parameters["dilation"]):
        # Of the padded images, then cut: XLA ends the process when it swaps the operands of what
        # it makes of such a padding (jax 0.10.2).
        around, padding = padding, around
    height, width = (size + sum(pads) for size, pads in zip(image_size, around, strict=True))
    images = jax.ShapeDtypeStruct((g.shape[0], height, width, w.shape[2] * groups), wide)
    transposed = jax.linear_transpose(
        lambda x: conv2d(x, weights, groups=groups, padding=padding, **parameters), images
    )
    found = transposed(g.astype(wide))[0].astype(g.dtype)
    (top, bottom), (left, right) = around
    return found[:, top : height - bottom, left : width - right]


def conv2d_weight_grad(x: Any, g: Any, *, kernel_size: Pair, groups: int, **parameters: Any) -> Any:
    """The cotangent of the weights: (N, H, W, C) and (N, OH, OW, O) to (kh, kw, C / groups, O)."""
    wide = accumulation_dtype(x.dtype)
    images = x.astype(wide)
    weights = jax.ShapeDtypeStruct((*kernel_size, x.shape[3] // groups, g.shape[3]), wide)
    transposed = jax.linear_transpose(
        lambda w: conv2d(images, w, groups=groups, **parameters), weights
    )
    return transposed(g.astype(wide))[0].astype(x.dtype)


# depthwise_conv2d is missing on purpose: XLA runs it as a grouped convolution, which takes 20 to 75
# times as long on CPUs as its definition, one fused loop of products.
CONVOLUTION: dict[str, Callable[..., Any]] = {
    "conv2d": conv2d,
    "conv2d_input_grad": conv2d_input_grad,
    "conv2d_weight_grad": conv2d_weight_grad,
}
