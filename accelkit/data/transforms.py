"""AlexNet's augmentation for training, and its centre and ten-crop evaluation.

A transform is a frozen dataclass, called with an image and the sample's own random draws. It
returns uint8: normalisation belongs into the compiled step, where it costs a quarter of the
transfer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from accelkit.data.images import Image
from accelkit.data.randomness import SampleRandom
from accelkit.data.resize import Box, Pixels
from accelkit.errors import OptionError

__all__ = ["EvaluationTransform", "Resize", "TrainingTransform", "Transform", "add_color_noise"]

Transform: TypeAlias = Callable[[Image, SampleRandom], Pixels]

# Principal components of ImageNet's RGB values, for pixels in [0, 1]: the table that the
# reproductions of AlexNet share (fb.resnet.torch and others); the paper prints none.
_EIGENVALUES: Final = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS: Final = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


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

    def __post_init__(self) -> None:
        if self.crop not in ("alexnet", "random_resized"):
            raise OptionError(f"crop is {self.crop!r}, expected 'alexnet' or 'random_resized'.")
        if self.size < 1 or (self.crop == "alexnet" and self.resize < self.size):
            raise OptionError(
                f"size is {self.size} and resize is {self.resize}; expected 1 <= size <= resize."
            )
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise OptionError(
                f"scale is {self.scale} and ratio is {self.ratio}; expected increasing positive "
                "pairs, and scale at most 1."
            )
        if not 0 <= self.flip <= 1 or self.color_noise < 0:
            raise OptionError(
                f"flip is {self.flip} and color_noise is {self.color_noise}; expected a "
                "probability and a standard deviation."
            )

    def __call__(self, image: Image, random: SampleRandom) -> Pixels:
        """Augment one image to (size, size, C) uint8."""
        # Every draw is made whatever the options are, so that one option leaves the others be.
        if self.crop == "alexnet":
            space = self.resize - self.size + 1
            box = _resized_crop_box(image, self.resize, self.size, random.integer, space)
        else:
            box = self._random_box(image, random)
        pixels = image.resized(self.size, self.size, box)
        is_mirrored = random.uniform() < self.flip
        alphas = (random.normal(), random.normal(), random.normal())
        if self.color_noise:
            pixels = add_color_noise(pixels, tuple(a * self.color_noise for a in alphas))
        return mirrored(pixels) if is_mirrored else pixels

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
        if not 1 <= self.size <= self.resize:
            raise OptionError(
                f"size is {self.size} and resize is {self.resize}; expected 1 <= size <= resize."
            )
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


@dataclass(frozen=True)
class Resize:
    """The whole image at a fixed size, whatever its aspect ratio."""

    height: int
    width: int

    def __call__(self, image: Image, random: SampleRandom) -> Pixels:
        """Resize one image; nothing is random."""
        return image.resized(self.height, self.width)


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


def add_color_noise(pixels: Pixels, alphas: tuple[float, ...]) -> Pixels:
    """Add ``sum_i alpha_i * lambda_i * p_i`` to every pixel (Krizhevsky et al., 2012, section 4.1).

    ``lambda_i`` and ``p_i`` are the eigenvalues and eigenvectors of the covariance of RGB. The
    sum is rounded to whole levels, the result clipped to [0, 255].
    """
    if pixels.shape[-1] != 3:
        raise OptionError(
            f"Colour noise needs three channels, the image has {pixels.shape[-1]}. Set "
            "color_noise=0."
        )
    shifts = []
    for vector in _EIGENVECTORS:
        terms = zip(vector, alphas, _EIGENVALUES, strict=True)
        shift = round(255.0 * sum(p * alpha * value for p, alpha, value in terms))
        shifts.append(min(255, max(-255, shift)))
    # Whole rows at a time: NumPy is slow where the last axis has three elements. Clamped so that
    # the sum stays in [0, 255], after which adding modulo 256 is exact.
    rows = np.ascontiguousarray(pixels).reshape(*pixels.shape[:-2], -1)
    shift_row = np.tile(np.array(shifts), pixels.shape[-2])
    out: Pixels = np.maximum(rows, np.maximum(-shift_row, 0).astype(np.uint8))
    np.minimum(out, np.minimum(255 - shift_row, 255).astype(np.uint8), out=out)
    out += (shift_row % 256).astype(np.uint8)
    return out.reshape(pixels.shape)


def mirrored(pixels: Pixels) -> Pixels:
    """A copy with the columns in reverse order; channel by channel, which is 8 times faster."""
    out = np.empty(pixels.shape, np.uint8)
    for channel in range(pixels.shape[-1]):
        out[..., channel] = pixels[..., ::-1, channel]
    return out
