"""Tar files in the WebDataset layout, read at random: an index of offsets replaces the stream.

Files that share a name up to its first dot are one sample: ``0001.jpg`` and ``0001.cls`` (or
``0001.json`` with a ``label``). See https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from accelkit.data.folder import IMAGE_SUFFIXES
from accelkit.data.records import Record, StringTable, check_index
from accelkit.errors import CorruptDataError, DataError

__all__ = ["TarShards", "expand_shards"]

_LABEL_SUFFIXES: Final = (".cls", ".json")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass
class _Sample:
    """Where the parts of one sample lie: suffix -> (offset, size)."""

    key: str
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)


class TarShards:
    """Images in uncompressed tar files, in the order of the shards and of their members.

    Args:
        shards: Paths, or one pattern with ``*`` or ``{000..146}``.
        classes: Class names in the order of the labels, if known.

    Raises:
        DataError: if there is no shard, it cannot be read, or a sample lacks an image or a label.
        CorruptDataError: if a shard is truncated or damaged.
    """

    def __init__(
        self, shards: str | os.PathLike[str] | Sequence[str], *, classes: Sequence[str] = ()
    ) -> None:
        self.shards = expand_shards(shards)
        self.classes = tuple(classes)
        keys: list[str] = []
        rows: list[tuple[int, int, int, int]] = []
        for number, path in enumerate(self.shards):
            for key, offset, size, label in _index(path):
                keys.append(key)
                rows.append((number, offset, size, label))
        if not rows:
            raise DataError(f"The {len(self.shards)} shards hold no sample: {self.shards[0]} ...")
        self._keys = StringTable(keys)
        self._table = np.asarray(rows, np.int64)
        if self.classes and self._table[:, 3].max() >= len(self.classes):
            raise DataError(
                f"The shards have labels up to {self._table[:, 3].max()}, but only "
                f"{len(self.classes)} classes were given."
            )
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int, /) -> Record:
        number, offset, size, label = self._table[check_index(index, len(self), "shards")].tolist()
        name = f"{self.shards[number]}:{self._keys[index]}"
        try:
            content = os.pread(self._descriptor(number), size, offset)
        except OSError as error:
            raise CorruptDataError(f"The image {name} cannot be read: {error.strerror}.") from error
        if len(content) != size:
            raise CorruptDataError(f"The image {name} is cut off: {len(content)} of {size} bytes.")
        return Record(content, label, name)

    def _descriptor(self, number: int) -> int:
        # Two threads may open a shard at once; setdefault keeps one, the other is closed.
        if number not in self._descriptors:
            mine = os.open(self.shards[number], os.O_RDONLY | getattr(os, "O_BINARY", 0))
            if self._descriptors.setdefault(number, mine) != mine:
                os.close(mine)
        return self._descriptors[number]

    def close(self) -> None:
        """Close the shards; they are opened again when they are needed."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def __repr__(self) -> str:
        return f"TarShards({len(self.shards)} shards: {len(self)} images)"


def expand_shards(shards: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Paths of the shards that a pattern names.

    Raises:
        DataError: if it names none.
    """
    if not isinstance(shards, str | os.PathLike):
        paths = [os.fspath(path) for path in shards]
    else:
        pattern = os.fspath(shards)
        paths = [path for part in _braces(pattern) for path in _globbed(part)]
    if not paths:
        raise DataError(f"No shard matches {shards!r}.")
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise DataError(f"{len(missing)} of {len(paths)} shards do not exist: {missing[0]} ...")
    return tuple(paths)


def _braces(pattern: str) -> Iterator[str]:
    """Expand ``{000..146}``, keeping the number of digits."""
    pieces = _BRACES.split(pattern)
    ranges = [
        [f"{i:0{len(low)}d}" for i in range(int(low), int(high) + 1)]
        for low, high in zip(pieces[1::3], pieces[2::3], strict=True)
    ]
    for numbers in itertools.product(*ranges):
        yield "".join(a + b for a, b in itertools.zip_longest(pieces[::3], numbers, fillvalue=""))


def _globbed(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207 - may be absolute


def _index(path: str) -> Iterator[tuple[str, int, int, int]]:
    """Key, image offset, image size and label of every sample of one shard."""
    try:
        with Path(path).open("rb") as stream:
            for sample in _samples(path, stream):
                yield _entry(path, sample, stream)
    except OSError as error:
        raise DataError(f"The shard {path} cannot be read: {error.strerror}.") from error


def _samples(path: str, stream: Any) -> Iterator[_Sample]:
    end = os.fstat(stream.fileno()).st_size
    current: _Sample | None = None
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > end:
                    raise CorruptDataError(f"The shard {path} is cut off within {member.name}.")
                key, suffix = _split(member.name)
                if current is None or key != current.key:
                    if current is not None:
                        yield current
                    if key in seen:
                        raise CorruptDataError(f"The shard {path} has the sample {key} twice.")
                    seen.add(key)
                    current = _Sample(key)
                current.parts[suffix] = (member.offset_data, member.size)
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise CorruptDataError(f"The shard {path} is cut off: it lacks its end marker.")
    except tarfile.TarError as error:
        raise CorruptDataError(
            f"The shard {path} is not a well-formed tar file: {error}."
        ) from error
    if current is not None:
        yield current


def _split(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, (dot + suffix).lower()


def _entry(path: str, sample: _Sample, stream: Any) -> tuple[str, int, int, int]:
    images = [suffix for suffix in sample.parts if suffix in IMAGE_SUFFIXES]
    labels = [suffix for suffix in _LABEL_SUFFIXES if suffix in sample.parts]
    if len(images) != 1 or not labels:
        raise DataError(
            f"The sample {sample.key} of {path} has the parts {sorted(sample.parts)}; expected "
            "one image, and a label in .cls or .json."
        )
    offset, size = sample.parts[labels[0]]
    position = stream.tell()
    stream.seek(offset)
    text = stream.read(size)
    stream.seek(position)
    try:
        label = int(text) if labels[0] == ".cls" else json.loads(text)["label"]
        if type(label) is not int or not 0 <= label < 2**31:
            raise ValueError(f"{label!r} is not a class number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptDataError(
            f"The label {sample.key}{labels[0]} of {path} cannot be read: {error}."
        ) from error
    return (sample.key, *sample.parts[images[0]], label)
