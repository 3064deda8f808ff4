"""Two-dimensional convolutions and their gradients: NHWC images, HWIO weights.

The three primitives are the three contractions of one trilinear form, so each one's derivative
consists of the other two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from accelkit.errors import DTypeError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.primitive import CostRule, primitive
from accelkit.primitives.shaping import pad, reshape, slice_

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def window_extent(extent: int, window: int, stride: int, padding: Pair, dilation: int = 1) -> int:
    """Number of positions of a window along an axis; may be zero or negative if none fits."""
    return (extent + padding[0] + padding[1] - dilation * (window - 1) - 1) // stride + 1


def reaches_past_the_window(window: Sequence[int], padding: Padding, dilation: Pair) -> bool:
    """Whether as many or more zeros are added on a side as a window has beside one position."""
    axes = zip(window, padding, dilation, strict=True)
    return any(max(pads) >= max((size - 1) * step, 1) for size, pads, step in axes)


def _check(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    groups: int,
) -> None:
    if len(x_shape) != 4 or len(w_shape) != 4:
        raise ShapeError(
            f"conv2d needs images (N, H, W, C) and weights (kh, kw, C / groups, O), got shapes "
            f"{x_shape} and {w_shape}."
        )
    if groups < 1 or x_shape[3] != w_shape[2] * groups or w_shape[3] % groups:
        raise ShapeError(
            f"conv2d with groups={groups} needs weights (kh, kw, channels / groups, O) with O "
            f"divisible by groups; got {x_shape[3]} channels and weights {w_shape}."
        )


def _check_window(w_shape: tuple[int, ...]) -> None:
    if not (w_shape[0] and w_shape[1]):
        raise ShapeError(
            f"The window of a convolution needs a row and a column, got weights of shape {w_shape}."
        )


def conv2d_output_shape(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> tuple[int, int, int, int]:
    """Shape (N, OH, OW, O) of a convolution's result.

    Raises:
        ShapeError: if the operands do not fit, or the image is smaller than the window.
    """
    _check(x_shape, w_shape, groups)
    _check_window(w_shape)
    height, width = (
        window_extent(x_shape[1 + i], w_shape[i], strides[i], padding[i], dilation[i])
        for i in (0, 1)
    )
    if height < 1 or width < 1:
        raise ShapeError(
            f"A {x_shape[1]}x{x_shape[2]} image with padding {padding} is smaller than the "
            f"{w_shape[0]}x{w_shape[1]} window (dilation {dilation}): nothing is left of "
            "it. Images are (N, H, W, C)."
        )
    return (x_shape[0], height, width, w_shape[3])


def _same_dtype(a: TensorSpec, b: TensorSpec) -> None:
    if a.dtype is not b.dtype or not a.dtype.is_floating:
        raise DTypeError(
            f"conv2d needs floats of one dtype, got {a.dtype} and {b.dtype}. Convert one by "
            "`.astype`."
        )


def _conv2d_infer(
    x: TensorSpec, w: TensorSpec, *, strides: Pair, padding: Padding, dilation: Pair, groups: int
) -> TensorSpec:
    _same_dtype(x, w)
    return TensorSpec(
        conv2d_output_shape(x.shape, w.shape, strides, padding, dilation, groups), x.dtype
    )


def _input_grad_infer(
    g: TensorSpec,
    w: TensorSpec,
    *,
    image_size: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> TensorSpec:
    _same_dtype(g, w)
    shape = (g.shape[0], *image_size, w.shape[2] * groups)
    expected = conv2d_output_shape(shape, w.shape, strides, padding, dilation, groups)
    if expected != g.shape:
        raise ShapeError(f"conv2d_input_grad needs g of shape {expected}, got {g.shape}.")
    return TensorSpec(shape, g.dtype)


def _weight_grad_infer(
    x: TensorSpec,
    g: TensorSpec,
    *,
    kernel_size: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> TensorSpec:
    _same_dtype(x, g)
    shape = (*kernel_size, x.shape[3] // groups, g.shape[3])
    expected = conv2d_output_shape(x.shape, shape, strides, padding, dilation, groups)
    if expected != g.shape:
        raise ShapeError(f"conv2d_weight_grad needs g of shape {expected}, got {g.shape}.")
    return TensorSpec(shape, g.dtype)


def _flops_by(position: int, is_output: bool) -> CostRule:
    """Every multiply-add belongs to one element of g (or y) and one of its window's weights."""

    def flops(
        inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], parameters: Mapping[str, Any]
    ) -> int:
        result = outputs[0] if is_output else inputs[position]
        if "kernel_size" in parameters:
            channels = inputs[0].shape[3] // parameters["groups"]
            window = math.prod(parameters["kernel_size"]) * channels
        else:
            window = math.prod(inputs[1].shape[:3])
        return 2 * result.size * int(window)

    return flops


