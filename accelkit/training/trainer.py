"""The training loop: steps, evaluations, checkpoints, and continuing where a run was stopped."""

from __future__ import annotations

import argparse
import collections
import contextlib
import time
from dataclasses import dataclass
from typing import Any, TypeAlias

from accelkit import registry
from accelkit.checkpoint import CheckpointManager, Metric, restore_state, save_state
from accelkit.checkpoint.storage import read_info
from accelkit.data import Batch, Prefetcher, to_device
from accelkit.errors import CheckpointError, IncompatibleCheckpointError
from accelkit.train import StepMetrics, TrainState
from accelkit.training.assembly import Parts
from accelkit.training.display import Display, Progress
from accelkit.training.interruption import Interruption
from accelkit.training.logs import RunLog
from accelkit.training.options import as_arguments, recorded_options
from accelkit.training.speed import SpeedMeter

__all__ = ["Outcome", "Trainer"]

Batches: TypeAlias = Prefetcher[dict[str, Any]]

_UNREAD_STEPS = 2  # how far the metrics that are read lag behind, so that the device stays busy
_REFRESH_S = 0.25


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: The final state.
        evaluation: The last evaluation's metrics.
        elapsed_s: Time spent training and evaluating, earlier parts of the run included.
        target_reached: Whether the target accuracy stopped it.
        interrupted: Whether a signal stopped it.
    """

    state: TrainState
    evaluation: dict[str, float]
    elapsed_s: float
    target_reached: bool
    interrupted: bool


class Trainer:
    """One run, from its start or its newest checkpoint to its end.

    Args:
        options: Of ``python -m accelkit.train``.
        parts: What :func:`accelkit.training.assembly.assemble` made of them.
        manager: The run's checkpoints, if it keeps any.
        log: Where metrics go.
        display: What is shown.
        interruption: Set by a signal.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        parts: Parts,
        *,
        manager: CheckpointManager | None,
        log: RunLog,
        display: Display,
        interruption: Interruption,
    ) -> None:
        self.options = options
        self.parts = parts
        self.manager = manager
        self.log = log
        self.display = display
        self.interruption = interruption
        self.progress = Progress(epochs=options.epochs, steps=parts.steps)
        self._unread: collections.deque[tuple[int, int, StepMetrics]] = collections.deque()
        self._meter = SpeedMeter()
        self._started = time.perf_counter()
        self._first_step = 0
        self._elapsed_before_s = 0.0
        self._first_done = self._started
        self._shown = 0.0
        self._evaluation_due = False

    def start(self) -> TrainState:
        """The state to train from: the newest good checkpoint's, or a new one.

        Raises:
            CheckpointError: if there are checkpoints, but none can be used or they do not fit.
        """
        shape = self.parts.input_shape
        state = self.parts.step.init(self.options.seed, shape)
        if self.manager is None:
            return state
        self._require_same_options(self.manager)
        found = restore_state(self.manager, state)
        if found is None:
            return state
        state, info = found
        if repr(self.parts.schedule) != info.schedule:
            raise IncompatibleCheckpointError(
                f"The learning rate would change: the run has the schedule {info.schedule}, now "
                f"it would be {self.parts.schedule!r}. It depends on --epochs."
            )
        self.parts.loader.restore(info.data_position)
        self._elapsed_before_s = float(info.metadata["elapsed_s"])
        self._evaluation_due = bool(info.metadata["evaluation_due"])
        self._first_step = state.step
        device = info.metadata["device"]
        self.display.message(f"Continuing from step {state.step} (saved on {device})")
        return state

    def _require_same_options(self, manager: CheckpointManager) -> None:
        """Refuse a run of other options, before its tensors are read: they would say less.

        Raises:
            IncompatibleCheckpointError: naming the options that differ, and how to give them.
        """
        for path in reversed(manager.paths()):
            with contextlib.suppress(CheckpointError):  # restoring will say what is wrong with it
                recorded = dict(read_info(path).metadata.get("options", {}))
                break
        else:
            return
        given = recorded_options(self.options)
        differing = {n: recorded.get(n) for n in sorted(given) if recorded.get(n) != given[n]}
        if differing:
            listing = ", ".join(f"{n}: {was!r}, now {given[n]!r}" for n, was in differing.items())
            raise IncompatibleCheckpointError(
                f"The run in {manager.directory} was started with other options ({listing}). "
                f"Continue it {as_arguments(differing)}, or give another --checkpoint directory."
            )

    def run(self, state: TrainState) -> Outcome:
        """Train to the end, the target, or the first signal."""
        self._started = time.perf_counter()
        put_batch = to_device(self.parts.step.device)
        batches: Batches = Prefetcher(self.parts.loader, put_batch)
        with batches:
            state, target_reached = self._train(state, batches)
        self._read_metrics(0)
        if self.manager is not None:
            self.manager.wait()
        self.progress.is_final = True
        self._show(force=True)
        return Outcome(
            state,
            self.progress.evaluation,
            self.elapsed_s,
            target_reached,
            bool(self.interruption),
        )

    def _train(self, state: TrainState, batches: Batches) -> tuple[TrainState, bool]:
        """Epochs and evaluations; whether the target accuracy was reached."""
        target_reached = False
        if self._evaluation_due:
            state, target_reached = self._finish_epoch(state, batches, batches.position.epoch)
        while (
            batches.position.epoch < self.options.epochs
            and not target_reached
            and not self.interruption
        ):
            epoch = batches.position.epoch
            state = self._train_epoch(state, batches)
            if batches.position.epoch == epoch or self.interruption:
                break
            state, target_reached = self._finish_epoch(state, batches, epoch + 1)
        return state, target_reached

    @property
    def has_begun(self) -> bool:
        """Whether a step was made: an error before it refuses the run, one after it breaks it off.

        The first step belongs to the beginning, as it is compiled, and a memory limit planned for,
        when the first batch is there.
        """
        return self.progress.step > self._first_step

    @property
    def elapsed_s(self) -> float:
        """Time spent on this run, earlier parts included."""
        return self._elapsed_before_s + time.perf_counter() - self._started

    def _train_epoch(self, state: TrainState, batches: Batches) -> TrainState:
        """Train to the end of the current epoch, or to a signal."""
        epoch = batches.position.epoch
        every = self.options.checkpoint_every
        for arrays, batch in batches:
            if not batch.weight.any():
                continue  # nothing of it could be read
            state = self._step(state, arrays, batch, epoch)
            self._meter.add(int(batch.weight.sum()), batches.times)
            self._show()
            is_last = batch.position.epoch > epoch
            if self.interruption:
                self._save(state, batches.state(), evaluation_due=is_last)
                break
            if every and state.step % every == 0 and not is_last:
                self._save(state, batches.state())
        return state

    def _step(
        self, state: TrainState, arrays: dict[str, Any], batch: Batch, epoch: int
    ) -> TrainState:
        is_first = state.step == self._first_step
        state, metrics = self.parts.step(state, arrays)
        if is_first:
            self._first_done = time.perf_counter()
            if self.parts.step.memory_choice is not None:
                self.display.message(str(self.parts.step.memory_choice))
        elif state.step == self._first_step + 2:
            self._show_measured_peak()
        self._unread.append((state.step, epoch + 1, metrics))
        self._read_metrics(_UNREAD_STEPS)
        self.progress.skipped += len(batch.skipped)
        self.progress.epoch, self.progress.step = epoch + 1, state.step
        return state

    def _show_measured_peak(self) -> None:
        """Under a memory limit, what the first steps really took."""
        peak = self.parts.step.measured_peak_bytes
        if peak is not None:
            self.display.message(f"memory limit: measured peak {peak / 2**20:.0f} MiB")

    def _read_metrics(self, unread: int) -> None:
        """Log the metrics of all but the last ``unread`` steps."""
        while len(self._unread) > unread:
            step, epoch, metrics = self._unread.popleft()
            if step % self.options.log_every == 0:
                values = dict(metrics)
                self.progress.values = values
                rate = self.parts.schedule(step - 1)
                self.log.step(step, epoch, {"learning_rate": rate, **values})

    def _finish_epoch(
        self, state: TrainState, batches: Batches, epochs_done: int
    ) -> tuple[TrainState, bool]:
        """Evaluate and save after an epoch; whether the target accuracy is reached."""
        self._read_metrics(0)
        loader = self.parts.evaluation_loader
        metric = None
        is_due = epochs_done % self.options.eval_every == 0 or epochs_done == self.options.epochs
        if loader is not None and is_due:
            values = self.parts.evaluation.run(
                state, (b.arrays() for b in loader if b.weight.any())
            )
            self.progress.evaluation = values
            self.log.evaluation(state.step, epochs_done, values)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            self.display.message(f"epoch {epochs_done}: evaluation {shown}")
            metric = Metric("top1", values["top1"])
        self._save(state, batches.state(), metric=metric)
        target = self.options.target_accuracy
        return state, bool(target is not None and metric is not None and metric.value >= target)

    def _save(
        self,
        state: TrainState,
        position: dict[str, Any],
        *,
        metric: Metric | None = None,
        evaluation_due: bool = False,
    ) -> None:
        if self.manager is None:
            return
        self._read_metrics(0)
        self.log.sync()
        save_state(
            self.manager,
            state,
            data_position=position,
            schedule=repr(self.parts.schedule),
            metric=metric,
            metadata={
                "model": self.parts.model.name,
                "device": str(state.device),
                "options": recorded_options(self.options),
                "source": repr(self.parts.loader.plan.source),
                "classes": list(self.parts.loader.plan.source.classes),
                "elapsed_s": self.elapsed_s,
                "evaluation_due": evaluation_due,
            },
        )
        self.parts.step.last_checkpoint = f"that of step {state.step} in {self.manager.directory}"

    # --- figures --------------------------------------------------------------------------------

    def _show(self, *, force: bool = False) -> None:
        now = time.perf_counter()
        if now - self._shown < _REFRESH_S and not force:
            return
        self._shown = now
        progress = self.progress
        progress.speed = self._meter.speed()
        done = progress.step - self._first_step
        if done > 1:  # the first step compiles
            each_s = (now - self._first_done) / (done - 1)
            progress.remaining_s = each_s * (progress.steps - progress.step)
        device = self.parts.step.device
        memory = registry.backend(device.backend).memory(device)
        if memory.in_use_bytes is not None:
            progress.memory = f"{memory.in_use_bytes / 2**20:.0f} MiB ({memory.method})"
        self.display.update(progress)
        if progress.speed is not None:
            figures = {"images_per_s": progress.speed.images_per_s, **progress.speed.shares}
            self.log.timing(progress.step, figures)
