"""How fast data arrive: decoding against bare simplejpeg, packed records against a plain copy.

Run ``python benchmarks/data_pipeline.py``. Rival and pipeline run in turns, in one thread; ratios
are medians over the rounds. Times are those of the thread on its core, so that other programs
on the machine disturb them less.

Packed records have three rivals. The bare loop of ``np.copyto`` makes the same batches, the same
regions of the same records in the same order, without any checks, draws or bookkeeping. The row
copies do that in C, with one ``memcpy`` for each row of a region: what memory can do at best with
rows that do not follow each other (needs a C compiler as ``cc``; left out without). And one long
copy per batch of as many bytes, in order, which is what memory can do at best. All of them write
to ``--buffers`` batches in turn: 5, as many as a loader with its default two threads has under
way, or 2, the least, where a batch stays whole while the next one is made. Two stay in the caches
of a large machine, so that nothing is written to memory; nothing else runs here that would evict
them, as a training step does.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import shutil
import statistics
import subprocess
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
from accelkit.data.batches import Batch, Position
from accelkit.data.images import ArrayImage

_EPOCHS = 4  # in a turn, so that caches and memory are in the state of a long run

# Lengths are arguments, so that each row is a call of the C library, as it is in NumPy.
_ROW_COPIES = """
#include <stddef.h>
#include <string.h>
void copy_regions(char *out, const char *const *regions, size_t count, size_t rows, size_t length,
                  size_t stride, size_t image) {
    for (size_t number = 0; number < count; number++)
        for (size_t row = 0; row < rows; row++)
            memcpy(out + number * image + row * length, regions[number] + row * stride, length);
}
"""


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


def compare(own: Callable[[], None], rounds: int, **rivals: Callable[[], None]) -> dict[str, float]:
    """Median seconds of all, measured in turns, and the medians of the rounds' ratios."""
    programs = {**rivals, "own": own}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            start = time.thread_time()
            program()
            if number:  # the first round warms up
                times[name].append(time.thread_time() - start)
    results = {f"{name}_s": statistics.median(values) for name, values in times.items()}
    for name in rivals:
        ratios = [a / b for a, b in zip(times[name], times["own"], strict=True)]
        results[f"own_speed_over_{name}"] = statistics.median(ratios)
    return results


def epochs(loader: Loader, count: int = 1, buffers: int = 2) -> Callable[[], None]:
    """Make all batches of the loader's first epochs, holding all but one of some buffers."""
    held: collections.deque[Batch] = collections.deque(maxlen=buffers - 1)

    def run() -> None:
        loader.seek(Position())
        for _ in range(count):
            held.extend(loader)

    return run


