"""Packed images: raw uint8 of one size, memory-mapped, with a checksum for each record.

A pack is a directory::

    images.bin    the records, one after the other: uint8 of shape (height, width, channels)
    index.bin     for each record: label, index in the source, CRC-32 of its pixels
    pack.json     shape, count, classes, what was skipped
    SHA256SUMS    digests of pack.json and index.bin; written last, so it marks a complete pack

Reading needs no decoding: a batch is made by copying memory. CRC-32 finds every flipped bit and
every damaged stretch of up to 32 bits; other damage is missed once in 2^32.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from accelkit.data.records import Record, check_index
from accelkit.errors import CorruptDataError, DataError, OptionError

__all__ = ["INDEX_DTYPE", "PACK_VERSION", "PackHeader", "PackedSource", "checksum", "is_pack"]

PACK_VERSION: Final = 1
IMAGES: Final = "images.bin"
INDEX: Final = "index.bin"
HEADER: Final = "pack.json"
SUMS: Final = "SHA256SUMS"
_T = TypeVar("_T")
INDEX_DTYPE: Final = np.dtype([("label", "<i8"), ("source", "<i8"), ("crc", "<u4")])


@dataclass(frozen=True)
class PackHeader:
    """The content of ``pack.json``.

    Attributes:
        count: Number of records.
        shape: Height, width and channels of each.
        classes: Names of the classes in the order of the labels; empty if unknown.
        source: What was packed.
        skipped: Names of the samples that could not be read.
    """

    count: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    source: str
    skipped: tuple[str, ...]

    def encode(self) -> bytes:
        """As JSON."""
        document = {"format": "accelkit-pack", "version": PACK_VERSION, **self.__dict__}
        return json.dumps(document, indent=2).encode("ascii") + b"\n"

    @classmethod
    def decode(cls, data: bytes, where: Path) -> PackHeader:
        """Read the JSON.

        Raises:
            CorruptDataError: if it is something else.
            DataError: if a newer version wrote it.
        """
        try:
            document = json.loads(data)
            version = document["version"]
            if document["format"] != "accelkit-pack" or type(version) is not int:
                raise ValueError("it is no header of a pack")
            if version > PACK_VERSION:
                raise DataError(
                    f"The pack {where} has version {version}; this accelkit reads up to "
                    f"{PACK_VERSION}. Upgrade accelkit, or pack the data again."
                )
            height, width, channels = _listed(document, "shape", int)
            header = cls(
                document["count"],
                (height, width, channels),
                _listed(document, "classes", str),
                document["source"],
                _listed(document, "skipped", str),
            )
            header.check()
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptDataError(f"{where / HEADER} cannot be read: {error!r}.") from error
        return header

    def check(self) -> None:
        """Require values that a pack can have.

        Raises:
            ValueError: for a count or a shape that is not positive, or of no file.
        """
        numbers = (self.count, *self.shape)
        if type(self.count) is not int or type(self.source) is not str:
            raise ValueError(f"count is {self.count!r} and source is {self.source!r}")
        if min(numbers) < 1 or math.prod(numbers) >= 2**62:
            raise ValueError(f"{self.count} records of shape {self.shape} make no file")


def _listed(document: dict[str, Any], key: str, kind: type[_T]) -> tuple[_T, ...]:
    """A list of JSON values of one type.

    Raises:
        ValueError: if it is something else.
    """
    values = document[key]
    if type(values) is not list or any(type(value) is not kind for value in values):
        raise ValueError(f"{key} is {values!r}, expected a list of {kind.__name__}")
    return tuple(values)


def checksum(pixels: np.ndarray[Any, Any]) -> int:
    """CRC-32 of a record's bytes."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def sums(header: bytes, index: bytes) -> bytes:
    """The content of ``SHA256SUMS``, which the ``sha256sum`` command can verify."""
    digests = {INDEX: index, HEADER: header}
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in digests.items()]
    return "".join(lines).encode("ascii")


