"""Images in memory: encoded bytes or pixel arrays, cropped and resized to uint8.

JPEG is decoded by simplejpeg, at a half, a quarter or an eighth of its size where that is still
enough; by Pillow where simplejpeg is not installed. Both wrap libjpeg-turbo with the same
settings, and a test holds their pixels equal. Pillow decodes everything else, and decides about
JPEG files that simplejpeg calls damaged. Orientation tags are ignored, as in torchvision.
"""

from __future__ import annotations

import functools
import importlib
import io
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from accelkit.data.resize import Box, Pixels, pillow, resize
from accelkit.errors import CorruptDataError, DataError

__all__ = [
    "MAX_PIXELS",
    "ArrayImage",
    "EncodedImage",
    "Image",
    "open_image",
    "simplejpeg",
]

MAX_PIXELS: Final = 89_478_485
"""Images with more pixels are refused before they are decoded (the limit that Pillow warns at)."""

_JPEG_MAGIC: Final = b"\xff\xd8\xff"
_SIMPLEJPEG_SPACES: Final = ("YCbCr", "Gray", "RGB")
_Result = TypeVar("_Result")
_INSTALL: Final = "Install one: pip install 'accelkit[data]'."


class Image(Protocol):
    """What a transform works on."""

    @property
    def height(self) -> int:
        """Rows of the whole image."""

    @property
    def width(self) -> int:
        """Columns of the whole image."""

    def resized(self, height: int, width: int, box: Box | None = None) -> Pixels:
        """A region resampled to (height, width, C) uint8, perhaps a view; all of it by default."""

    def pixels(self) -> Pixels:
        """The whole image, (H, W, C) uint8."""


class ArrayImage:
    """An image that is an array already: uint8, (H, W, C) or (H, W).

    Raises:
        DataError: for another dtype or shape, or an image without pixels.
    """

    def __init__(self, array: Pixels, name: str = "an array") -> None:
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
            raise DataError(
                f"{name} is {array.dtype}{list(array.shape)}; an image is uint8 of shape "
                "(height, width, channels) or (height, width). Convert it first, or leave out "
                "the transform to pass arrays as they are."
            )
        self._array = array if array.ndim == 3 else array[:, :, None]
        self.height, self.width, _ = self._array.shape

    def pixels(self) -> Pixels:
        """The array itself, with a channel axis."""
        return self._array

    def resized(self, height: int, width: int, box: Box | None = None) -> Pixels:
        """A region resampled; a plain crop is a view."""
        return resize(self._array, height, width, box)


class EncodedImage:
    """A compressed image, decoded to RGB when pixels are asked for.

    Args:
        size: Height and width.
        decode: Decodes at 1/``factor`` of the size, rounded up, for a factor of 1, 2, 4 or 8.
        scalable: Whether factors other than 1 work.
    """

    def __init__(
        self, size: tuple[int, int], decode: Callable[[int], Pixels], *, scalable: bool
    ) -> None:
        self.height, self.width = size
        self._decode = decode
        self._scalable = scalable

    def pixels(self) -> Pixels:
        """All of the image at its full size."""
        return self._decode(1)

    def resized(self, height: int, width: int, box: Box | None = None) -> Pixels:
        """A region resampled, decoded at the smallest size that still covers the result."""
        left, top, right, bottom = box or (0.0, 0.0, float(self.width), float(self.height))
        spare = min((bottom - top) / height, (right - left) / width)
        factor = next(f for f in (8, 4, 2, 1) if f <= spare or f == 1) if self._scalable else 1
        image = self._decode(factor)
        if factor == 1:
            return resize(image, height, width, (left, top, right, bottom))
        down, across = image.shape[0] / self.height, image.shape[1] / self.width
        scaled = (
            left * across,
            top * down,
            min(right * across, image.shape[1]),
            min(bottom * down, image.shape[0]),
        )
        return resize(image, height, width, scaled)


def open_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> EncodedImage:
    """Read an image's header; its pixels are decoded later.

    Args:
        data: A JPEG, or any format that Pillow reads.
        name: What to call it in errors.
        max_pixels: Refuse larger images.

    Raises:
        CorruptDataError: if it is no image, is damaged, or is too large.
        DataError: if no decoder for it is installed.
    """
    if not data:
        raise CorruptDataError(f"The image {name} is empty: its file holds no byte.")
    if data.startswith(_JPEG_MAGIC) and (module := simplejpeg()) is not None:
        try:
            height, width, space, _ = module.decode_jpeg_header(data)
        except ValueError as error:
            return _open_by_pillow(data, name, max_pixels, error)
        _check_size(height, width, name, max_pixels)
        if space in _SIMPLEJPEG_SPACES:

            def decode(factor: int) -> Pixels:
                return _decode_by_simplejpeg(data, name, (height, width), factor)

            return EncodedImage((height, width), decode, scalable=True)
    return _open_by_pillow(data, name, max_pixels)


@functools.cache
def simplejpeg() -> ModuleType | None:
    """The simplejpeg module, or None where it is not installed."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def _decode_by_simplejpeg(data: bytes, name: str, size: tuple[int, int], factor: int) -> Pixels:
    module = simplejpeg()
    assert module is not None
    low, wide = (math.ceil(side / factor) for side in size) if factor > 1 else (0, 0)
    try:
        pixels: Pixels = module.decode_jpeg(data, min_height=low, min_width=wide)
    except ValueError as error:  # Pillow is more lenient, e.g. about stray bytes
        return _open_by_pillow(data, name, MAX_PIXELS, error)._decode(factor)
    return pixels


def _open_by_pillow(
    data: bytes, name: str, max_pixels: int, cause: Exception | None = None
) -> EncodedImage:
    module = pillow()
    if module is None and cause is not None:
        raise CorruptDataError(f"The image {name} is damaged: {cause}.") from cause
    if module is None:
        raise DataError(f"No decoder for the image {name} is installed. {_INSTALL}")
    picture = _guarded(lambda: module.open(io.BytesIO(data)), name)
    _check_size(picture.height, picture.width, name, max_pixels)

    def decode(factor: int) -> Pixels:
        return _guarded(lambda: _decode_by_pillow(module, data, factor), name)

    size = (picture.height, picture.width)
    return EncodedImage(size, decode, scalable=picture.format == "JPEG")


def _guarded(action: Callable[[], _Result], name: str) -> _Result:
    # Pillow's plug-ins raise whatever a damaged file makes them stumble over.
    try:
        return action()
    except Exception as error:
        # Pillow's own text for an unknown format names a Python object and its address.
        unknown = type(error).__name__ == "UnidentifiedImageError"
        text = f"{type(error).__name__}: {error}".rstrip(".")
        reason = "it is of no known image format" if unknown else text
        raise CorruptDataError(f"The image {name} cannot be decoded: {reason}.") from error


def _decode_by_pillow(module: ModuleType, data: bytes, factor: int) -> Pixels:
    picture: Any = module.open(io.BytesIO(data))
    if factor > 1:
        picture.draft("RGB", (picture.width // factor, picture.height // factor))
    mode = picture.mode
    if mode.startswith("I;16") or mode == "I":  # 16-bit grey: keep the high byte
        grey = (np.clip(np.asarray(picture), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    if mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return np.asarray(picture.convert("RGB"))


def _check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise CorruptDataError(
            f"The image {name} claims {height}x{width} pixels, more than the limit of "
            f"{max_pixels}. Shrink it, or raise `max_pixels`."
        )
