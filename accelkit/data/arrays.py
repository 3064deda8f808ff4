"""Data that is in memory already: NumPy arrays, Python sequences, other libraries' datasets."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from accelkit.data.records import Array, Record, check_index, check_not_empty
from accelkit.errors import CorruptDataError, DataError

__all__ = ["ArraySource", "SequenceSource", "load_npz"]

_IMAGE_KEYS = ("image", "img", "pixels", "x")
_LABEL_KEYS = ("label", "labels", "fine_label", "y")


class _Sequence(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class ArraySource:
    """One array of samples and one of labels, sliced along their first axis.

    Args:
        images: Samples; uint8 of shape (N, H, W, C) or (N, H, W) where they are images. A
            memory-mapped array stays on the disk.
        labels: One entry a sample.
        classes: Class names in the order of the labels, if known.

    Raises:
        DataError: if the arrays are empty or differ in length.
    """

    def __init__(self, images: Array, labels: Array, *, classes: tuple[str, ...] = ()) -> None:
        if np.ndim(images) < 1 or np.ndim(labels) < 1 or len(images) != len(labels):
            raise DataError(
                f"There must be one label a sample: images have the shape {np.shape(images)}, "
                f"labels {np.shape(labels)}."
            )
        check_not_empty(len(images), "The array")
        self.images = np.asanyarray(images)
        self.labels = np.asarray(labels)
        self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> Record:
        check_index(index, len(self), "an array")
        label = self.labels[index]
        value = int(label) if label.ndim == 0 and label.dtype.kind in "iu" else np.asarray(label)
        return Record(np.asarray(self.images[index]), value, f"[{index}]")

    def __repr__(self) -> str:
        return f"ArraySource({self.images.dtype}{list(self.images.shape)})"


def load_npz(
    path: str | os.PathLike[str], *, images: str | None = None, labels: str | None = None
) -> ArraySource:
    """Read an ``.npz`` file into memory.

    Args:
        path: The file.
        images: Name of the array of samples; found by its usual names if None.
        labels: Name of the array of labels; likewise.

    Raises:
        DataError: if the file cannot be read or lacks the arrays; it lists those there are.
        CorruptDataError: if it is damaged or would need unpickling.
    """
    try:
        if not zipfile.is_zipfile(path) and Path(path).is_file():
            raise CorruptDataError(f"{path} is not a well-formed .npz file: it is no zip archive.")
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            names = list(archive.files)
            image_name = _pick(names, images, (*_IMAGE_KEYS, "images", "x_train"), str(path))
            label_name = _pick(names, labels, (*_LABEL_KEYS, "y_train"), str(path))
            return ArraySource(archive[image_name], archive[label_name])
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (DataError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError, AttributeError) as error:
        raise CorruptDataError(f"{path} is not a well-formed .npz file: {error}.") from error


def _pick(names: list[str], given: str | None, usual: tuple[str, ...], path: str) -> str:
    for name in (given,) if given is not None else usual:
        if name in names:
            return name
    wanted = repr(given) if given is not None else "any of " + ", ".join(usual)
    raise DataError(f"{path} has the arrays {names}, expected {wanted}. Name them explicitly.")


class SequenceSource:
    """Any Python sequence, a Hugging Face ``datasets`` object, or a torch ``Dataset``.

    An element may be a pair (content, label), a :class:`Record`, or a mapping with an image and a
    label. The content may be an encoded image, an array, a torch tensor, or a Pillow image. No
    other library is imported: what an element can do decides.

    Args:
        sequence: Has ``__len__`` and ``__getitem__``.
        image: Key of the image in mappings; found by its usual names if None.
        label: Key of the label in mappings; likewise.

    Raises:
        DataError: if it is empty or has no length.
    """

    def __init__(
        self, sequence: _Sequence, *, image: str | None = None, label: str | None = None
    ) -> None:
        if not hasattr(sequence, "__len__") or not hasattr(sequence, "__getitem__"):
            raise DataError(
                f"A {type(sequence).__name__} is no sequence: it needs __len__ and __getitem__. "
                "Read a stream into a list, or pack it into shards, first."
            )
        check_not_empty(len(sequence), f"The {type(sequence).__name__}")
        self._sequence = sequence
        self._keys = (image, label)
        self.classes = _class_names(sequence, label)

    def __len__(self) -> int:
        return len(self._sequence)

    def __getitem__(self, index: int, /) -> Record:
        check_index(index, len(self), f"a {type(self._sequence).__name__}")
        name = f"{type(self._sequence).__name__}[{index}]"
        element = self._sequence[index]
        if isinstance(element, Record):
            return element
        if isinstance(element, Mapping):
            keys = list(element)
            content = element[_pick(keys, self._keys[0], _IMAGE_KEYS, name)]
            label = element[_pick(keys, self._keys[1], _LABEL_KEYS, name)]
        elif isinstance(element, tuple | list) and len(element) == 2:
            content, label = element
        else:
            raise DataError(
                f"{name} is a {type(element).__name__}; expected a pair (image, label) or a "
                "mapping with both."
            )
        return Record(_content(content, name), _label(label, name), name)

    def __repr__(self) -> str:
        return f"SequenceSource({type(self._sequence).__name__} of {len(self)})"


def _content(value: Any, name: str) -> bytes | Array:
    if isinstance(value, bytes | np.ndarray):
        return value
    if isinstance(value, Mapping) and (value.get("bytes") or value.get("path")):
        # an undecoded image of Hugging Face: {"bytes": ..., "path": ...}
        return value["bytes"] or Path(value["path"]).read_bytes()
    if hasattr(value, "convert") and hasattr(value, "getbands"):  # a Pillow image
        return np.asarray(value.convert("RGB"))
    if hasattr(value, "read"):
        return bytes(value.read())
    return _as_array(value, name, "content")


def _label(value: Any, name: str) -> int | Array:
    if isinstance(value, int):
        return int(value)
    array = _as_array(value, name, "label")
    return int(array) if array.ndim == 0 and array.dtype.kind in "iu" else array


def _as_array(value: Any, name: str, what: str) -> Array:
    try:
        array = np.asarray(value)  # torch tensors and the like implement __array__
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The {what} of {name}, a {type(value).__name__}, is no array: {error}."
        ) from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"The {what} of {name} is a {type(value).__name__}, expected an image, an array or a "
            "number."
        )
    return array


def _class_names(sequence: Any, label: str | None) -> tuple[str, ...]:
    """Class names from Hugging Face's features or torchvision's ``classes``, where there are."""
    features = getattr(sequence, "features", None)
    if isinstance(features, Mapping):
        for key in (label,) if label is not None else _LABEL_KEYS:
            names = getattr(features.get(key), "names", None)
            if names:
                return tuple(names)
    classes = getattr(sequence, "classes", ())
    return tuple(map(str, classes)) if isinstance(classes, list | tuple) else ()
