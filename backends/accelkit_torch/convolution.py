"""Convolutions and pooling on NHWC memory.

A contiguous NHWC array seen as NCHW has torch's ``channels_last`` layout, and HWIO weights seen
as OIHW are a permuted view: nothing is copied on the way in or out. torch's kernels refuse most
operands without elements, so nothing is handed to them where there is nothing to multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from accelkit.primitives.convolution import window_extent
from accelkit.primitives.pooling import pool_output_shape
from accelkit_torch.dtypes import HALF

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
_aten = torch.ops.aten


def nchw(x: Tensor) -> Tensor:
    """The NCHW view of NHWC images."""
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    """The NHWC view of NCHW images."""
    return x.permute(0, 2, 3, 1)


def oihw(w: Tensor) -> Tensor:
    """The OIHW view of HWIO weights."""
    return w.permute(3, 2, 0, 1)


def hwio(w: Tensor) -> Tensor:
    """The HWIO view of OIHW weights."""
    return w.permute(2, 3, 1, 0)


def symmetric(padding: Padding) -> bool:
    """Whether torch's own padding, equal on both sides, can express ``padding``."""
    return padding[0][0] == padding[0][1] and padding[1][0] == padding[1][1]


def _pad(x: Tensor, padding: Padding, value: float = 0.0) -> Tensor:
    (top, bottom), (left, right) = padding
    return F.pad(x, (left, right, top, bottom), value=value)


def _geometry(x: Tensor, padding: Padding) -> tuple[Tensor, Pair]:
    """NCHW images and the padding that is left for the operation itself."""
    if symmetric(padding):
        return x, (padding[0][0], padding[1][0])
    return _pad(x, padding), (0, 0)


def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """(N, H, W, C), (kh, kw, C / groups, O) and a bias (O,) to (N, OH, OW, O)."""
    if not (x.numel() and w.numel()):
        size = (
            window_extent(x.shape[1 + i], w.shape[i], strides[i], padding[i], dilation[i])
            for i in (0, 1)
        )
        zeros = x.new_zeros((x.shape[0], *size, w.shape[3]))
        return zeros if bias is None else zeros + bias
    images, border = _geometry(nchw(x), padding)
    return nhwc(
        torch.convolution(images, oihw(w), bias, strides, border, dilation, False, (0, 0), groups)
    )


