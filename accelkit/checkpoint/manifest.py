"""What a checkpoint says about itself, and its canonical JSON form."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from accelkit.checkpoint.tensorfile import parse_json
from accelkit.errors import (
    CheckpointError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
)

__all__ = [
    "FORMAT_VERSION",
    "CheckpointInfo",
    "FileRecord",
    "Metric",
    "decode_manifest",
    "encode_manifest",
    "library_versions",
]

FORMAT_NAME: Final = "accelkit-checkpoint"
FORMAT_VERSION: Final = 1
_REPORTED_LIBRARIES: Final = (
    "accelkit",
    "numpy",
    "torch",
    "jax",
    "jaxlib",
    "tensorflow",
    "pyopencl",
    "grain",
    "simplejpeg",
    "PIL",
)


@dataclass(frozen=True)
class Metric:
    """The figure by which the best checkpoints are chosen; one that is not finite is the worst."""

    name: str
    value: float


@dataclass(frozen=True)
class FileRecord:
    """Size and digest of one file of a checkpoint."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointInfo:
    """Everything in a checkpoint except its tensors.

    Attributes:
        step: Training steps done.
        sequence: Position in the order in which a directory's checkpoints were written.
        seed: Seed of the run.
        data_position: Where the data loader stands, as its ``state()`` gave it.
        schedule: Learning-rate schedule and whatever state it has.
        metadata: Anything of the caller's that JSON can hold.
        metric: Figure that decides which checkpoints are the best.
        created: Time of writing, UTC, ISO 8601.
        versions: Versions of Python and of the libraries that were loaded.
        files: Size and SHA-256 of each data file.
    """

    step: int
    sequence: int = 0
    seed: int | None = None
    data_position: Any = None
    schedule: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric | None = None
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)


def library_versions() -> dict[str, str]:
    """Versions of Python and of those relevant libraries that are loaded already."""
    versions = {"python": platform.python_version()}
    for name in _REPORTED_LIBRARIES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            versions[name] = version
    return versions


def encode_manifest(info: CheckpointInfo) -> bytes:
    """Write the manifest as JSON with sorted keys, one trailing newline.

    Raises:
        CheckpointError: if a value cannot be held by JSON; the message has its path.
    """
    metric = info.metric
    value = float(metric.value) if metric and math.isfinite(metric.value) else None
    document = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "step": info.step,
        "sequence": info.sequence,
        "seed": info.seed,
        "data_position": info.data_position,
        "schedule": info.schedule,
        "metadata": info.metadata,
        "metric": None if metric is None else {"name": metric.name, "value": value},
        "created": info.created,
        "versions": info.versions,
        "files": {
            name: {"size_bytes": record.size_bytes, "sha256": record.sha256}
            for name, record in info.files.items()
        },
    }
    text = json.dumps(_plain(document, "manifest"), indent=2, sort_keys=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def _plain(value: Any, path: str) -> Any:
    """Copy ``value`` to what JSON can hold exactly, or say which part it cannot."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise CheckpointError(
            f"{path} is {value}, which JSON cannot hold. Leave it out or write it as a string."
        )
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise CheckpointError(
                    f"{path} has the key {key!r}; JSON keeps only string keys. Use {str(key)!r}."
                )
        return {key: _plain(item, f"{path}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
    raise CheckpointError(
        f"{path} is a {type(value).__name__}, which JSON cannot hold. Give arrays among the "
        "tensors, and other objects as numbers, strings, lists and dicts."
    )


def decode_manifest(data: bytes) -> CheckpointInfo:
    """Read a manifest.

    Raises:
        IncompatibleCheckpointError: if a newer version of the format wrote it.
        CorruptCheckpointError: if it is not a manifest.
    """
    document = parse_json(data, "the manifest")
    version = document.get("format_version")
    if document.get("format") != FORMAT_NAME or type(version) is not int:
        raise CorruptCheckpointError("The manifest does not describe an accelkit checkpoint.")
    if version > FORMAT_VERSION:
        raise IncompatibleCheckpointError(
            f"The checkpoint has format version {version}; this accelkit reads up to "
            f"{FORMAT_VERSION}. Upgrade accelkit to read it (it was written with "
            f"{document.get('versions')})."
        )
    try:
        files = {
            name: FileRecord(_typed(entry["size_bytes"], int), _typed(entry["sha256"], str))
            for name, entry in _typed(document["files"], dict).items()
        }
        metric = document["metric"]
        seed = document["seed"]
        return CheckpointInfo(
            step=_typed(document["step"], int),
            sequence=_typed(document["sequence"], int),
            seed=None if seed is None else _typed(seed, int),
            data_position=document["data_position"],
            schedule=document["schedule"],
            metadata=_typed(document["metadata"], dict),
            metric=None if metric is None else _metric(metric),
            created=_typed(document["created"], str),
            versions=_typed(document["versions"], dict),
            files=files,
        )
    except (KeyError, TypeError) as error:
        raise CorruptCheckpointError(f"The manifest is incomplete: {error!r}.") from error


def _metric(entry: dict[str, Any]) -> Metric:
    value = entry["value"]
    return Metric(_typed(entry["name"], str), math.nan if value is None else _typed(value, float))


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
