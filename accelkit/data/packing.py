"""Writes packs, so that an interrupted run continues where the disk certainly has everything."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np

from accelkit.arguments import require_integer
from accelkit.data.batches import Batch, Position
from accelkit.data.loader import Loader
from accelkit.data.packed import (
    HEADER,
    IMAGES,
    INDEX,
    INDEX_DTYPE,
    SUMS,
    PackedSource,
    PackHeader,
    checksum,
    sums,
)
from accelkit.data.records import Source
from accelkit.data.transforms import EvaluationTransform
from accelkit.errors import DataError
from accelkit.filesystem import DirectoryLock, FileSystem, unfinished_files

__all__ = ["pack"]

_PROGRESS: Final = "progress.json"
_UNFINISHED_INDEX: Final = "index.partial"
_CHUNK: Final = 64
_CHUNKS_BETWEEN_SYNCS: Final = 16


def pack(
    source: Source,
    destination: str | os.PathLike[str],
    *,
    size: int | None = 256,
    threads: int = 2,
    on_corrupt: Literal["raise", "skip"] = "raise",
    progress: Callable[[int, int, int], None] | None = None,
) -> PackedSource:
    """Pack a source, or continue an interrupted run of the same.

    Args:
        source: Images with integer labels.
        destination: Directory to make. It must be absent, empty, or an unfinished pack.
        size: The shorter side becomes this and the central square is kept; None keeps images as
            they are, which must then be of one size.
        threads: Threads that decode; 0 for none.
        on_corrupt: As for :class:`accelkit.data.Loader`; skipped samples are left out of the pack
            and listed in its header.
        progress: Called with the samples done, the samples in all, and the samples skipped.

    Returns:
        The complete pack.

    Raises:
        DataError: if the destination holds something else, the disk is full or fails, or a sample
            cannot be packed. What has been written stays, to be continued.
    """
    if size is not None:
        require_integer("size", size)
    place = Path(destination)
    if place.exists() and not place.is_dir():
        raise DataError(f"{place} is a file. Give a directory that is absent or empty.")
    try:
        place.mkdir(parents=True, exist_ok=True)
        if (place / SUMS).exists():
            raise DataError(f"{place} is a complete pack already. Remove it to pack anew.")
        lock = DirectoryLock(place, DataError)
        try:
            _Packer(source, place, size, threads, on_corrupt).run(progress or _silent)
        finally:
            lock.release()
            (place / ".lock").unlink(missing_ok=True)
    except OSError as error:
        advice = "Free some space" if error.errno == errno.ENOSPC else "Mend the cause"
        raise DataError(
            f"Packing to {place} failed: {error.strerror or error}. {advice} and run the same "
            "command again: it continues."
        ) from error
    return PackedSource(place)


def _silent(done: int, total: int, skipped: int) -> None:
    """No progress display."""


class _Packer:
    """One run of packing: files, and how far they are certain to be on the disk."""

    def __init__(
        self,
        source: Source,
        place: Path,
        size: int | None,
        threads: int,
        on_corrupt: Literal["raise", "skip"],
    ) -> None:
        self.source = source
        self.place = place
        self.files = FileSystem()
        transform = None if size is None else EvaluationTransform(size=size, resize=size)
        self.loader = Loader(
            source,
            batch_size=_CHUNK,
            transform=transform,
            shuffle=False,
            partial="keep",
            on_corrupt=on_corrupt,
            threads=threads,
        )
        self.settings = {"source": repr(source), "count": len(source), "size": size}
        self.records = 0
        self.samples = 0
        self.skipped: list[str] = []

    def run(self, progress: Callable[[int, int, int], None]) -> None:
        """Write what is missing and finish the pack."""
        self._check_destination()
        self._resume()
        shape = self._shape()
        self._check_space(shape)
        with (
            self.loader,
            self._open(IMAGES, shape) as images,
            self._open(_UNFINISHED_INDEX, (INDEX_DTYPE.itemsize,)) as index,
        ):
            progress(self.samples, len(self.source), len(self.skipped))
            if self.samples < len(self.source):
                self.loader.seek(Position(0, self.samples))
                for number, batch in enumerate(self.loader, 1):
                    self._append(batch, images, index)
                    if number % _CHUNKS_BETWEEN_SYNCS == 0:
                        self._sync(images, index)
                    progress(self.samples, len(self.source), len(self.skipped))
            self._sync(images, index)
        self._finish(shape)

    def _check_destination(self) -> None:
        for path in unfinished_files(self.place):
            self.files.remove_file(path)
        known = {IMAGES, _UNFINISHED_INDEX, INDEX, HEADER, _PROGRESS, ".lock"}
        if foreign := sorted(p.name for p in self.place.iterdir() if p.name not in known):
            raise DataError(
                f"{self.place} holds other files ({foreign[0]}, ...). Give an empty directory."
            )

    def _resume(self) -> None:
        try:
            saved = json.loads((self.place / _PROGRESS).read_bytes())
            settings, skipped = saved["settings"], saved["skipped"]
            records, samples = saved["records"], saved["samples"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.place / _PROGRESS} cannot be read: {error!r}. Remove {self.place} and "
                "pack anew."
            ) from error
        if settings != self.settings:
            raise DataError(
                f"{self.place} holds an unfinished pack of {settings}, not of "
                f"{self.settings}. Remove it, or give the same arguments to continue it."
            )
        self.records, self.samples, self.skipped = records, samples, skipped

    def _shape(self) -> tuple[int, int, int]:
        shape, dtype, label_shape, _ = self.loader.plan.form
        if dtype != np.uint8 or len(shape) not in (2, 3) or label_shape:
            raise DataError(
                f"Only uint8 images with an integer label can be packed; {self.source!r} has "
                f"{dtype}{list(shape)} with labels of shape {list(label_shape)}."
            )
        height, width, channels = (*shape, 1)[:3]
        return height, width, channels

    def _check_space(self, shape: tuple[int, ...]) -> None:
        entry = int(np.prod(shape)) + INDEX_DTYPE.itemsize
        needed = (len(self.source) - self.samples) * entry
        free = shutil.disk_usage(self.place).free
        if needed > free:
            raise DataError(
                f"Packing needs {needed / 2**20:,.1f} MiB more, but {self.place} has "
                f"{free / 2**20:,.1f} MiB free. Free some space, or pack a smaller size."
            )

    @contextmanager
    def _open(self, name: str, shape: tuple[int, ...]) -> Iterator[BinaryIO]:
        """Open a file for appending, cut back to what is certain to be on the disk."""
        path = self.place / name
        if name == _UNFINISHED_INDEX and (self.place / INDEX).exists():
            (self.place / INDEX).rename(path)  # interrupted while finishing
        with path.open("ab") as stream:
            certain = self.records * int(np.prod(shape))
            if stream.tell() < certain:
                raise DataError(
                    f"{path} has {stream.tell()} bytes of the {certain} it had before. Remove "
                    f"{self.place} and pack anew."
                )
            stream.truncate(certain)
            stream.seek(0, os.SEEK_END)
            yield stream

    def _append(self, batch: Batch, images: BinaryIO, index: BinaryIO) -> None:
        kept = batch.weight > 0
        pixels = np.ascontiguousarray(batch.image[kept])
        entries = np.zeros(len(pixels), INDEX_DTYPE)
        entries["label"] = batch.label[kept]
        entries["source"] = batch.index[kept]
        entries["crc"] = [checksum(image) for image in pixels]
        images.write(pixels.data)
        index.write(entries.tobytes())
        self.records += len(pixels)
        self.samples += len(kept)
        self.skipped += [entry.name for entry in batch.skipped]

    def _sync(self, images: BinaryIO, index: BinaryIO) -> None:
        for stream in (images, index):
            stream.flush()
            self.files.sync(stream.fileno())
        state: dict[str, Any] = {
            "settings": self.settings,
            "records": self.records,
            "samples": self.samples,
            "skipped": self.skipped,
        }
        self._replace(_PROGRESS, json.dumps(state).encode("ascii"))

    def _replace(self, name: str, data: bytes) -> None:
        self.files.replace_file(self.place / name, data, durable=True)

    def _finish(self, shape: tuple[int, int, int]) -> None:
        if not self.records:
            raise DataError(f"None of the {len(self.source)} samples could be read.")
        self.files.rename(self.place / _UNFINISHED_INDEX, self.place / INDEX)
        index = (self.place / INDEX).read_bytes()
        header = PackHeader(
            self.records, shape, self.source.classes, repr(self.source), tuple(self.skipped)
        ).encode()
        self._replace(HEADER, header)
        self._replace(SUMS, sums(header, index))
        self.files.remove_file(self.place / _PROGRESS)
