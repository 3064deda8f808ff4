"""``python -m accelkit.evaluate``: evaluate a checkpoint on a data set."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from accelkit.checkpoint import Checkpoint, load_checkpoint
from accelkit.command_line import positive
from accelkit.data import Loader, open_source
from accelkit.errors import AccelkitError, IncompatibleCheckpointError
from accelkit.optim.averaging import AVERAGE
from accelkit.train import EvalStep, TrainState
from accelkit.training.assembly import build_model, evaluation_parts, require_same_classes
from accelkit.training.options import HelpFormatter, add_device, add_loading

__all__ = ["main"]

_AVERAGES = f"optimizer.{AVERAGE}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 on success, 1 if the evaluation failed, 2 if it could not begin, 130 when interrupted.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    options = _parser().parse_args(arguments)
    status = 2
    try:
        step, loader, state = prepare(options)
        status = 1
        with loader:
            batches = (batch.arrays() for batch in loader if batch.weight.any())
            values = step.run(state, batches)
    except AccelkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    count = len(loader.plan.source) - loader.skipped
    if options.json:
        print(json.dumps({"samples": count, **values}))
    else:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"{count} samples: {figures}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accelkit.evaluate",
        description="Evaluate a checkpoint on a data set.",
        epilog="exit status: 0 evaluated; 1 the evaluation failed; 2 it could not begin: bad "
        "options, or a checkpoint, data or device that cannot be used; 130 interrupted",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint", metavar="DIR", help="a checkpoint, or a run's directory (its newest one)"
    )
    parser.add_argument("--data", metavar="SRC", help="default: the test part of the training data")
    add_device(parser)
    parser.add_argument(
        "--batch-size", type=positive, default=128, metavar="N", help="samples evaluated at once"
    )
    parser.add_argument(
        "--crops", type=int, choices=(1, 10), default=1, help="centre crop, or the mean over ten"
    )
    parser.add_argument(
        "--last-weights",
        action="store_true",
        help="of a run with --ema-decay: the weights of the last step, not their average",
    )
    add_loading(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def prepare(options: argparse.Namespace) -> tuple[EvalStep, Loader, TrainState]:
    """The step, the data and the weights that the options ask for.

    Raises:
        AccelkitError: if the checkpoint or the data cannot be used.
    """
    checkpoint = load_checkpoint(options.checkpoint)
    recorded = checkpoint.info.metadata.get("options")
    if not isinstance(recorded, Mapping):
        raise IncompatibleCheckpointError(
            f"{checkpoint.path} does not say which model it is of: it was not written by "
            "`python -m accelkit.train`. Build the model and use accelkit.train.EvalStep."
        )
    options = argparse.Namespace(**{**recorded, **vars(options)})
    source = open_source(options.data or recorded["data"], split="test")
    classes = _trained_classes(checkpoint, recorded)
    require_same_classes(classes, source.classes)
    model = build_model(options, classes)
    has_averages = any(name.startswith(_AVERAGES) for name in checkpoint.tensors)
    step, loader = evaluation_parts(
        options,
        source,
        model,
        options.crops,
        averaged=has_averages and not options.last_weights,
    )
    return step, loader, _state(checkpoint, step)


def _trained_classes(checkpoint: Checkpoint, recorded: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels; a checkpoint of an earlier version leaves them to its data."""
    names = checkpoint.info.metadata.get("classes")
    return open_source(recorded["data"]).classes if names is None else tuple(names)


def _state(checkpoint: Checkpoint, step: EvalStep) -> TrainState:
    wanted = ("parameters.", "state.", _AVERAGES)
    tensors = {n: a for n, a in checkpoint.tensors.items() if n.startswith(wanted)}
    seed = checkpoint.info.seed or 0
    return TrainState.from_host(tensors, step=checkpoint.info.step, seed=seed, device=step.device)
