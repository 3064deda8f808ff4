"""What a data source is: numbered records, each with its content, its label and a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from accelkit.data.images import MAX_PIXELS, ArrayImage, Image, open_image
from accelkit.errors import DataError

__all__ = ["MOST_SAMPLES", "Array", "Record", "Source", "StringTable", "image_of"]

Array: TypeAlias = npt.NDArray[Any]

# In a source or a batch: more is a slip, and sizes in bytes would no longer fit 64 bits.
MOST_SAMPLES: Final = 2**40


class Record(NamedTuple):
    """One sample as its source stores it.

    Attributes:
        content: An encoded image, or an array; images are uint8 of shape (H, W, C) or (H, W).
        label: The class as an integer, or any array.
        name: Where it comes from, for messages: a path, a key, or ``[index]``.
    """

    content: bytes | Array
    label: int | Array
    name: str


@runtime_checkable
class Source(Protocol):
    """Random access to records; it must be picklable to be read by worker processes.

    Attributes:
        classes: Names of the classes in the order of their labels; empty if unknown.
    """

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """How many records there are."""

    def __getitem__(self, index: int, /) -> Record:
        """Read one record.

        Raises:
            CorruptDataError: if it is stored but cannot be read.
        """


def image_of(record: Record, *, max_pixels: int = MAX_PIXELS) -> Image:
    """The image of a record.

    Raises:
        CorruptDataError: if it is encoded and damaged.
        DataError: if its content is an array that is no image.
    """
    if isinstance(record.content, bytes):
        return open_image(record.content, record.name, max_pixels=max_pixels)
    return ArrayImage(record.content, record.name)


class StringTable:
    """Many strings in one block of memory: a million paths are pickled to a worker at once."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._ends = np.cumsum([len(item) for item in encoded], dtype=np.int64)
        self._text = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} strings")
        start = int(self._ends[index - 1]) if index else 0
        return self._text[start : int(self._ends[index])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


def check_index(index: int, count: int, what: str) -> int:
    """Require 0 <= index < count.

    Raises:
        IndexError: otherwise; iteration by index relies on this type.
    """
    if not 0 <= index < count:
        raise IndexError(f"Index {index} is out of range for {what} of {count} records.")
    return index


def check_not_empty(count: int, what: str) -> None:
    """Require at least one record.

    Raises:
        DataError: otherwise.
    """
    if count == 0:
        raise DataError(f"{what} holds no record.")
