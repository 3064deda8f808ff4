"""Antialiased bilinear resampling of uint8 images, the same bits with or without Pillow.

The algorithm is the one of Pillow's ``Image.resize(..., BILINEAR, box=...)``: a horizontal, then a
vertical pass of a triangle filter that widens with the reduction, weights in fixed point with 22
fractional bits, rounded to uint8 after each pass (``Resample.c``). Pillow is used where it is
installed, because its code is faster; the NumPy form is its equal and a test holds them
together, so that pixels do not depend on what is installed.
"""

from __future__ import annotations

import functools
import importlib
import math
from types import ModuleType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from accelkit.errors import ShapeError

__all__ = ["Box", "Pixels", "pillow", "resize", "resize_numpy", "resize_pillow"]

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""An image: height, width, channels."""

Box: TypeAlias = tuple[float, float, float, float]
"""A region of an image in pixels: left, top, right, bottom; fractions are allowed."""

_FRACTION_BITS = 32 - 8 - 2


@functools.cache
def pillow() -> ModuleType | None:
    """The ``PIL.Image`` module, or None where Pillow is not installed."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError:
        return None


def resize(image: Pixels, height: int, width: int, box: Box | None = None) -> Pixels:
    """Resample a region of an image to ``height`` by ``width`` pixels.

    Args:
        image: uint8, shape (H, W, C).
        height: Rows of the result.
        width: Columns of the result.
        box: The region, within the image; all of it if None.

    Returns:
        uint8, shape (height, width, C); ``image`` itself where nothing is to be done.

    Raises:
        ShapeError: if the image is not uint8 with three axes, or the box is empty or outside.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ShapeError(
            f"Resizing needs a uint8 image of shape (height, width, channels), got "
            f"{image.dtype}{list(image.shape)}."
        )
    rows, columns, channels = image.shape
    left, top, right, bottom = box = box or (0.0, 0.0, float(columns), float(rows))
    if not (0 <= left < right <= columns and 0 <= top < bottom <= rows):
        raise ShapeError(f"The box {box} does not lie within an image of {rows}x{columns} pixels.")
    if height < 1 or width < 1:
        raise ShapeError(f"Cannot resize to {height}x{width}: both sides must be at least 1.")
    if (bottom - top, right - left) == (height, width) and left == int(left) and top == int(top):
        return image[int(top) : int(bottom), int(left) : int(right)]
    image, box = _reachable(image, height, width, box)
    if channels in (1, 3) and pillow() is not None:
        return resize_pillow(image, height, width, box)
    return resize_numpy(image, height, width, box)


def _reachable(image: Pixels, height: int, width: int, box: Box) -> tuple[Pixels, Box]:
    """Cut off what the filter cannot reach: making a Pillow image copies all of its pixels."""
    left, top, right, bottom = box
    across = 1 + math.ceil(max(1.0, (right - left) / width))
    down = 1 + math.ceil(max(1.0, (bottom - top) / height))
    x0, y0 = max(0, int(left) - across), max(0, int(top) - down)
    part = image[y0 : math.ceil(bottom) + down, x0 : math.ceil(right) + across]
    return part, (left - x0, top - y0, right - x0, bottom - y0)


def resize_pillow(image: Pixels, height: int, width: int, box: Box) -> Pixels:
    """Resample a box by Pillow, for one or three channels."""
    module = pillow()
    assert module is not None
    rows = image.shape[0]
    pixels = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
    # One call for each pass: which pass a single call does first depends on Pillow's version.
    across = (box[0], 0, box[2], rows)
    down = (0, box[1], width, box[3])
    bilinear = module.Resampling.BILINEAR
    narrowed = module.fromarray(pixels).resize((width, rows), bilinear, across)
    return np.asarray(narrowed.resize((width, height), bilinear, down)).reshape(
        height, width, image.shape[2]
    )


def resize_numpy(image: Pixels, height: int, width: int, box: Box) -> Pixels:
    """Resample a box by NumPy alone, for any number of channels."""
    rows, columns, channels = image.shape
    left, top, right, bottom = box
    if (left, right) != (0, columns) or width != columns:
        across = _weights(columns, left, right, width)
        image = _apply(across, image.transpose(1, 0, 2)).transpose(1, 0, 2)
    if (top, bottom) != (0, rows) or height != rows:
        image = _apply(_weights(rows, top, bottom, height), image)
    return image.reshape(height, width, channels)


def _apply(weights: npt.NDArray[np.float64], image: Pixels) -> Pixels:
    """Weight the first axis. Integers below 2^53: exact in float64, whatever order BLAS adds in."""
    sums = weights @ image.reshape(image.shape[0], -1).astype(np.float64)
    sums += 1 << (_FRACTION_BITS - 1)
    sums *= 2.0**-_FRACTION_BITS
    out = np.clip(sums, 0, 255, out=sums).astype(np.uint8)  # truncation is floor here
    return out.reshape(weights.shape[0], *image.shape[1:])


def _weights(size: int, start: float, stop: float, count: int) -> npt.NDArray[np.float64]:
    """Fixed-point weights of ``count`` outputs over ``size`` inputs, as whole float64 numbers.

    Pillow holds the box in single precision, so that is done here as well.
    """
    begin = np.float32(start)
    scale = float(np.float32(stop) - begin) / count
    stretch = max(scale, 1.0)
    centers = float(begin) + (np.arange(count) + 0.5) * scale
    first = np.maximum((centers - stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + stretch + 0.5).astype(np.int64), size)
    taps = math.ceil(stretch) * 2 + 1
    inputs = first[:, None] + np.arange(taps)
    distance = (inputs - centers[:, None] + 0.5) * (1.0 / stretch)
    weights = np.where(inputs < last[:, None], np.maximum(1.0 - np.abs(distance), 0.0), 0.0)
    total = np.zeros(count)
    for tap in range(taps):  # in Pillow's order: another one rounds differently
        total += weights[:, tap]
    weights /= np.where(total == 0, 1.0, total)[:, None]
    dense = np.zeros((count, size + taps))
    fixed = np.trunc(weights * (1 << _FRACTION_BITS) + 0.5)
    np.put_along_axis(dense, inputs, fixed, axis=1)
    return dense[:, :size]
