"""The log of a run: a JSON line for each step and evaluation, and TensorBoard events.

The JSON lines hold nothing that depends on time or machine, and a resumed run cuts the log back
to its checkpoint: so the log of a run that was interrupted equals, byte for byte, that of one
which was not.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from accelkit.errors import DataError, OptionError
from accelkit.training.tensorboard import EventWriter

__all__ = ["LOG_NAME", "RunLog", "read_log"]

LOG_NAME = "log.jsonl"


class RunLog:
    """Appends to ``DIR/log.jsonl`` and to a TensorBoard event file; does nothing without DIR.

    Args:
        directory: Created if needed.
        resumed_step: Lines of later steps are cut off; None to start a new log.

    Raises:
        OptionError: if the directory cannot be written, or holds the log of another run.
        DataError: from any method, if the disk is full or fails; the log then ends there.
    """

    def __init__(self, directory: str | None, *, resumed_step: int | None) -> None:
        self._events: EventWriter | None = None
        self._stream: BinaryIO | None = None
        if directory is None:
            return
        place = Path(directory)
        self._path = path = place / LOG_NAME
        try:
            place.mkdir(parents=True, exist_ok=True)
            if resumed_step is None and path.exists() and path.stat().st_size:
                raise OptionError(
                    f"{path} is the log of another run. Resume that run with --resume, or give "
                    "another --log-dir."
                )
            self._stream = path.open("ab")
            self._stream.truncate(_length_up_to(path, resumed_step or 0))
            self._stream.seek(0, os.SEEK_END)
            self._events = EventWriter(place, restart_step=resumed_step or 0)
        except OSError as error:
            raise OptionError(
                f"The log {path} cannot be written: {error.strerror}. Give another --log-dir."
            ) from error

    def step(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Log a training step."""
        self._line({"step": step, "epoch": epoch, **values})
        self._scalars(step, "train", values)

    def evaluation(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Log an evaluation."""
        self._line({"step": step, "epoch": epoch, "evaluation": dict(values)})
        self._scalars(step, "evaluation", values)

    def timing(self, step: int, values: Mapping[str, float]) -> None:
        """Throughput and waits: for TensorBoard only, since they differ from run to run."""
        self._scalars(step, "speed", values)

    def _line(self, record: dict[str, Any]) -> None:
        if self._stream is not None:
            line = json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
            with self._writing():
                self._stream.write(line)

    def _scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        if self._events is not None:
            with self._writing():
                self._events.scalars(step, {f"{group}/{name}": v for name, v in values.items()})

    def sync(self) -> None:
        """Bring all lines to the disk: a checkpoint must not be ahead of its log."""
        if self._stream is not None and self._events is not None:
            with self._writing():
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._events.flush()

    def close(self) -> None:
        """Close the files."""
        if self._stream is not None and self._events is not None:
            with self._writing():
                self._stream.close()
                self._events.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """End the log at the first failure: what comes later would leave a hole in it."""
        try:
            yield
        except OSError as error:
            stream, self._stream = self._stream, None
            events, self._events = self._events, None
            for file in (stream, events):
                if file is not None:
                    with contextlib.suppress(OSError):  # it has lines left that do not fit
                        file.close()
            raise DataError(
                f"The log {self._path} cannot be written: {error.strerror}. Free some space, or "
                "give another --log-dir, and continue from the last checkpoint with --resume."
            ) from error


def _length_up_to(path: Path, step: int) -> int:
    """Bytes of the complete lines up to ``step``."""
    length = 0
    with path.open("rb") as stream:
        for line in stream:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            length += len(line)
    return length


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a log, or of the log in a directory; an incomplete last line is left out.

    Raises:
        OptionError: if it cannot be read or is no log.
    """
    place = Path(path)
    place = place / LOG_NAME if place.is_dir() else place
    try:
        lines = place.read_bytes().split(b"\n")[:-1]
        records = [json.loads(line) for line in lines]
    except OSError as error:
        raise OptionError(f"The log {place} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise OptionError(f"{place} is no log of a run: {error}.") from error
    if not records:
        raise OptionError(f"{place} is no log of a run: it has no complete line.")
    if not all(map(_is_record, records)):
        raise OptionError(f"{place} is no log of a run: a line has no step, or a value is text.")
    return records


def _is_record(value: Any) -> bool:
    """Whether a line has a step, and numbers wherever a curve would look for them."""
    if not isinstance(value, dict) or not isinstance(value.get("step"), int):
        return False
    evaluation = value.get("evaluation", {})
    return isinstance(evaluation, dict) and all(
        part is None or isinstance(part, int | float)
        for part in (*value.values(), *evaluation.values())
        if part is not evaluation
    )
