"""Images on the disk, one folder for each class, as ImageNet is laid out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from accelkit.data.records import Record, StringTable, check_index
from accelkit.errors import CorruptDataError, DataError, some

__all__ = ["IMAGE_SUFFIXES", "ImageFolder"]

_log = logging.getLogger("accelkit.data")

IMAGE_SUFFIXES: Final = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
)


class ImageFolder:
    """``ROOT/<class>/.../<image>``: the classes are the sorted names of the folders in ``ROOT``.

    Files with other suffixes and hidden files are left out; how many is logged. The order of the
    records is that of their sorted paths.

    Args:
        root: The folder of classes.
        classes: Class names in the order of their labels, e.g. those of the training set; all of
            the folders' names by default.
        suffixes: Which files are images, in lower case.
        allow_empty: Accept classes without images.

    Raises:
        DataError: if the folder does not exist, cannot be read, or holds no class; if a class has
            no image, or is not among ``classes``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        classes: Iterable[str] | None = None,
        suffixes: Iterable[str] = IMAGE_SUFFIXES,
        allow_empty: bool = False,
    ) -> None:
        self.root = Path(root)
        self._suffixes = frozenset(suffixes)
        folders = sorted(path.name for path in _entries(self.root) if path.is_dir())
        folders = [name for name in folders if not name.startswith(".")]
        self.classes: tuple[str, ...] = tuple(folders if classes is None else classes)
        if not folders:
            raise DataError(
                f"{self.root} holds no folder of a class. Expected {self.root}/<class>/<image>."
            )
        if unknown := sorted(set(folders) - set(self.classes)):
            raise DataError(
                f"{self.root} holds the classes {some(unknown)}, which are not among the "
                f"{len(self.classes)} expected ones."
            )
        self.ignored = 0
        found = [
            sorted(self._images(self.root / name)) if name in folders else []
            for name in self.classes
        ]
        if not allow_empty:
            self._require_images(found)
        if self.ignored:
            _log.warning("%s: left out %d files that are no images.", self.root, self.ignored)
        if not any(found):
            raise DataError(f"{self.root} holds no image.")
        self._paths = StringTable([path for paths in found for path in paths])
        self._labels = np.repeat(np.arange(len(found)), [len(paths) for paths in found])

    def _require_images(self, found: Sequence[Sequence[str]]) -> None:
        empty = [name for name, paths in zip(self.classes, found, strict=True) if not paths]
        if empty:
            raise DataError(
                f"{len(empty)} of {len(self.classes)} classes in {self.root} have no image: "
                f"{some(empty)}. Images end in {', '.join(sorted(self._suffixes))}. Add some, "
                "remove the folders, or open them by ImageFolder(..., allow_empty=True)."
            )

    def _images(self, folder: Path) -> Iterator[str]:
        for path in _entries(folder):
            if path.is_dir():
                yield from self._images(path)
            elif path.suffix.lower() in self._suffixes and not path.name.startswith("."):
                yield str(path.relative_to(self.root))
            else:
                self.ignored += 1

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int, /) -> Record:
        path = self.root / self._paths[check_index(index, len(self), str(self.root))]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CorruptDataError(f"The image {path} cannot be read: {error.strerror}.") from error
        return Record(content, int(self._labels[index]), str(path))

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.root)!r}: {len(self)} images, {len(self.classes)} classes)"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}.") from error
