"""``python -m accelkit.train``: train a model on a data set."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Sequence

from accelkit.checkpoint import CheckpointManager, list_checkpoints
from accelkit.errors import AccelkitError, OptionError
from accelkit.train import TrainState
from accelkit.training.assembly import Parts, assemble
from accelkit.training.display import Display, make_display
from accelkit.training.interruption import Interruption
from accelkit.training.logs import RunLog
from accelkit.training.options import parse_options
from accelkit.training.trainer import Outcome, Trainer

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when the run is complete, 1 if it failed, 2 if it could not begin (no step was made),
        128 + n after signal n.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    trainer = None
    with Interruption() as interruption, contextlib.ExitStack() as stack:
        try:
            options = parse_options(arguments)
            trainer, state = _prepare(options, interruption, stack)
            outcome = _run(trainer, state)
        except AccelkitError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1 if trainer is not None and trainer.has_begun else 2
        _report(options, outcome, trainer.display)
        return 128 + interruption.signal_number if interruption.signal_number else 0


def _prepare(
    options: argparse.Namespace, interruption: Interruption, stack: contextlib.ExitStack
) -> tuple[Trainer, TrainState]:
    """Everything that is refused before a step is made; what was opened, the stack closes."""
    parts = assemble(options)
    stack.callback(_close_loaders, parts)
    manager = _open_checkpoints(options, stack)
    display = make_display(options.progress)
    stack.callback(display.close)
    log = RunLog(None, resumed_step=None)
    trainer = Trainer(
        options, parts, manager=manager, log=log, display=display, interruption=interruption
    )
    display.message(f"{parts.model.name} on {parts.step.device}, {parts.loader.plan.source!r}")
    state = trainer.start()
    trainer.log = RunLog(options.log_dir, resumed_step=state.step if options.resume else None)
    return trainer, state


def _run(trainer: Trainer, state: TrainState) -> Outcome:
    try:
        return trainer.run(state)
    finally:
        trainer.log.close()


def _open_checkpoints(
    options: argparse.Namespace, stack: contextlib.ExitStack
) -> CheckpointManager | None:
    if options.checkpoint is None:
        return None
    if not options.resume and list_checkpoints(options.checkpoint):
        raise OptionError(
            f"{options.checkpoint} holds the checkpoints of a run. Continue it with --resume, or "
            "give another directory."
        )
    return stack.enter_context(
        CheckpointManager(
            options.checkpoint, keep_last=options.keep_last, keep_best=options.keep_best
        )
    )


def _close_loaders(parts: Parts) -> None:
    parts.loader.close()
    if parts.evaluation_loader is not None:
        parts.evaluation_loader.close()


def _report(options: argparse.Namespace, outcome: Outcome, display: Display) -> None:
    figures = "  ".join(f"{name} {value:.4f}" for name, value in outcome.evaluation.items())
    figures = f" Evaluation: {figures}." if figures else ""
    where = f" The checkpoints are in {options.checkpoint}." if options.checkpoint else ""
    if outcome.interrupted:
        display.message(f"Stopped at step {outcome.state.step}.{where}")
        return
    if outcome.target_reached:
        display.message(
            f"Time to a top-1 accuracy of {options.target_accuracy:g}: {outcome.elapsed_s:.1f} s"
        )
    display.message(
        f"Done: {outcome.state.step} steps in {outcome.elapsed_s:.1f} s.{figures}{where}"
    )