def conv2d_backward(
    x: Tensor,
    w: Tensor,
    g: Tensor,
    *,
    wanted: tuple[bool, bool, bool],
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The cotangents of images, weights and bias, each where ``wanted``, in one call."""
    if not (x.numel() and w.numel()):
        found = x.new_zeros(x.shape), w.new_zeros(w.shape), g.sum((0, 1, 2))
        dx, dw, db = (t if want else None for t, want in zip(found, wanted, strict=True))
        return dx, dw, db
    images, border = _geometry(nchw(x), padding)
    weights = oihw(w)
    # torch's kernel for a single small image takes no permuted weights, that for float64 none that
    # look as if their channels were last, as permuted ones of one feature do.
    if x.shape[0] == 1 or w.shape[3] == 1:
        weights = weights.contiguous()
    dx, dw, db = _aten.convolution_backward(
        nchw(g),
        images,
        weights,
        [w.shape[3]],
        strides,
        border,
        dilation,
        False,
        (0, 0),
        groups,
        wanted,
    )
    if wanted[0]:
        if not symmetric(padding):
            top, left = padding[0][0], padding[1][0]
            dx = dx[:, :, top : top + x.shape[1], left : left + x.shape[2]]
        dx = nhwc(dx)
    return dx, hwio(dw) if wanted[1] else None, db


def _placeholder(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of a shape that takes no memory: only its shape will be read."""
    return like.new_empty(1).expand(shape)


def conv2d_input_grad(g: Tensor, w: Tensor, *, image_size: Pair, **geometry: Any) -> Tensor:
    """The cotangent of conv2d's images."""
    images = _placeholder(g, (g.shape[0], *image_size, w.shape[2] * geometry["groups"]))
    dx = conv2d_backward(images, w, g, wanted=(True, False, False), **geometry)[0]
    assert dx is not None
    return dx


def conv2d_weight_grad(x: Tensor, g: Tensor, *, kernel_size: Pair, **geometry: Any) -> Tensor:
    """The cotangent of conv2d's weights."""
    weights = _placeholder(g, (*kernel_size, x.shape[3] // geometry["groups"], g.shape[3]))
    dw = conv2d_backward(x, weights, g, wanted=(False, True, False), **geometry)[1]
    assert dw is not None
    return dw


def depthwise_conv2d(
    x: Tensor, w: Tensor, *, strides: Pair, padding: Padding, dilation: Pair
) -> Tensor:
    """Each channel with its own filters: (N, H, W, C), (kh, kw, C, M) to (N, OH, OW, C * M)."""
    kh, kw, channels, multiplier = w.shape
    grouped = w.reshape(kh, kw, 1, channels * multiplier)
    return conv2d(x, grouped, strides=strides, padding=padding, dilation=dilation, groups=channels)


# --- pooling --------------------------------------------------------------------------------------


def native_pool_padding(window: Pair, padding: Padding) -> bool:
    """Whether torch can pool with these borders: equal ones, of at most half a window."""
    (top, _), (left, _) = padding
    return symmetric(padding) and 2 * top <= window[0] and 2 * left <= window[1]


def _pool_geometry(x: Tensor, window: Pair, padding: Padding, value: float) -> tuple[Tensor, Pair]:
    """NCHW images and the border that is left for torch; another one is made beforehand."""
    if native_pool_padding(window, padding):
        return nchw(x), (padding[0][0], padding[1][0])
    return _pad(nchw(x), padding, value), (0, 0)


def max_pool2d_with_indices(
    x: Tensor, *, window: Pair, strides: Pair, padding: Padding
) -> tuple[Tensor, Tensor]:
    """The maxima of NHWC images, NHWC, and torch's own record of where they stood, NCHW."""
    if not x.numel():
        y = x.new_full(pool_output_shape(tuple(x.shape), window, strides, padding), float("-inf"))
        return y, torch.zeros_like(nchw(y), dtype=torch.int64)
    images, border = _pool_geometry(x, window, padding, float("-inf"))
    y, indices = _aten.max_pool2d_with_indices(images, window, strides, border)
    return nhwc(y), indices


def max_pool2d_indices_grad(
    x: Tensor, indices: Tensor, g: Tensor, *, window: Pair, strides: Pair, padding: Padding
) -> Tensor:
    """The cotangent of max_pool2d's images, from the record of its maxima (native borders)."""
    if not x.numel():
        return torch.zeros_like(x)
    border = (padding[0][0], padding[1][0])
    return nhwc(
        _aten.max_pool2d_with_indices_backward(
            nchw(g), nchw(x), window, strides, border, (1, 1), False, indices
        )
    )


def max_pool2d(x: Tensor, *, window: Pair, strides: Pair, padding: Padding) -> Tensor:
    """Maximum over each window; NaN always wins."""
    return max_pool2d_with_indices(x, window=window, strides=strides, padding=padding)[0]


def max_pool2d_grad(x: Tensor, y: Tensor, g: Tensor, **geometry: Any) -> Tensor:
    """The cotangent of max_pool2d's images."""
    if not x.numel():
        return torch.zeros_like(x)
    if not native_pool_padding(geometry["window"], geometry["padding"]):
        return deterministic_max_pool2d_grad(x, y, g, **geometry)
    _, indices = max_pool2d_with_indices(x, **geometry)
    return max_pool2d_indices_grad(x, indices, g, **geometry)


def deterministic_max_pool2d_grad(x: Tensor, y: Tensor, g: Tensor, **geometry: Any) -> Tensor:
    """The same without torch's own kernel, which on CUDA adds by atomics in any order."""
    winners = max_pool2d_winners(x, **geometry)
    return max_pool2d_scatter(winners, g, image_size=(x.shape[1], x.shape[2]), **geometry)


def _corners(
    size: Pair, strides: Pair, padding: Padding, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Image row and column of each window's first element, (OH, 1, 1) and (OW, 1)."""
    rows = torch.arange(size[0], device=device) * strides[0] - padding[0][0]
    columns = torch.arange(size[1], device=device) * strides[1] - padding[1][0]
    return rows[:, None, None], columns[:, None]


def max_pool2d_winners(x: Tensor, *, window: Pair, strides: Pair, padding: Padding) -> Tensor:
    """int32 row-major index of the first maximum within each window."""
    images, border = _pool_geometry(x, window, padding, float("-inf"))
    _, indices = _aten.max_pool2d_with_indices(images, window, strides, border)
    flat, width = nhwc(indices), images.shape[3]
    # The record counts within the image that was pooled, whose border may be real.
    left_over: Padding = ((border[0], border[0]), (border[1], border[1]))
    size = (flat.shape[1], flat.shape[2])
    rows, columns = _corners(size, strides, left_over, x.device)
    row = flat.div(width, rounding_mode="floor")
    winners = (row - rows) * window[1] + (flat - row * width - columns)
    if images.shape[2:] != x.shape[1:3]:
        winners = torch.where(
            torch.isneginf(nhwc(_aten.max_pool2d(images, window, strides, border))),
            _first_inside(x, window, strides, padding),
            winners,
        )
    return winners.to(torch.int32)


def _first_inside(x: Tensor, window: Pair, strides: Pair, padding: Padding) -> Tensor:
    """Index of each window's first element inside the image: the winner where all are -inf."""
    shape = pool_output_shape(tuple(x.shape), window, strides, padding)
    rows, columns = _corners(shape[1:3], strides, padding, x.device)
    return (-rows).clamp(min=0) * window[1] + (-columns).clamp(min=0)


def _positions(
    winners: Tensor, width: int, window: Pair, strides: Pair, padding: Padding
) -> Tensor:
    """Row-major image position of each window's winner, NHWC int64."""
    rows, columns = _corners((winners.shape[1], winners.shape[2]), strides, padding, winners.device)
    wide = winners.to(torch.int64)
    a = wide.div(window[1], rounding_mode="floor")
    return (rows + a) * width + (columns + wide - a * window[1])


def max_pool2d_gather(
    winners: Tensor, x: Tensor, *, window: Pair, strides: Pair, padding: Padding
) -> Tensor:
    """The element of each window that ``winners`` names."""
    n, h, w, c = x.shape
    positions = _positions(winners, w, window, strides, padding).clamp(0, h * w - 1)
    chosen = torch.gather(x.reshape(n, h * w, c), 1, positions.reshape(n, -1, c))
    return chosen.reshape(winners.shape)


def max_pool2d_scatter(
    winners: Tensor, g: Tensor, *, image_size: Pair, window: Pair, strides: Pair, padding: Padding
) -> Tensor:
    """Zeros with ``g`` added at each window's winner, in a fixed order."""
    n, rows, columns, c = g.shape
    (top, bottom), (left, right) = padding
    height, width = image_size
    shape = (n, height + top + bottom, width + left + right, c)
    wide = torch.float32 if g.dtype in HALF else g.dtype
    padded = torch.zeros(shape, dtype=wide, device=g.device)
    zero = torch.zeros((), dtype=g.dtype, device=g.device)
    for position in range(window[0] * window[1]):
        a, b = divmod(position, window[1])
        view = padded[
            :,
            a : a + (rows - 1) * strides[0] + 1 : strides[0],
            b : b + (columns - 1) * strides[1] + 1 : strides[1],
        ]
        view += torch.where(winners == position, g, zero)
    return padded[:, top : top + height, left : left + width].to(g.dtype)


def avg_pool2d(x: Tensor, *, window: Pair, strides: Pair, padding: Padding) -> Tensor:
    """Mean over each window; padding counts as zeros."""
    if not x.numel():
        return x.new_zeros(pool_output_shape(tuple(x.shape), window, strides, padding))
    images, border = _pool_geometry(x, window, padding, 0.0)
    return nhwc(_aten.avg_pool2d(images, window, strides, border, False, True))


def avg_pool2d_grad(
    g: Tensor, *, image_size: Pair, window: Pair, strides: Pair, padding: Padding
) -> Tensor:
    """The cotangent of avg_pool2d's images."""
    shape = (g.shape[0], *image_size, g.shape[3])
    if 0 in shape:
        return g.new_zeros(shape)
    images, border = _pool_geometry(g.new_empty(shape), window, padding, 0.0)
    dx = _aten.avg_pool2d_backward(nchw(g), images, window, strides, border, False, True, None)
    if images.shape[2:] != image_size:
        top, left = padding[0][0], padding[1][0]
        dx = dx[:, :, top : top + image_size[0], left : left + image_size[1]]
    return nhwc(dx)


CONVOLUTION: dict[str, Callable[..., Any]] = {
    "conv2d": conv2d,
    "conv2d_input_grad": conv2d_input_grad,
    "conv2d_weight_grad": conv2d_weight_grad,
    "depthwise_conv2d": depthwise_conv2d,
    "max_pool2d": max_pool2d,
    "max_pool2d_grad": max_pool2d_grad,
    "max_pool2d_winners": max_pool2d_winners,
    "max_pool2d_gather": max_pool2d_gather,
    "max_pool2d_scatter": max_pool2d_scatter,
    "avg_pool2d": avg_pool2d,
    "avg_pool2d_grad": avg_pool2d_grad,
}
