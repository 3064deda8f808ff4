"""Pooling, vectorised over all windows: one pass per position within the window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from accelkit.primitives.pooling import pool_output_shape
from accelkit_numpy.convolution import Padding, Pair, pad_images, window_view


def _views(
    x: Any, window: Pair, strides: Pair, padding: Padding, value: float
) -> Iterator[tuple[int, Any]]:
    """Row-major positions within the window, with what all windows see there."""
    size = pool_output_shape(x.shape, window, strides, padding)[1:3]
    padded = pad_images(x, padding, value)
    for position in range(window[0] * window[1]):
        yield position, window_view(padded, divmod(position, window[1]), size, strides)


def max_pool2d(x: Any, *, window: Pair, strides: Pair, padding: Padding) -> Any:
    """Maximum over each window; NaN always wins."""
    best: Any = None
    for _, view in _views(x, window, strides, padding, float("-inf")):
        best = view.copy() if best is None else np.maximum(best, view, out=best)
    return best


def max_pool2d_winners(x: Any, *, window: Pair, strides: Pair, padding: Padding) -> Any:
    """int32 row-major index of the first maximum within each window."""
    _, height, width, _ = shape = pool_output_shape(x.shape, window, strides, padding)
    # Padding never wins, so a window of nothing but -inf has its first inner element as winner.
    rows = np.maximum(padding[0][0] - np.arange(height) * strides[0], 0)
    columns = np.maximum(padding[1][0] - np.arange(width) * strides[1], 0)
    first = rows[:, None] * window[1] + columns
    winners = np.empty(shape, np.int32)
    winners[...] = first[:, :, None]
    best: Any = None
    for position, view in _views(x, window, strides, padding, float("-inf")):
        if best is None:
            best = view.copy()
            continue
        better = view > best
        better |= np.isnan(view)
        np.copyto(best, view, where=better)
        np.copyto(winners, np.int32(position), where=better)
    return winners


def max_pool2d_gather(
    winners: Any, x: Any, *, window: Pair, strides: Pair, padding: Padding
) -> Any:
    """The element of each window that ``winners`` names."""
    result = np.zeros(winners.shape, x.dtype)
    for position, view in _views(x, window, strides, padding, 0.0):
        np.copyto(result, view, where=winners == position)
    return result


def max_pool2d_scatter(
    winners: Any, g: Any, *, image_size: Pair, window: Pair, strides: Pair, padding: Padding
) -> Any:
    """Zeros with ``g`` added at each window's winner."""
    zero = g.dtype.type(0)
    return _sum_windows(
        g,
        lambda position: np.where(winners == position, g, zero),
        image_size,
        window,
        strides,
        padding,
    )


def max_pool2d_grad(
    x: Any, y: Any, g: Any, *, window: Pair, strides: Pair, padding: Padding
) -> Any:
    """The cotangent of max_pool2d's images."""
    winners = max_pool2d_winners(x, window=window, strides=strides, padding=padding)
    return max_pool2d_scatter(
        winners, g, image_size=x.shape[1:3], window=window, strides=strides, padding=padding
    )


def avg_pool2d(x: Any, *, window: Pair, strides: Pair, padding: Padding) -> Any:
    """Mean over each window; padding counts as zeros."""
    total: Any = None
    for _, view in _views(x, window, strides, padding, 0.0):
        total = view.copy() if total is None else np.add(total, view, out=total)
    total /= total.dtype.type(window[0] * window[1])
    return total


def avg_pool2d_grad(
    g: Any, *, image_size: Pair, window: Pair, strides: Pair, padding: Padding
) -> Any:
    """The cotangent of avg_pool2d's images."""
    share = g / g.dtype.type(window[0] * window[1])
    return _sum_windows(g, lambda position: share, image_size, window, strides, padding)


def _sum_windows(
    g: Any, part: Any, image_size: Pair, window: Pair, strides: Pair, padding: Padding
) -> Any:
    """Sum of ``part(position)``, (N, OH, OW, C) each, at its place in the image."""
    (top, bottom), (left, right) = padding
    height, width = image_size
    shape = (g.shape[0], height + top + bottom, width + left + right, g.shape[3])
    padded = np.zeros(shape, g.dtype)
    for position in range(window[0] * window[1]):
        view = window_view(padded, divmod(position, window[1]), g.shape[1:3], strides)
        view += part(position)
    return padded[:, top : top + height, left : left + width]
