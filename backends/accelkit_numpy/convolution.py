"""Convolutions as matrix products of image patches (im2col), a few images at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from accelkit.primitives.convolution import conv2d_output_shape, window_extent

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

# The patches of a chunk of images stay near the processor's caches.
_CHUNK_BYTES = 16 << 20


def pad_images(x: Any, padding: Padding, value: float = 0.0) -> Any:
    """NHWC images with a border; ``x`` itself if there is none."""
    (top, bottom), (left, right) = padding
    if not (top or bottom or left or right):
        return x
    n, h, w, c = x.shape
    padded = np.full((n, h + top + bottom, w + left + right, c), value, x.dtype)
    padded[:, top : top + h, left : left + w] = x
    return padded


def window_view(
    padded: Any, position: Pair, size: Pair, strides: Pair, dilation: Pair = (1, 1)
) -> Any:
    """What one position of the window sees: a (N, OH, OW, C) view of padded images."""
    top, left = position[0] * dilation[0], position[1] * dilation[1]
    return padded[
        :,
        top : top + (size[0] - 1) * strides[0] + 1 : strides[0],
        left : left + (size[1] - 1) * strides[1] + 1 : strides[1],
    ]


def _patches(padded: Any, kernel: Pair, size: Pair, strides: Pair, dilation: Pair) -> Any:
    """(N, OH, OW, kh, kw, C) view: the patch of the image that each output element sees."""
    n, _, _, c = padded.shape
    sn, sh, sw, sc = padded.strides
    return as_strided(
        padded,
        (n, *size, *kernel, c),
        (sn, sh * strides[0], sw * strides[1], sh * dilation[0], sw * dilation[1], sc),
        writeable=False,
    )


def _chunks(images: int, bytes_per_image: int) -> Iterator[slice]:
    step = max(1, _CHUNK_BYTES // max(1, bytes_per_image))
    for start in range(0, images, step):
        yield slice(start, min(images, start + step))


def _groups(channels: int, outputs: int, groups: int) -> Iterator[tuple[slice, slice]]:
    c, o = channels // groups, outputs // groups
    for group in range(groups):
        yield slice(group * c, (group + 1) * c), slice(group * o, (group + 1) * o)


def conv2d(x: Any, w: Any, *, strides: Pair, padding: Padding, dilation: Pair, groups: int) -> Any:
    """Cross-correlation: (N, H, W, C) and (kh, kw, C / groups, O) to (N, OH, OW, O)."""
    shape = conv2d_output_shape(x.shape, w.shape, strides, padding, dilation, groups)
    kernel, size = w.shape[:2], shape[1:3]
    y = np.empty(shape, x.dtype)
    matrix_rows = kernel[0] * kernel[1] * w.shape[2]
    weights = np.ascontiguousarray(w).reshape(matrix_rows, shape[3])
    for part in _chunks(x.shape[0], size[0] * size[1] * matrix_rows * x.itemsize):
        patches = _patches(pad_images(x[part], padding), kernel, size, strides, dilation)
        positions = math.prod(patches.shape[:3])
        for c, o in _groups(x.shape[3], w.shape[3], groups):
            products = patches[..., c].reshape(positions, matrix_rows) @ weights[:, o]
            y[part, :, :, o] = products.reshape(*patches.shape[:3], shape[3] // groups)
    return y


def conv2d_weight_grad(
    x: Any,
    g: Any,
    *,
    kernel_size: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Any:
    """The cotangent of the weights: (N, H, W, C) and (N, OH, OW, O) to (kh, kw, C / groups, O)."""
    channels, outputs, size = x.shape[3], g.shape[3], g.shape[1:3]
    rows = kernel_size[0] * kernel_size[1] * (channels // groups)
    dw = np.zeros((rows, outputs), x.dtype)
    for part in _chunks(x.shape[0], size[0] * size[1] * rows * x.itemsize):
        patches = _patches(pad_images(x[part], padding), kernel_size, size, strides, dilation)
        positions = math.prod(patches.shape[:3])
        for c, o in _groups(channels, outputs, groups):
            cotangents = g[part, :, :, o].reshape(positions, outputs // groups)
            dw[:, o] += patches[..., c].reshape(positions, rows).T @ cotangents
    return dw.reshape(*kernel_size, channels // groups, outputs)


def conv2d_input_grad(
    g: Any,
    w: Any,
    *,
    image_size: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Any:
    """The cotangent of the images: (N, OH, OW, O) and (kh, kw, C / groups, O) to (N, H, W, C)."""
    kernel, channels, size = w.shape[:2], w.shape[2], g.shape[1:3]
    (top, bottom), (left, right) = padding
    height, width = image_size
    dx = np.empty((g.shape[0], height, width, channels * groups), g.dtype)
    rows = kernel[0] * kernel[1] * channels
    weights = np.ascontiguousarray(w).reshape(rows, w.shape[3])
    for part in _chunks(g.shape[0], size[0] * size[1] * rows * g.itemsize):
        images = part.stop - part.start
        padded = np.zeros(
            (images, height + top + bottom, width + left + right, dx.shape[3]), g.dtype
        )
        for c, o in _groups(dx.shape[3], g.shape[3], groups):
            cotangents = g[part, :, :, o].reshape(images * size[0] * size[1], o.stop - o.start)
            columns = (cotangents @ weights[:, o].T).reshape(images, *size, *kernel, channels)
            for a in range(kernel[0]):
                for b in range(kernel[1]):
                    view = window_view(padded[..., c], (a, b), size, strides, dilation)
                    view += columns[:, :, :, a, b]
        dx[part] = padded[:, top : top + height, left : left + width]
    return dx


def depthwise_conv2d(x: Any, w: Any, *, strides: Pair, padding: Padding, dilation: Pair) -> Any:
    """Each channel with its own filters: (N, H, W, C), (kh, kw, C, M) to (N, OH, OW, C * M)."""
    height, width = (
        window_extent(x.shape[1 + i], w.shape[i], strides[i], padding[i], dilation[i])
        for i in (0, 1)
    )
    padded = pad_images(x, padding)
    channels, multiplier = w.shape[2:]
    total = np.zeros((x.shape[0], height, width, channels, multiplier), x.dtype)
    for a in range(w.shape[0]):
        for b in range(w.shape[1]):
            view = window_view(padded, (a, b), (height, width), strides, dilation)
            total += view[..., None] * w[a, b]
    return total.reshape(x.shape[0], height, width, channels * multiplier)
