"""One checkpoint directory: written so that it is complete or absent, read only if verified."""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from accelkit.arguments import require_path
from accelkit.checkpoint.manifest import (
    CheckpointInfo,
    FileRecord,
    decode_manifest,
    encode_manifest,
    library_versions,
)
from accelkit.checkpoint.tensorfile import Array, decode_tensors, encode_tensors
from accelkit.errors import (
    CheckpointError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    some,
)
from accelkit.filesystem import FileSystem

__all__ = [
    "Checkpoint",
    "check_compatible",
    "checkpoint_sequence",
    "checkpoint_step",
    "discard",
    "is_leftover",
    "list_checkpoints",
    "load_checkpoint",
    "quarantine",
    "read_checkpoint",
    "read_info",
    "write_checkpoint",
]

_TENSORS: Final = "tensors.safetensors"
_MANIFEST: Final = "manifest.json"
_SUMS: Final = "SHA256SUMS"
_TEMPORARY_PREFIX: Final = ".tmp-"
_DISCARDED_PREFIX: Final = ".discarded-"
_QUARANTINE_PREFIX: Final = "corrupt-"
_NAME = re.compile(r"(\d{6,})-step-(\d+)")


class _HasShapeAndDType(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory.

    Attributes:
        tensors: Arrays by name, writable, as they were given to the save.
        info: The rest of its content.
        path: Its directory.
    """

    tensors: dict[str, Array]
    info: CheckpointInfo
    path: Path


def write_checkpoint(
    directory: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    info: CheckpointInfo,
    *,
    filesystem: FileSystem | None = None,
) -> Path:
    """Write one checkpoint below ``directory`` and return its path once it is on the disk.

    Whatever happens in between, the directory holds either the complete new checkpoint or only
    the ones from before.

    Args:
        directory: The run's checkpoint directory; it must exist.
        tensors: Arrays by name.
        info: Step, sequence and the rest; ``versions``, ``created`` and ``files`` are filled in.
        filesystem: Operations on the disk, replaceable by tests.

    Raises:
        CheckpointError: if the disk is full or fails, or something cannot be stored.
    """
    files = filesystem or FileSystem()
    parent = Path(directory)
    name = f"{info.sequence:06d}-step-{info.step}"
    temporary = parent / f"{_TEMPORARY_PREFIX}{name}-{secrets.token_hex(4)}"
    try:
        files.make_directory(temporary)
        digests = {_TENSORS: _write(files, temporary / _TENSORS, encode_tensors(tensors))}
        info = replace(
            info,
            files=dict(digests),
            versions={**library_versions(), **info.versions},
            created=info.created or datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
        )
        manifest = memoryview(encode_manifest(info))
        digests[_MANIFEST] = _write(files, temporary / _MANIFEST, [manifest])
        _write(files, temporary / _SUMS, [memoryview(_sums(digests))])
        files.sync_directory(temporary)
        files.rename(temporary, parent / name)
        files.sync_directory(parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            files.remove_tree(temporary)
        raise CheckpointError(_write_failure(parent, error)) from error
    except CheckpointError:
        with contextlib.suppress(OSError):
            files.remove_tree(temporary)
        raise
    return parent / name


def _write(files: FileSystem, path: Path, chunks: Iterable[memoryview]) -> FileRecord:
    digest = hashlib.sha256()
    size = 0

    def observed() -> Iterator[memoryview]:
        nonlocal size
        for chunk in chunks:
            digest.update(chunk)
            size += chunk.nbytes
            yield chunk

    files.write_file(path, observed())
    return FileRecord(size, digest.hexdigest())


def _sums(digests: Mapping[str, FileRecord]) -> bytes:
    lines = [f"{record.sha256}  {name}\n" for name, record in sorted(digests.items())]
    return "".join(lines).encode("ascii")


def _write_failure(directory: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    advice = "Checkpoints written before are untouched."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice += " Free some space, keep fewer checkpoints, or give another directory."
    return f"A checkpoint could not be written to {directory}: {reason}. {advice}"


def read_checkpoint(
    path: str | os.PathLike[str], *, expected: Mapping[str, _HasShapeAndDType] | None = None
) -> Checkpoint:
    """Read and verify one checkpoint directory.

    The bytes are read once, hashed, and only then parsed, so that what was verified is what is
    used.

    Args:
        path: A directory that :func:`write_checkpoint` returned.
        expected: Names, shapes and dtypes that the tensors must have.

    Raises:
        CorruptCheckpointError: if any bit differs from what was written, or a file is missing.
        IncompatibleCheckpointError: if it is of a newer format or does not fit ``expected``.
        CheckpointError: if there is no such directory, or it cannot be read.
    """
    place = Path(path)
    if not place.is_dir():
        raise CheckpointError(f"There is no checkpoint directory {place}.")
    info, tensor_bytes = _read_verified(place)
    try:
        tensors = decode_tensors(tensor_bytes)
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(f"{place / _TENSORS}: {error}") from error
    if expected is not None:
        check_compatible(expected, tensors, what=str(place))
    return Checkpoint(tensors, info, place)


def _read_verified(place: Path) -> tuple[CheckpointInfo, bytearray]:
    manifest = _read(place / _MANIFEST)
    tensor_bytes = _read(place / _TENSORS)
    digests = {
        name: FileRecord(len(data), hashlib.sha256(data).hexdigest())
        for name, data in ((_MANIFEST, manifest), (_TENSORS, tensor_bytes))
    }
    if _read(place / _SUMS) != _sums(digests):
        raise CorruptCheckpointError(
            f"The checkpoint {place} does not match its {_SUMS}: its content has changed since "
            f"it was written. `cd {place} && sha256sum -c {_SUMS}` names the file."
        )
    info = decode_manifest(bytes(manifest))
    if dict(info.files) != {_TENSORS: digests[_TENSORS]}:
        raise CorruptCheckpointError(
            f"The manifest of {place} lists {dict(info.files)}, its files are {digests}."
        )
    return info, tensor_bytes


def _read(path: Path) -> bytearray:
    try:
        with path.open("rb", buffering=0) as stream:
            data = bytearray(os.fstat(stream.fileno()).st_size)
            view, position = memoryview(data), 0
            while position < len(data) and (count := stream.readinto(view[position:])):
                position += count
    except FileNotFoundError as error:
        raise CorruptCheckpointError(f"The checkpoint lacks its file {path}.") from error
    except IsADirectoryError as error:
        raise CorruptCheckpointError(f"{path} is a directory, expected a file.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if position < len(data):
        raise CorruptCheckpointError(f"{path} became shorter while it was read.")
    return data


def read_info(path: Path) -> CheckpointInfo:
    """Read a checkpoint's manifest alone, checked against its digest but without its tensors.

    Raises:
        CheckpointError: if the manifest is missing, damaged or of a newer format.
    """
    manifest = _read(path / _MANIFEST)
    line = f"{hashlib.sha256(manifest).hexdigest()}  {_MANIFEST}\n".encode("ascii")
    if line not in bytes(_read(path / _SUMS)):
        raise CorruptCheckpointError(f"The manifest of {path} does not match its digest.")
    return decode_manifest(bytes(manifest))


def check_compatible(
    expected: Mapping[str, _HasShapeAndDType],
    given: Mapping[str, _HasShapeAndDType],
    *,
    what: str = "The checkpoint",
) -> None:
    """Require the same tensor names, shapes and dtypes.

    Raises:
        IncompatibleCheckpointError: listing what is missing, extra, or of another shape or dtype.
    """
    differing = [
        f"{name} is {given[name].dtype}{list(given[name].shape)}, "
        f"expected {array.dtype}{list(array.shape)}"
        for name, array in sorted(expected.items())
        if name in given and _signature(given[name]) != _signature(array)
    ]
    problems = {
        "missing from it": sorted(expected.keys() - given.keys()),
        "extra in it": sorted(given.keys() - expected.keys()),
        "of another shape or dtype": differing,
    }
    found = [f"{len(names)} {kind}: {some(names)}" for kind, names in problems.items() if names]
    if found:
        raise IncompatibleCheckpointError(
            f"{what} belongs to another model or optimizer: {'; '.join(found)}. Build the model "
            "it was made with, or start from a fresh directory."
        )


def _signature(array: _HasShapeAndDType) -> tuple[tuple[int, ...], str]:
    return tuple(array.shape), str(array.dtype)


def list_checkpoints(directory: str | os.PathLike[str]) -> list[Path]:
    """Paths of the checkpoints below ``directory``, oldest first, unverified."""
    place = Path(directory)
    if not place.is_dir():
        return []
    found = [p for p in place.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=checkpoint_sequence)


def checkpoint_sequence(path: Path) -> int:
    """The position of a checkpoint in the order of writing, from its name.

    Raises:
        CheckpointError: if it is not the name of a checkpoint.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} does not have the name of a checkpoint.")
    return int(match[1])


