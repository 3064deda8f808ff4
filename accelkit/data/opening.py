"""One argument of a command line to a data source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from accelkit.arguments import require_path
from accelkit.data.arrays import load_npz
from accelkit.data.digits import digits
from accelkit.data.folder import ImageFolder
from accelkit.data.packed import PackedSource, is_pack
from accelkit.data.records import Source
from accelkit.data.shapes import ShapesSource
from accelkit.data.shards import TarShards
from accelkit.errors import DataError

__all__ = ["open_source"]

_FORMS = (
    "a folder of classes, a pack, 'shards-{000..146}.tar', a file .npz, "
    "'digits', or 'shapes:COUNT:SIZE'"
)


def open_source(
    specification: str | os.PathLike[str], *, split: Literal["train", "test"] = "train"
) -> Source:
    """Find the source that a specification names.

    A directory with folders ``train`` and ``val`` (or ``test``) stands for one of them.

    Args:
        specification: A folder of classes; a pack; a pattern of tar shards; an ``.npz`` file;
            ``digits``; ``shapes``, ``shapes:COUNT`` or ``shapes:COUNT:SIZE``.
        split: Which part of a data set that has two.

    Raises:
        DataError: if it names nothing that can be opened.
    """
    require_path("specification", specification)
    text = os.fspath(specification)
    name, *arguments = text.split(":")
    if name == "digits" and not arguments:
        return digits(split)
    if name == "shapes" and len(arguments) <= 2 and all(map(str.isdecimal, arguments)):
        count, size = [*map(int, arguments), *(10_000, 32)[len(arguments) :]]
        return ShapesSource(count, size=size, split=split)
    if text.endswith(".npz"):
        return load_npz(text)
    if text.endswith(".tar"):
        return TarShards(text)
    path = Path(text)
    if not path.is_dir():
        raise DataError(f"{text!r} names no data. Expected {_FORMS}.")
    for folder in ("train",) if split == "train" else ("val", "test"):
        if (path / folder).is_dir():
            return open_source(path / folder, split=split)
    return PackedSource(path) if is_pack(path) else ImageFolder(path)
