"""AlexNet's augmentation for training, and its centre and ten-crop evaluation.

A transform is a frozen dataclass, called with an image and the sample's own random draws. It
returns uint8: normalisation belongs into the compiled step, where it costs a quarter of the
transfer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from accelkit.arguments import require_finite, require_integer, require_number
from accelkit.data.finishing import Finish, mirrored
from accelkit.data.images import Image
from accelkit.data.randomness import SampleRandom, integers
from accelkit.data.resize import Box, Pixels
from accelkit.errors import OptionError

__all__ = ["EvaluationTransform", "PlainCrops", "Resize", "TrainingTransform", "Transform"]

Transform: TypeAlias = Callable[[Image, SampleRandom], Pixels]


@dataclass(frozen=True, eq=False)
class PlainCrops:
    """A batch that needs no resampling: regions of one size, and what is left to do with them.

    Attributes:
        corners: Top and left of each region: int64, shape (N, 2).
        size: Rows and columns of the regions.
        finish: What follows the copy, if anything does.
        finish_in_step: Whether it is left to the compiled step.
    """

    corners: npt.NDArray[np.int64]
    size: tuple[int, int]
    finish: Finish | None = None
    finish_in_step: bool = False

    def __getitem__(self, rows: slice, /) -> PlainCrops:
        """Those of some images."""
        finish = None if self.finish is None else self.finish[rows]
        return replace(self, corners=self.corners[rows], finish=finish)

    @staticmethod
    def joined(parts: Sequence[PlainCrops]) -> PlainCrops:
        """Those of several batches of one transform, one after the other."""
        finishes = [part.finish for part in parts if part.finish is not None]
        finish = Finish.joined(finishes) if finishes else None
        return replace(
            parts[0], corners=np.concatenate([part.corners for part in parts]), finish=finish
        )

    def complete(self, images: Pixels) -> None:
        """Finish images that hold the regions (and room for a row of draws, if they need it)."""
        if self.finish is not None:
            apply = self.finish.note if self.finish_in_step else self.finish.on_host
            apply(images)


def _require_pair(name: str, value: object) -> None:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise OptionError(f"`{name}` must be a pair of numbers, got {value!r}.")
    for bound in value:
        require_finite(name, bound)


def _require_room(size: int, resize: int) -> None:
    """A crop is cut from the resized image."""
    if size > resize:
        raise OptionError(f"size is {size} and resize is {resize}; expected size <= resize.")


@dataclass(frozen=True)
class TrainingTransform:
    """A random crop, a random flip, and the paper's colour noise.

    Args:
        size: Rows and columns of the result.
        crop: ``"alexnet"``: the shorter side becomes ``resize`` pixels, the central square is
            taken, and of it a random ``size`` square (Krizhevsky et al., 2012, section 4.1).
            ``"random_resized"``: a random region of ``scale`` times the area and an aspect
            ratio within ``ratio``, resized to ``size`` (Szegedy et al., 2015).
        resize: Side of the square that ``"alexnet"`` crops from.
        scale: Least and greatest share of the area.
        ratio: Least and greatest width/height.
        flip: Probability of a horizontal flip.
        color_noise: Standard deviation of the noise along the principal components of RGB, 0.1
            in the paper; 0 turns it off. Needs images with three channels.
        finish: Where mirror and colour noise are applied: on the ``"host"``, or in the compiled
            ``"step"``, which saves the host the larger part of its work. The result then has one
            more row, and the step needs :func:`accelkit.data.finished` in its ``preprocess``.

    Raises:
        OptionError: for a value outside its range.
    """

    size: int = 224
    crop: Literal["alexnet", "random_resized"] = "random_resized"
    resize: int = 256
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    color_noise: float = 0.1
    finish: Literal["host", "step"] = "host"

    def __post_init__(self) -> None:
        if self.crop not in ("alexnet", "random_resized"):
            raise OptionError(f"crop is {self.crop!r}, expected 'alexnet' or 'random_resized'.")
        require_integer("size", self.size)
        require_integer("resize", self.resize)
        for name in ("scale", "ratio"):
            _require_pair(name, getattr(self, name))
        for name in ("flip", "color_noise"):
            require_number(name, getattr(self, name))
        if self.crop == "alexnet":
            _require_room(self.size, self.resize)
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise OptionError(
                f"scale is {self.scale} and ratio is {self.ratio}; expected increasing positive "
                "pairs, and scale at most 1."
            )
        if self.flip > 1:
            raise OptionError(f"flip is {self.flip}, expected a probability.")
        if self.finish not in ("host", "step"):
            raise OptionError(f"finish is {self.finish!r}, expected 'host' or 'step'.")

    def __call__(self, image: Image, random: SampleRandom) -> Pixels:
        """Augment one image to (size, size, C) uint8, one row more for ``finish="step"``."""
        # Every draw is made whatever the options are, so that one option leaves the others be.
        if self.crop == "alexnet":
            space = self.resize - self.size + 1
            box = _resized_crop_box(image, self.resize, self.size, random.integer, space)
        else:
            box = self._random_box(image, random)
        pixels = image.resized(self.size, self.size, box)
        words = np.array([[random.word() for _ in range(4)]], np.uint32)
        crops = self._crops(np.zeros((1, 2), np.int64), words, pixels.shape[2])
        rows = self.size + (self.finish == "step")
        result: Pixels = np.empty((rows, self.size, pixels.shape[2]), np.uint8)
        result[: self.size] = pixels
        crops.complete(result[None])
        return result

    def plain_crops(
        self, shape: tuple[int, int, int], words: npt.NDArray[np.uint32]
    ) -> PlainCrops | None:
        """What this transform does to images of one shape, if it resamples none of them.

        Args:
            shape: Height, width and channels of every image.
            words: The first random words of each image, as :class:`SampleRandom` gives them.
        """
        height, width, channels = shape
        if self.crop != "alexnet" or min(height, width) != self.resize:
            return None
        corners = integers(words[:, :2], self.resize - self.size + 1)
        corners += ((height - self.resize) // 2, (width - self.resize) // 2)
        return self._crops(corners, words[:, 2:6], channels)

    def _crops(
        self, corners: npt.NDArray[np.int64], words: npt.NDArray[np.uint32], channels: int
    ) -> PlainCrops:
        finish = Finish.drawn(words, channels, flip=self.flip, color_noise=self.color_noise)
        return PlainCrops(corners, (self.size, self.size), finish, self.finish == "step")

    def _random_box(self, image: Image, random: SampleRandom) -> Box:
        area = image.height * image.width
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            target = area * random.uniform(*self.scale)
            aspect = math.exp(random.uniform(low, high))
            width, height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < width <= image.width and 0 < height <= image.height:
                left = random.integer(image.width - width + 1)
                top = random.integer(image.height - height + 1)
                return left, top, left + width, top + height
        return self._central_box(image)

    def _central_box(self, image: Image) -> Box:
        """The largest central region whose aspect ratio is allowed."""
        width = min(image.width, max(1, round(image.height * self.ratio[1])))
        height = min(image.height, max(1, round(image.width / self.ratio[0])))
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return left, top, left + width, top + height


@dataclass(frozen=True)
class EvaluationTransform:
    """The central crop, or the mean over ten: four corners and the centre, and their mirrors.

    Args:
        size: Rows and columns of a crop.
        resize: The shorter side of the image before cropping, at least ``size``.
        crops: 1 for (size, size, C), 10 for (10, size, size, C).
    """

    size: int = 224
    resize: int = 256
    crops: Literal[1, 10] = 1

    def __post_init__(self) -> None:
        require_integer("size", self.size)
        require_integer("resize", self.resize)
        _require_room(self.size, self.resize)
        if self.crops not in (1, 10):
            raise OptionError(f"crops is {self.crops}, expected 1 or 10.")

    def __call__(self, image: Image, random: SampleRandom) -> Pixels:
        """Crop one image; nothing is random."""
        if self.crops == 1:
            middle = (self.resize - self.size) // 2
            box = _resized_crop_box(image, self.resize, self.size, lambda _: middle, 1)
            return image.resized(self.size, self.size, box)
        square = _resized_crop_box(image, self.resize, self.resize, lambda _: 0, 1)
        pixels = image.resized(self.resize, self.resize, square)
        far, middle = self.resize - self.size, (self.resize - self.size) // 2
        corners = ((0, 0), (0, far), (far, 0), (far, far), (middle, middle))
        crops = np.stack([pixels[y : y + self.size, x : x + self.size] for y, x in corners])
        return np.concatenate([crops, mirrored(crops)])

    def plain_crops(
        self, shape: tuple[int, int, int], words: npt.NDArray[np.uint32]
    ) -> PlainCrops | None:
        """See :meth:`TrainingTransform.plain_crops`."""
        height, width, _ = shape
        if self.crops != 1 or min(height, width) != self.resize:
            return None
        margin = (self.resize - self.size) // 2
        corner = ((height - self.resize) // 2 + margin, (width - self.resize) // 2 + margin)
        return PlainCrops(np.tile(np.array(corner), (len(words), 1)), (self.size, self.size))


@dataclass(frozen=True)
class Resize:
    """The whole image at a fixed size, whatever its aspect ratio."""

    height: int
    width: int

    def __call__(self, image: Image, random: SampleRandom) -> Pixels:
        """Resize one image; nothing is random."""
        return image.resized(self.height, self.width)

    def plain_crops(
        self, shape: tuple[int, int, int], words: npt.NDArray[np.uint32]
    ) -> PlainCrops | None:
        """See :meth:`TrainingTransform.plain_crops`."""
        size = (self.height, self.width)
        return PlainCrops(np.zeros((len(words), 2), np.int64), size) if shape[:2] == size else None


def _resized_crop_box(
    image: Image, resize: int, size: int, choose: Callable[[int], int], space: int
) -> Box:
    """Where a ``size`` square of the image's central ``resize`` square lies in the image.

    The image's shorter side becomes ``resize`` pixels; resampling the returned box gives the
    same as resizing all of it and cropping, for a part of the work.
    """
    short = min(image.height, image.width)
    rows = round(image.height * resize / short)
    columns = round(image.width * resize / short)
    top, left = (rows - resize) // 2 + choose(space), (columns - resize) // 2 + choose(space)
    down, across = image.height / rows, image.width / columns
    right, bottom = (left + size) * across, (top + size) * down
    return left * across, top * down, min(right, image.width), min(bottom, image.height)