def is_pack(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is a pack, complete or not."""
    return any((Path(path) / name).is_file() for name in (IMAGES, HEADER, SUMS))


class PackedSource:
    """Records of a pack, as views into the mapped file.

    Args:
        path: The pack's directory.
        verify: Check a record's checksum the ``"first"`` time that this process reads it,
            ``"always"``, or ``"never"``. The header, the index and the file sizes are always
            checked.

    Raises:
        DataError: if there is no complete pack, or it is of a newer version.
        CorruptDataError: if its header, its index or its size is damaged.
        OptionError: if ``verify`` is none of these.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        verify: Literal["first", "always", "never"] = "first",
    ) -> None:
        if verify not in ("first", "always", "never"):
            raise OptionError(f"verify is {verify!r}, expected 'first', 'always' or 'never'.")
        self.path = Path(path)
        self._verify = verify
        header, index = self._read_tables()
        self.header = PackHeader.decode(header, self.path)
        self.classes = self.header.classes
        if len(index) != self.header.count * INDEX_DTYPE.itemsize or not index:
            raise CorruptDataError(
                f"{self.path / INDEX} does not hold {self.header.count} records."
            )
        self._index = np.frombuffer(index, INDEX_DTYPE)
        self._check_labels()
        self._unverified = np.ones(len(self._index), np.bool_)
        self.images = self._map()

    def _read_tables(self) -> tuple[bytes, bytes]:
        if not self.path.is_dir():
            raise DataError(f"There is no pack {self.path}.")
        try:
            expected = (self.path / SUMS).read_bytes()
        except FileNotFoundError as error:
            raise DataError(
                f"{self.path} is not a complete pack. Run the pack command again: it continues."
            ) from error
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}.") from error
        try:
            header = (self.path / HEADER).read_bytes()
            index = (self.path / INDEX).read_bytes()
        except OSError as error:
            raise CorruptDataError(
                f"The pack {self.path} is damaged: {error.filename}: {error.strerror}. Pack the "
                "data again."
            ) from error
        if sums(header, index) != expected:
            raise CorruptDataError(
                f"The pack {self.path} does not match its {SUMS}: its header or index has changed "
                "since it was written. Pack the data again."
            )
        return header, index

    def _check_labels(self) -> None:
        labels = self._index["label"]
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or (self.classes and high >= len(self.classes)):
            raise CorruptDataError(
                f"{self.path / INDEX} has labels from {low} to {high}, expected 0 to "
                f"{len(self.classes) - 1 if self.classes else 2**63 - 1}. Pack the data again."
            )

    def _map(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        file = self.path / IMAGES
        shape = (self.header.count, *self.header.shape)
        size = math.prod(shape)
        try:
            found = file.stat().st_size
            if found != size:
                raise CorruptDataError(
                    f"{file} has {found} bytes, expected {size} for {shape[0]} records of "
                    f"{self.header.shape}. Pack the data again."
                )
            return np.memmap(file, np.uint8, "r", shape=shape)
        except OSError as error:
            raise CorruptDataError(f"{file} cannot be read: {error.strerror or error}.") from error

    def __len__(self) -> int:
        return self.header.count

    def __getitem__(self, index: int, /) -> Record:
        check_index(index, len(self), str(self.path))
        self._check(index)
        pixels = np.asarray(self.images[index])
        return Record(pixels, int(self._index["label"][index]), self._name(index))

    @property
    def record_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every record."""
        return self.header.shape

    def gather(
        self,
        indices: npt.NDArray[np.int64],
        out: npt.NDArray[np.uint8],
        corners: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int64]:
        """Copy many records, or a region of each, straight from the mapped file.

        Args:
            indices: Which records, shape (N,).
            out: Where they go, uint8 of shape (N, height, width, channels).
            corners: Top and left of the regions, shape (N, 2).

        Returns:
            Their labels.

        Raises:
            CorruptDataError: if one of them does not match its checksum.
        """
        if self._verify != "never":
            unverified = self._unverified[indices]
            for index in indices if self._verify == "always" else indices[unverified]:
                self._check(int(index))
        height, width = out.shape[1:3]
        records = np.asarray(self.images)  # slicing a memmap itself costs several times as much
        # Bytes, not rows as elements of a void type: that is 5 % faster in one thread, but NumPy
        # then keeps Python's lock, and two threads are slower than one.
        for row, index, (top, left) in zip(out, indices.tolist(), corners.tolist(), strict=True):
            row[...] = records[index, top : top + height, left : left + width]
        labels: npt.NDArray[np.int64] = self._index["label"][indices]
        return labels

    def _check(self, index: int) -> None:
        if self._verify == "never" or not (self._unverified[index] or self._verify == "always"):
            return
        if checksum(self.images[index]) != self._index["crc"][index]:
            raise CorruptDataError(
                f"The record {self._name(index)} does not match its checksum: it has changed on "
                "the disk since it was packed."
            )
        self._unverified[index] = False

    def _name(self, index: int) -> str:
        return f"{self.path}[{index}] (sample {self._index['source'][index]} of its source)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._verify)

    def __repr__(self) -> str:
        height, width, channels = self.header.shape
        return f"PackedSource({str(self.path)!r}: {len(self)} of {height}x{width}x{channels})"


def _reopen(path: Path, verify: Literal["first", "always", "never"]) -> PackedSource:
    """What a worker process does instead of unpickling the data."""
    return PackedSource(path, verify=verify)
