"""Pictures that the data tests share: smooth enough for JPEG, random enough to tell apart."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image

from accelkit.data import SampleRandom
from accelkit.data.resize import resize_numpy
from accelkit.random import subkey


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    return resize_numpy(coarse, height, width, (0, 0, 9, 7))


def encoded(pixels: np.ndarray, kind: str = "JPEG", mode: str | None = None, **options) -> bytes:
    image = PIL.Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def randomness(seed: int = 0, epoch: int = 0, index: int = 0) -> SampleRandom:
    return SampleRandom(subkey(seed, epoch, "accelkit.data.sample", 0), index)


def make_folder(root: Path, classes: int = 3, images: int = 4, size: tuple[int, int] = (40, 48)):
    for label in range(classes):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(images):
            data = encoded(picture(*size, seed=label * 100 + number))
            (root / f"class{label}" / f"{number:03d}.JPEG").write_bytes(data)
    return root
