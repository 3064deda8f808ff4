"""How fast data arrive: decoding against bare simplejpeg, packed records against a plain copy.

Run ``python benchmarks/data_pipeline.py``. Rival and pipeline run in turns, on one core; ratios
are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import simplejpeg

from accelkit.data import (
    ArraySource,
    EvaluationTransform,
    Loader,
    PackedSource,
    SequenceSource,
    TrainingTransform,
    pack,
)
from accelkit.data.batches import Position
from accelkit.data.images import ArrayImage


def photographs(count: int) -> list[bytes]:
    """JPEG files like ImageNet's: 500x375 pixels, about 60 kB."""
    files = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = ArrayImage(rng.integers(0, 256, (47, 63, 3), np.uint8))
        pixels = np.ascontiguousarray(coarse.resized(375, 500))
        files.append(simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling="420"))
    return files


def bare_decode(files: list[bytes]) -> None:
    """What anybody would write: decode, resize, crop, copy into the batch."""
    batch = np.empty((len(files), 224, 224, 3), np.uint8)
    for row, data in enumerate(files):
        pixels = simplejpeg.decode_jpeg(data)
        height, width = pixels.shape[:2]
        short = min(height, width)
        left, top, side = (width - short) / 2, (height - short) / 2, short * 224 / 256
        margin = (short - side) / 2
        box = (left + margin, top + margin, left + margin + side, top + margin + side)
        picture = PIL.Image.fromarray(pixels)
        batch[row] = picture.resize((224, 224), PIL.Image.Resampling.BILINEAR, box)


def compare(rival: Callable[[], None], own: Callable[[], None], rounds: int) -> dict[str, float]:
    """Median seconds of both, measured in turns, and the median of the rounds' ratios."""
    rival(), own()
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        rival()
        middle = time.perf_counter()
        own()
        times.append((middle - start, time.perf_counter() - middle))
    return {
        "rival_s": statistics.median(a for a, _ in times),
        "own_s": statistics.median(b for _, b in times),
        "own_speed_over_rival": statistics.median(a / b for a, b in times),
    }


def next_epoch(loader: Loader) -> Callable[[], None]:
    """Make all batches of the loader's first epoch."""

    def run() -> None:
        loader.seek(Position())
        for _ in loader:
            pass

    return run


def decoding(count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Evaluation and training transforms against the bare calls."""
    files = photographs(count)
    source = SequenceSource([(data, 0) for data in files])
    results = {}
    for name, transform in {
        "centre crop": EvaluationTransform(),
        "AlexNet training": TrainingTransform(crop="alexnet"),
        "random resized crop": TrainingTransform(),
    }.items():
        loader = Loader(source, batch_size=count, transform=transform)
        results[name] = compare(lambda: bare_decode(files), next_epoch(loader), rounds)
        results[name]["own_images_per_s"] = count / results[name]["own_s"]
    return results


def packed(count: int, rounds: int, directory: Path) -> dict[str, dict[str, float]]:
    """Verified records into batches against one copy of the same memory."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 256, 256, 3), np.uint8)
    pack(ArraySource(images, np.zeros(count, np.int64)), directory / "pack", size=None)
    del images
    source = PackedSource(directory / "pack")
    batch_size = 64
    results = {}

    def copy() -> None:
        for start in range(0, count, batch_size):
            batch = np.empty((batch_size, 256, 256, 3), np.uint8)
            np.copyto(batch, source.images[start : start + batch_size])

    for name, transform in {
        "whole records": None,
        "224 of 256, flip": TrainingTransform(crop="alexnet", color_noise=0),
    }.items():
        loader = Loader(source, batch_size=batch_size, transform=transform)
        results[name] = compare(copy, next_epoch(loader), rounds)
        results[name]["own_gib_per_s"] = count * 196_608 / results[name]["own_s"] / 2**30
        results[name]["own_images_per_s"] = count / results[name]["own_s"]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--records", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps(decoding(options.images, options.rounds), indent=2))
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(packed(options.records, options.rounds, Path(directory)), indent=2))


if __name__ == "__main__":
    main()
