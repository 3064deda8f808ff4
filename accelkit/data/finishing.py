"""The last part of augmentation, the mirror and the colour noise: on the host or in the step.

On the host both cost more than copying the pixels does. So they can be left to the compiled
step: then each image gets one more row, in which its draws travel with its pixels to the device,
in one transfer, and :func:`finished` applies them there. Both places give the same values, since
all of it is arithmetic on whole numbers, and the draws are a pure function of seed, epoch and
index either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from accelkit import ops
from accelkit.data.randomness import normals
from accelkit.data.resize import Pixels
from accelkit.errors import OptionError
from accelkit.tensor import Tensor

__all__ = ["Finish", "add_color_noise", "finished", "mirrored"]

Words: TypeAlias = npt.NDArray[np.uint32]

# Principal components of ImageNet's RGB values, for pixels in [0, 1]: the table that the
# reproductions of AlexNet share (fb.resnet.torch and others); the paper prints none.
_EIGENVALUES: Final = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS: Final = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


@dataclass(frozen=True, eq=False)
class Finish:
    """Mirrors and colour shifts of N images.

    Attributes:
        is_mirrored: bool, shape (N,).
        shifts: What is added to each channel, -255 to 255: int16, shape (N, C).
    """

    is_mirrored: npt.NDArray[np.bool_]
    shifts: npt.NDArray[np.int16]

    @classmethod
    def drawn(cls, words: Words, channels: int, *, flip: float, color_noise: float) -> Finish:
        """From four random words for each image.

        Args:
            words: uint32, shape (N, 4).
            channels: Of the images.
            flip: Probability of a mirror.
            color_noise: Standard deviation of the noise; see :func:`add_color_noise`.

        Raises:
            OptionError: if there is to be colour noise, but not three channels.
        """
        is_mirrored = (words[:, 0] >> 8) * 2.0**-24 < flip
        if not color_noise:
            return cls(is_mirrored, np.zeros((len(words), channels), np.int16))
        _require_rgb(channels)
        return cls(is_mirrored, _color_shifts(normals(words[:, 1:]) * color_noise))

    def __getitem__(self, rows: slice, /) -> Finish:
        """Those of some images."""
        return Finish(self.is_mirrored[rows], self.shifts[rows])

    @staticmethod
    def joined(parts: Sequence[Finish]) -> Finish:
        """Those of several batches, one after the other."""
        return Finish(
            np.concatenate([part.is_mirrored for part in parts]),
            np.concatenate([part.shifts for part in parts]),
        )

    def on_host(self, images: Pixels) -> None:
        """Change the images, uint8 of shape (N, H, W, C), in place."""
        for row in np.flatnonzero(self.shifts.any(axis=1)).tolist():
            _shift(images[row], self.shifts[row])
        for row in np.flatnonzero(self.is_mirrored).tolist():
            images[row] = mirrored(images[row])

    def note(self, images: Pixels) -> None:
        """Write the draws into the last row of each image, for :func:`finished`.

        Args:
            images: uint8, shape (N, H + 1, W, C).

        Raises:
            OptionError: if the row is too short for them.
        """
        count, _, width, channels = images.shape
        if width * channels < 1 + 2 * channels:
            raise OptionError(
                f"A row of {width} pixels is too short for an image's draws, which need "
                f"{1 + 2 * channels} bytes. Use larger images, or finish on the host."
            )
        notes = images[:, -1].reshape(count, width * channels)  # a view, as rows are contiguous
        notes[:, 0] = self.is_mirrored
        notes[:, 1 : 1 + channels] = np.maximum(self.shifts, 0)
        notes[:, 1 + channels : 1 + 2 * channels] = np.maximum(-self.shifts, 0)
        notes[:, 1 + 2 * channels :] = 0


def finished(images: Tensor) -> Tensor:
    """Mirror and shift images as the draws in their last rows say; for a step's ``preprocess``.

    Args:
        images: uint8, shape (N, H + 1, W, C), of a transform with ``finish="step"``.

    Returns:
        uint8 values as float32, shape (N, H, W, C): the very ones that finishing on the host gives.
    """
    count, _, width, channels = images.shape
    notes = ops.reshape(images[:, -1], (count, width * channels))
    pixels = images[:, :-1]
    is_mirrored = ops.reshape(notes[:, 0] != 0, (count, 1, 1, 1))
    pixels = ops.where(is_mirrored, ops.flip(pixels, axis=2), pixels)
    more = ops.astype(notes[:, 1 : 1 + channels], "float32")
    less = ops.astype(notes[:, 1 + channels : 1 + 2 * channels], "float32")
    shift = ops.reshape(more - less, (count, 1, 1, channels))
    return ops.clip(ops.astype(pixels, "float32") + shift, 0.0, 255.0)


def add_color_noise(pixels: Pixels, alphas: tuple[float, float, float]) -> Pixels:
    """Add ``sum_i alpha_i * lambda_i * p_i`` to every pixel (Krizhevsky et al., 2012, section 4.1).

    ``lambda_i`` and ``p_i`` are the eigenvalues and eigenvectors of the covariance of RGB. The
    sum is rounded to whole levels, the result clipped to [0, 255].

    Raises:
        OptionError: if there are not three channels.
    """
    _require_rgb(pixels.shape[-1])
    result = np.array(pixels, order="C")
    _shift(result, _color_shifts(np.array([alphas]))[0])
    return result


def _require_rgb(channels: int) -> None:
    if channels != 3:
        raise OptionError(
            f"Colour noise needs three channels, the image has {channels}. Set color_noise=0."
        )


def _color_shifts(alphas: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """Whole levels for each channel, (N, 3), from the noise along each component, (N, 3)."""
    total = np.zeros(alphas.shape)
    for component, value in enumerate(_EIGENVALUES):  # in this order on every machine
        total += _EIGENVECTORS[:, component] * (alphas[:, component : component + 1] * value)
    return np.clip(np.rint(255.0 * total), -255, 255).astype(np.int16)


def _shift(pixels: Pixels, shifts: npt.NDArray[np.int16]) -> None:
    """Add to each channel of a contiguous image in place, clipping to [0, 255]."""
    # Whole rows at a time: NumPy is slow where the last axis has three elements. Clamped so that
    # the sum stays in [0, 255], after which adding modulo 256 is exact.
    rows = pixels.reshape(*pixels.shape[:-2], -1)
    shift: npt.NDArray[Any] = np.tile(shifts, pixels.shape[-2])
    np.maximum(rows, np.maximum(-shift, 0).astype(np.uint8), out=rows)
    np.minimum(rows, np.minimum(255 - shift, 255).astype(np.uint8), out=rows)
    np.add(rows, (shift % 256).astype(np.uint8), out=rows)


def mirrored(pixels: Pixels) -> Pixels:
    """A copy with the columns in reverse order; channel by channel, which is 8 times faster."""
    out = np.empty(pixels.shape, np.uint8)
    for channel in range(pixels.shape[-1]):
        out[..., channel] = pixels[..., ::-1, channel]
    return out
