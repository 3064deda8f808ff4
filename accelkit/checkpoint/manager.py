"""A run's checkpoints: saved in the background, the last and the best kept, restored verified."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from accelkit.arguments import require_bool, require_integer, require_path
from accelkit.checkpoint.manifest import CheckpointInfo, Metric
from accelkit.checkpoint.storage import (
    Checkpoint,
    checkpoint_sequence,
    checkpoint_step,
    discard,
    is_leftover,
    list_checkpoints,
    quarantine,
    read_checkpoint,
    read_info,
    write_checkpoint,
)
from accelkit.checkpoint.tensorfile import Array, check_storable
from accelkit.errors import (
    CheckpointError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    OptionError,
)
from accelkit.filesystem import DirectoryLock, FileSystem

__all__ = ["CheckpointManager", "CheckpointWarning"]

_log = logging.getLogger("accelkit.checkpoint")


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged and an older one is used, or old ones could not be deleted."""


class CheckpointManager:
    """Writes and restores the checkpoints of one run in one directory.

    Only one manager at a time may hold a directory; the lock ends with the process, even if it
    is killed. Opening a directory removes what an interrupted save left behind.

    Args:
        directory: Created if it does not exist.
        keep_last: How many of the newest checkpoints to keep, at least 1; 2 or more leave
            something to fall back to when the newest is damaged.
        keep_best: How many of the best by ``metric`` to keep besides those.
        best: Whether a higher (``"max"``) or a lower (``"min"``) metric is better.
        background: Write in a thread; ``save`` then returns once the arrays are copied.
        filesystem: Operations on the disk, replaceable by tests.

    Raises:
        CheckpointError: if another process holds the directory, or it cannot be made.
        OptionError: for a ``keep_last`` below 1, a negative ``keep_best`` or an unknown ``best``.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int = 3,
        keep_best: int = 1,
        best: Literal["max", "min"] = "max",
        background: bool = True,
        filesystem: FileSystem | None = None,
    ) -> None:
        require_path("directory", directory)
        require_integer("keep_last", keep_last)
        require_integer("keep_best", keep_best, least=0)
        require_bool("background", background)
        if best not in ("max", "min"):
            raise OptionError(f"best is {best!r}, expected 'max' or 'min'.")
        self.directory = Path(directory)
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._sign = 1.0 if best == "max" else -1.0
        self._background = background
        self._files = filesystem or FileSystem()
        self._thread: threading.Thread | None = None
        self._failure: CheckpointError | None = None
        self._metrics: dict[Path, float] = {}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(self.directory)
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint directory {self.directory} cannot be used: {error.strerror}. "
                "Give a directory that can be written."
            ) from error
        self._remove_leftovers()
        paths = list_checkpoints(self.directory)
        self._next_sequence = 1 + max(map(checkpoint_sequence, paths), default=0)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Array],
        *,
        seed: int | None = None,
        data_position: Any = None,
        schedule: Any = None,
        metadata: Mapping[str, Any] | None = None,
        metric: Metric | None = None,
        wait: bool = False,
    ) -> None:
        """Write a checkpoint. In the background, only the copy of the arrays is waited for.

        A save that is still being written is waited for first, so that at most one copy of the
        arrays exists beside the caller's.

        Args:
            step: Training steps done, not negative.
            tensors: Arrays by name; they may change as soon as this returns.
            seed: Seed of the run.
            data_position: The data loader's ``state()``.
            schedule: Learning-rate schedule and its state.
            metadata: Anything of the caller's that JSON can hold.
            metric: Figure that decides which checkpoints are the best.
            wait: Return only when the checkpoint is on the disk.

        Raises:
            CheckpointError: if this save cannot start, or the one before it has failed.
            OptionError: for a negative step.
        """
        if step < 0:
            raise OptionError(f"step is {step}, expected 0 or more.")
        check_storable(tensors)
        self.wait()
        info = CheckpointInfo(
            step=step,
            sequence=self._next_sequence,
            seed=seed,
            data_position=data_position,
            schedule=schedule,
            metadata=metadata or {},
            metric=metric,
        )
        self._next_sequence += 1
        if not self._background:
            self._write(tensors, info)
            return
        copies = {name: np.array(array, copy=True, order="C") for name, array in tensors.items()}
        self._thread = threading.Thread(
            target=self._write_guarded, args=(copies, info), name="accelkit-checkpoint"
        )
        self._thread.start()
        if wait:
            self.wait()

    def __repr__(self) -> str:
        return f"<CheckpointManager of {self.directory}>"

    def wait(self) -> None:
        """Wait until the last save is on the disk.

        Raises:
            CheckpointError: if it has failed. The error is raised once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _write_guarded(self, tensors: Mapping[str, Array], info: CheckpointInfo) -> None:
        try:
            self._write(tensors, info)
        except CheckpointError as error:
            self._failure = error
        except Exception as error:
            self._failure = CheckpointError(
                f"Writing the checkpoint of step {info.step} failed: {error!r}."
            )
            self._failure.__cause__ = error

    def _write(self, tensors: Mapping[str, Array], info: CheckpointInfo) -> None:
        path = write_checkpoint(self.directory, tensors, info, filesystem=self._files)
        if info.metric is not None:
            self._metrics[path] = info.metric.value
        self._prune()

    def _prune(self) -> None:
        """Delete all but the newest and the best; failing to is only worth a warning."""
        paths = list_checkpoints(self.directory)
        kept = set(paths[-self._keep_last :]) | set(self._best(paths))
        for path in paths:
            if path not in kept:
                try:
                    discard(path, self._files)
                except OSError as error:
                    _log.warning("The old checkpoint %s cannot be deleted: %s", path, error)

    def _best(self, paths: list[Path]) -> list[Path]:
        """The best of ``paths``, best first; of equal ones the newer is better."""
        metrics = [self._metric(path) for path in paths]
        scored = [
            (self._sign * metric, age, path)
            for age, (metric, path) in enumerate(zip(metrics, paths, strict=True))
            if math.isfinite(metric)
        ]
        return [path for _, _, path in sorted(scored, reverse=True)[: self._keep_best]]

    def _metric(self, path: Path) -> float:
        if path not in self._metrics:
            metric = None
            with contextlib.suppress(CheckpointError):
                metric = read_info(path).metric
            self._metrics[path] = math.nan if metric is None else metric.value
        return self._metrics[path]

    def paths(self) -> list[Path]:
        """The directories of the checkpoints on the disk, oldest first."""
        self.wait()
        return list_checkpoints(self.directory)

    def best(self) -> Path | None:
        """The directory of the checkpoint with the best metric, if any has one."""
        best = self._best(self.paths()) if self._keep_best else []
        return best[0] if best else None

    def restore(
        self, *, step: int | None = None, expected: Mapping[str, Any] | None = None
    ) -> Checkpoint | None:
        """Read the newest checkpoint that verifies, or that of one step.

        A damaged one is reported with a :class:`CheckpointWarning`, renamed to ``corrupt-...``
        and passed over for the one before it.

        Args:
            step: Restore exactly this step (the newest checkpoint of it) instead.
            expected: Arrays, or anything with ``shape`` and ``dtype``, that it must fit.

        Returns:
            The checkpoint; None where the directory has none at all.

        Raises:
            CorruptCheckpointError: if checkpoints exist and none of them can be used.
            IncompatibleCheckpointError: if it is of a newer format or does not fit ``expected``.
            CheckpointError: if ``step`` was given and has no checkpoint.
        """
        candidates = self.paths()[::-1]
        if step is not None:
            candidates = self._of_step(candidates, step)
        failures: dict[Path, CheckpointError] = {}
        for path in candidates:
            try:
                found = read_checkpoint(path, expected=expected)
            except IncompatibleCheckpointError:
                raise
            except CheckpointError as error:
                failures[path] = error
                continue
            self._pass_over(failures, found.path)
            return found
        if not failures:
            return None
        listing = "\n".join(f"  {path.name}: {error}" for path, error in failures.items())
        raise CorruptCheckpointError(
            f"None of the {len(failures)} checkpoints in {self.directory} can be used:\n{listing}\n"
            "Nothing was deleted. Repair them, or start anew in another directory."
        ) from next(iter(failures.values()))

    @staticmethod
    def _of_step(candidates: list[Path], step: int) -> list[Path]:
        found = [path for path in candidates if checkpoint_step(path) == step]
        if not found:
            steps = sorted({checkpoint_step(path) for path in candidates})
            raise CheckpointError(f"There is no checkpoint of step {step}. There are: {steps}.")
        return found

    def _pass_over(self, failures: Mapping[Path, CheckpointError], used: Path) -> None:
        for path, error in failures.items():
            moved = ""
            if isinstance(error, CorruptCheckpointError):
                with contextlib.suppress(OSError):
                    moved = f" It was renamed to {quarantine(path, self._files).name}."
            warnings.warn(
                f"The checkpoint {path.name} CANNOT BE USED and {used.name} is used instead; the "
                f"steps between them are lost. {error}{moved}",
                CheckpointWarning,
                stacklevel=3,
            )

    def _remove_leftovers(self) -> None:
        for path in filter(is_leftover, sorted(self.directory.iterdir())):
            try:
                self._files.remove_tree(path)
                _log.info("Removed %s, left by an interrupted save.", path)
            except OSError as error:
                _log.warning("%s, left by an interrupted save, stays: %s", path, error)

    def close(self) -> None:
        """Finish the last save and let others use the directory.

        Raises:
            CheckpointError: if the last save has failed.
        """
        try:
            self.wait()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:  # an error is under way already: report the save's failure without hiding it
            self.close()
        except CheckpointError as failure:
            _log.error("%s", failure)
