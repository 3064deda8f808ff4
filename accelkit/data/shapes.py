"""A synthetic data set: ten kinds of shapes, drawn when they are asked for.

Every image is a pure function of the seed, the split and its index, so the set can have any size
and needs no download. A shape has a random place, size, angle and colour, on a background with a
gradient and noise; the kinds stay distinct under rotation.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from accelkit.arguments import require_integer
from accelkit.data.images import MAX_PIXELS
from accelkit.data.randomness import SampleRandom
from accelkit.data.records import MOST_SAMPLES, Record, check_index
from accelkit.data.resize import Pixels
from accelkit.errors import OptionError
from accelkit.random import random_bits, subkey

__all__ = ["SHAPE_CLASSES", "ShapesSource", "draw_shape"]

SHAPE_CLASSES: Final = (
    "disc",
    "ring",
    "square",
    "frame",
    "triangle",
    "star",
    "cross",
    "bar",
    "crescent",
    "pair",
)

Field: TypeAlias = npt.NDArray[np.float64]

_NOISE_LEVELS: Final = 32
_LEAST_CONTRAST: Final = 60


class ShapesSource:
    """``count`` drawn images of ``size`` by ``size`` pixels, with equally many of each class.

    Args:
        count: How many images, from 1 to 2^40.
        size: Rows and columns, from 16 to 9,459: beyond it an image counts as unreadable.
        seed: Another seed gives other images.
        split: The images of ``"train"`` and ``"test"`` are independent.

    Raises:
        OptionError: for a value outside its range.
    """

    classes: tuple[str, ...] = SHAPE_CLASSES

    def __init__(
        self,
        count: int = 10_000,
        *,
        size: int = 32,
        seed: int = 0,
        split: Literal["train", "test"] = "train",
    ) -> None:
        require_integer("count", count, most=MOST_SAMPLES)
        require_integer("size", size, least=16, most=math.isqrt(MAX_PIXELS))
        require_integer("seed", seed, least=0)
        if split not in ("train", "test"):
            raise OptionError(f"split is {split!r}, expected 'train' or 'test'.")
        self.size = size
        self.seed = seed
        self.split = split
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Record:
        check_index(index, self._count, "shapes")
        label = index % len(SHAPE_CLASSES)
        pixels = draw_shape(label, self.size, seed=self.seed, split=self.split, index=index)
        return Record(pixels, label, f"shapes[{index}]")

    def __repr__(self) -> str:
        return f"ShapesSource({self._count}, size={self.size}, seed={self.seed}, {self.split})"


def draw_shape(label: int, size: int, *, seed: int, split: str, index: int) -> Pixels:
    """Draw one image: uint8, shape (size, size, 3).

    Args:
        label: Which of :data:`SHAPE_CLASSES`.
        size: Rows and columns.
        seed: Seed of the set.
        split: Name of the part of the set.
        index: Position within the part.
    """
    path = f"accelkit.data.shapes.{split}"
    random = SampleRandom(subkey(seed, index, path, 0), 0)
    radius = size * random.uniform(0.26, 0.42)
    margin = 0.85 * radius
    center = [random.uniform(margin, size - margin) for _ in range(2)]
    angle = random.uniform(0.0, 2.0 * math.pi)
    back = [random.integer(256) for _ in range(3)]
    front = _contrasting(back, random)
    slope = [random.uniform(-0.5, 0.5) * 80 / size for _ in range(2)]

    grid = np.arange(size) + 0.5
    dx, dy = grid[None, :] - center[0], grid[:, None] - center[1]
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = (dx * cosine + dy * sine) / radius, (dy * cosine - dx * sine) / radius
    coverage = np.clip(0.5 - _distance(SHAPE_CLASSES[label], x, y) * radius, 0.0, 1.0)[..., None]
    gradient = slope[0] * (grid[None, :] - size / 2) + slope[1] * (grid[:, None] - size / 2)
    image = (np.array(back) + gradient[..., None]) * (1.0 - coverage) + np.array(front) * coverage
    words = random_bits(subkey(seed, index, path, 1), 0, (size * size * 3 + 3) // 4)
    noise = words.view(np.uint8)[: size * size * 3].reshape(size, size, 3) % _NOISE_LEVELS
    image += noise - (_NOISE_LEVELS - 1) / 2
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


def _contrasting(back: list[int], random: SampleRandom) -> list[int]:
    """A colour whose mean differs from that of ``back`` by at least the least contrast."""
    brightness = sum(back) / 3
    room = (max(0.0, brightness - _LEAST_CONTRAST), max(0.0, 255 - brightness - _LEAST_CONTRAST))
    position = random.uniform(0.0, room[0] + room[1])
    target = position if position < room[0] else position - room[0] + brightness + _LEAST_CONTRAST
    tint = [random.uniform(-1.0, 1.0) for _ in range(3)]
    mean = sum(tint) / 3
    reach = min(target, 255 - target)  # tinting keeps the mean, and so the contrast
    return [round(target + (value - mean) * reach / 2) for value in tint]


def _distance(kind: str, x: Field, y: Field) -> Field:
    """Distance to the outline in radii, roughly, negative inside."""
    if kind in ("disc", "ring"):
        edge = np.sqrt(x * x + y * y) - 1.0
        return edge if kind == "disc" else np.abs(edge + 0.2) - 0.2
    if kind in ("square", "frame"):
        edge = np.maximum(np.abs(x), np.abs(y)) - 0.85
        return edge if kind == "square" else np.abs(edge + 0.18) - 0.18
    if kind == "triangle":
        triangle: Field = _half_planes(x, y, 3).max(axis=0) - 0.55
        return triangle
    if kind == "star":  # at most one of the pentagram's five lines is crossed
        star: Field = np.sort(_half_planes(x, y, 5), axis=0)[-2] - 0.36
        return star
    if kind == "cross":
        across = np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.28)
        return np.minimum(across, np.maximum(np.abs(x) - 0.28, np.abs(y) - 1.0))
    if kind == "bar":
        return np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.25)
    if kind == "crescent":
        bite = np.sqrt((x - 0.5) ** 2 + y * y) - 0.8
        return np.maximum(np.sqrt(x * x + y * y) - 1.0, -bite)
    return np.minimum(np.sqrt((x - 0.6) ** 2 + y * y), np.sqrt((x + 0.6) ** 2 + y * y)) - 0.38


def _half_planes(x: Field, y: Field, count: int) -> Field:
    """Height over the centre along ``count`` evenly spread directions."""
    angles = [2.0 * math.pi * i / count for i in range(count)]
    return np.stack([x * math.cos(angle) + y * math.sin(angle) for angle in angles])