def _conv2d_vjp(g: Any, y: Any, x: Any, w: Any, **parameters: Any) -> Sequence[Any]:
    return (
        conv2d_input_grad(g, w, image_size=tuple(x.shape[1:3]), **parameters),
        conv2d_weight_grad(x, g, kernel_size=tuple(w.shape[:2]), **parameters),
    )


def _input_grad_vjp(
    ct: Any, dx: Any, g: Any, w: Any, *, image_size: Pair, **parameters: Any
) -> Sequence[Any]:
    return (
        conv2d(ct, w, **parameters),
        conv2d_weight_grad(ct, g, kernel_size=tuple(w.shape[:2]), **parameters),
    )


def _weight_grad_vjp(
    ct: Any, dw: Any, x: Any, g: Any, *, kernel_size: Pair, **parameters: Any
) -> Sequence[Any]:
    return (
        conv2d_input_grad(g, ct, image_size=tuple(x.shape[1:3]), **parameters),
        conv2d(x, ct, **parameters),
    )


conv2d = primitive(
    "conv2d",
    _conv2d_infer,
    vjp=_conv2d_vjp,
    flops=_flops_by(0, is_output=True),
    doc="""Cross-correlation of x (N, H, W, C) with w (kh, kw, C / groups, O): (N, OH, OW, O).

    y[n,i,j,o] = sum over a, b, c of x[n, i*sh + a*dh - pt, j*sw + b*dw - pl, c] * w[a,b,c,o],
    zero outside of the image; with groups, output group k sees input group k only. padding is
    ((top, bottom), (left, right)).""",
)
conv2d_input_grad = primitive(
    "conv2d_input_grad",
    _input_grad_infer,
    vjp=_input_grad_vjp,
    flops=_flops_by(0, is_output=False),
    doc="The cotangent of conv2d's images: g (N, OH, OW, O), w (kh, kw, C / groups, O) to NHWC.",
)
conv2d_weight_grad = primitive(
    "conv2d_weight_grad",
    _weight_grad_infer,
    vjp=_weight_grad_vjp,
    flops=_flops_by(1, is_output=False),
    doc="The cotangent of conv2d's weights: x (N, H, W, C), g (N, OH, OW, O) to HWIO.",
)


def windows(
    x: Any,
    window: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair = (1, 1),
    value: float = 0.0,
) -> list[Any]:
    """Strided views of NHWC ``x``, one per window position in row-major order."""
    height, width = (
        window_extent(x.shape[1 + i], window[i], strides[i], padding[i], dilation[i])
        for i in (0, 1)
    )
    if padding != ((0, 0), (0, 0)):
        x = pad(
            x,
            low=(0, padding[0][0], padding[1][0], 0),
            high=(0, padding[0][1], padding[1][1], 0),
            interior=(0, 0, 0, 0),
            value=value,
        )
    views = []
    for a in range(window[0]):
        for b in range(window[1]):
            top, left = a * dilation[0], b * dilation[1]
            views.append(
                slice_(
                    x,
                    start=(0, top, left, 0),
                    stop=(
                        x.shape[0],
                        top + (height - 1) * strides[0] + 1,
                        left + (width - 1) * strides[1] + 1,
                        x.shape[3],
                    ),
                    step=(1, *strides, 1),
                )
            )
    return views


def _depthwise_infer(
    x: TensorSpec, w: TensorSpec, *, strides: Pair, padding: Padding, dilation: Pair
) -> TensorSpec:
    _same_dtype(x, w)
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ShapeError(
            f"depthwise_conv2d needs images (N, H, W, C) and weights (kh, kw, C, multiplier), "
            f"got {x.shape} and {w.shape}."
        )
    channels, multiplier = w.shape[2:]
    grouped = (*w.shape[:2], 1, channels * multiplier)
    return TensorSpec(
        conv2d_output_shape(x.shape, grouped, strides, padding, dilation, channels), x.dtype
    )


def _depthwise_definition(
    x: Any, w: Any, *, strides: Pair, padding: Padding, dilation: Pair
) -> Any:
    channels, multiplier = w.shape[2:]
    window = tuple(w.shape[:2])
    total: Any = None
    for position, view in enumerate(windows(x, window, strides, padding, dilation)):
        a, b = divmod(position, window[1])
        tap = slice_(
            w, start=(a, b, 0, 0), stop=(a + 1, b + 1, channels, multiplier), step=(1, 1, 1, 1)
        )
        term = reshape(view, shape=(*view.shape, 1)) * tap
        total = term if total is None else total + term
    return reshape(total, shape=(*total.shape[:3], channels * multiplier))


def _depthwise_flops(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], parameters: Mapping[str, Any]
) -> int:
    return 2 * outputs[0].size * math.prod(inputs[1].shape[:2])


depthwise_conv2d = primitive(
    "depthwise_conv2d",
    _depthwise_infer,
    definition=_depthwise_definition,
    flops=_depthwise_flops,
    doc="""Each channel with filters of its own: x (N, H, W, C), w (kh, kw, C, M): (N, OH, OW, C*M).

    Output channel c*M + m is the convolution of channel c with w[:, :, c, m].""",
)