def checkpoint_step(path: Path) -> int:
    """The training step of a checkpoint, from its name."""
    return int(path.name.rpartition("-")[2])


def load_checkpoint(
    path: str | os.PathLike[str], *, expected: Mapping[str, _HasShapeAndDType] | None = None
) -> Checkpoint:
    """Read a checkpoint directory, or the newest one of a run's directory, without writing.

    Raises:
        CheckpointError: as :func:`read_checkpoint`; or if there is none. A damaged newest
            checkpoint is an error here: use ``CheckpointManager.restore`` to fall back.
    """
    require_path("path", path)
    place = Path(path)
    if place.is_dir() and not (place / _MANIFEST).exists():
        found = list_checkpoints(place)
        if not found and not (place / _SUMS).exists():
            raise CheckpointError(
                f"{place} holds no checkpoint. Give one, or the directory of a run."
            )
        place = found[-1] if found else place
    return read_checkpoint(place, expected=expected)


def discard(path: Path, files: FileSystem) -> None:
    """Delete a checkpoint so that a crash in the middle leaves no half of it under its name."""
    hidden = path.with_name(f"{_DISCARDED_PREFIX}{path.name}-{secrets.token_hex(4)}")
    files.rename(path, hidden)
    files.remove_tree(hidden)


def quarantine(path: Path, files: FileSystem) -> Path:
    """Move a damaged checkpoint out of the way, keeping its files for inspection."""
    target = path.with_name(f"{_QUARANTINE_PREFIX}{path.name}-{secrets.token_hex(4)}")
    files.rename(path, target)
    return target


def is_leftover(path: Path) -> bool:
    """Whether a path is a temporary directory of a save or a deletion that did not finish."""
    return path.name.startswith((_TEMPORARY_PREFIX, _DISCARDED_PREFIX)) and path.is_dir()