def decoding(count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Evaluation and training transforms against the bare calls."""
    files = photographs(count)
    source = SequenceSource([(data, 0) for data in files])
    results = {}
    for name, transform in {
        "centre crop": EvaluationTransform(),
        "AlexNet training": TrainingTransform(crop="alexnet", finish="step"),
        "random resized crop": TrainingTransform(finish="step"),
        "random resized crop, finished on the host": TrainingTransform(),
    }.items():
        loader = Loader(source, batch_size=count, transform=transform)
        results[name] = compare(epochs(loader), rounds, bare_calls=lambda: bare_decode(files))
        results[name]["own_images_per_s"] = count / results[name]["own_s"]
    return results


def packed(count: int, rounds: int, buffers: int, directory: Path) -> dict[str, dict[str, float]]:
    """Verified records into batches against copies of as much memory."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 256, 256, 3), np.uint8)
    pack(ArraySource(images, np.zeros(count, np.int64)), directory / "pack", size=None)
    del images
    source = PackedSource(directory / "pack")
    batch_size = 64
    transforms = {
        "whole records": None,
        "centre crop": EvaluationTransform(),
        "AlexNet training, finished in the step": TrainingTransform(crop="alexnet", finish="step"),
        "AlexNet training, finished on the host": TrainingTransform(crop="alexnet"),
    }
    results = {}
    for name, transform in transforms.items():
        loader = Loader(source, batch_size=batch_size, transform=transform)
        image_bytes = int(np.prod(loader.plan.form[0]))
        rivals = {
            "bare_loop": loop(source.images, loader, buffers),
            "long_copies": copies(
                source.images, batch_size * image_bytes, len(loader) * _EPOCHS, buffers
            ),
        }
        if compiler := shutil.which("cc"):
            library = compiled(compiler, directory)
            rivals["row_copies"] = row_copies(library, source.images, loader, buffers)
        results[name] = compare(epochs(loader, _EPOCHS, buffers), rounds, **rivals)
        image_s = results[name]["own_s"] / (_EPOCHS * len(loader) * batch_size)
        results[name]["own_gib_per_s"] = image_bytes / image_s / 2**30
        results[name]["own_images_per_s"] = 1 / image_s
    return results


Places = list[tuple[int, int, int]]


def places(images: np.ndarray, loader: Loader) -> tuple[int, list[Places]]:
    """Side of the regions, and record, top and left of each, for each batch of some epochs."""
    size = 256 if loader.plan.transform is None else 224
    corners = np.random.default_rng(0).integers(0, 257 - size, (len(images), 2)).tolist()
    return size, [
        [(index, *corners[index]) for index in batch.index.tolist()]
        for _ in range(_EPOCHS)
        for batch in loader
    ]


def buffers_for(loader: Loader, count: int) -> list[np.ndarray]:
    """Memory for batches, touched before."""
    shape = (loader.plan.batch_size, *loader.plan.form[0])
    return [np.ones(shape, np.uint8) for _ in range(count)]


def loop(images: np.ndarray, loader: Loader, count: int) -> Callable[[], None]:
    """The copies that make the loader's batches and nothing else."""
    memory = np.asarray(images)
    buffers = buffers_for(loader, count)
    size, batches = places(images, loader)

    def run() -> None:
        for number, batch in enumerate(batches):
            for row, (index, top, left) in zip(buffers[number % count], batch, strict=True):
                np.copyto(row[:size], memory[index, top : top + size, left : left + size])

    return run


def compiled(compiler: str, directory: Path) -> ctypes.CDLL:
    """``copy_regions``, in C."""
    source, library = directory / "row_copies.c", directory / "row_copies.so"
    source.write_text(_ROW_COPIES)
    subprocess.run([compiler, "-O3", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def row_copies(
    library: ctypes.CDLL, images: np.ndarray, loader: Loader, count: int
) -> Callable[[], None]:
    """The copies of :func:`loop`, a whole batch in one call of C."""
    memory = np.asarray(images)
    buffers = buffers_for(loader, count)
    size, batches = places(images, loader)
    lengths = (len(batches[0]), size, size * 3, memory.strides[1], buffers[0][0].nbytes)
    sizes = [ctypes.c_size_t(length) for length in lengths]
    regions = [[memory[index, top:, left:].ctypes.data for index, top, left in b] for b in batches]
    pointers = [(ctypes.c_void_p * len(addresses))(*addresses) for addresses in regions]

    def run() -> None:
        for number, batch in enumerate(pointers):
            out = ctypes.c_void_p(buffers[number % count].ctypes.data)
            library.copy_regions(out, batch, *sizes)

    run()
    for row, (index, top, left) in zip(
        buffers[(len(batches) - 1) % count], batches[-1], strict=True
    ):
        assert np.array_equal(row[:size], memory[index, top : top + size, left : left + size])
    return run


def copies(images: np.ndarray, size: int, times: int, count: int) -> Callable[[], None]:
    """Copies of ``size`` bytes, one stretch of the memory after the other, to several buffers."""
    memory = np.asarray(images).reshape(-1)
    stretches = len(memory) // size
    buffers = [np.ones(size, np.uint8) for _ in range(count)]

    def run() -> None:
        for number in range(times):
            start = number % stretches * size
            np.copyto(buffers[number % count], memory[start : start + size])

    return run


def main() -> None:
    """Print what was measured, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--records", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--buffers", type=int, default=5, help="batches under way, at least 2")
    parser.add_argument("--only", choices=("decoding", "packed"), help="one of the two parts")
    options = parser.parse_args()
    if options.buffers < 2:
        parser.error("--buffers must be at least 2")
    if options.only != "packed":
        print(json.dumps(decoding(options.images, options.rounds), indent=2))
    if options.only != "decoding":
        with tempfile.TemporaryDirectory() as directory:
            results = packed(options.records, options.rounds, options.buffers, Path(directory))
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
