"""Options of the training command, from its arguments and from a TOML file."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelkit.errors import OptionError, UnknownNameError

__all__ = ["MATHEMATICAL", "parse_options", "recorded_options"]

MATHEMATICAL = (
    "data",
    "model",
    "variant",
    "image_size",
    "model_option",
    "augment",
    "batch_size",
    "optimizer",
    "learning_rate",
    "momentum",
    "weight_decay",
    "nesterov",
    "schedule",
    "milestones",
    "gamma",
    "warmup_steps",
    "precision",
    "seed",
    "partial",
    "on_corrupt",
)
"""Options that decide the numbers of a run: a resumed run must have the same ones."""


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options; those of the command line win over those of ``--config``.

    Raises:
        OptionError, UnknownNameError: for a TOML file that cannot be read or has unknown keys.
        SystemExit: for wrong arguments, as argparse does.
    """
    parser = build_parser()
    early, _ = parser.parse_known_args(arguments)
    if early.config is not None:
        parser.set_defaults(**_from_toml(parser, early.config))
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("--data is required (a folder of classes, a pack, digits, shapes, ...)")
    if options.resume and options.checkpoint is None:
        parser.error("--resume needs --checkpoint DIR, where the run's checkpoints are")
    return options


def recorded_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that a checkpoint records and a resumed run must repeat."""
    return {name: json.loads(json.dumps(getattr(options, name))) for name in MATHEMATICAL}


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m accelkit.train``."""
    parser = argparse.ArgumentParser(
        prog="python -m accelkit.train",
        description="Train a model on a data set, on any backend, through interruptions.",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these options")
    _add_data(parser.add_argument_group("data"))
    _add_model(parser.add_argument_group("model and optimizer"))
    _add_run(parser.add_argument_group("run"))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        metavar="SRC",
        help="folder of classes (or with train/ and val/), pack, 'a-{00..09}.tar', .npz, digits, "
        "shapes:COUNT:SIZE",
    )
    group.add_argument("--eval-data", metavar="SRC", help="default: the test part of --data")
    group.add_argument(
        "--augment",
        choices=("auto", "none", "alexnet", "random_resized"),
        default="auto",
        help="auto: random_resized for encoded images and packs, none for others",
    )
    group.add_argument("--batch-size", type=positive, default=128, help="samples in one update")
    group.add_argument("--workers", type=natural, default=0, help="worker processes (Grain)")
    group.add_argument("--threads", type=natural, default=2, help="threads, if no workers")
    group.add_argument("--on-corrupt", choices=("raise", "skip"), default="raise")
    group.add_argument("--partial", choices=("drop", "pad"), default="drop")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", default="alexnet")
    group.add_argument("--variant")
    group.add_argument("--image-size", type=positive)
    group.add_argument(
        "--model-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any option of the model, e.g. width=0.25; may be repeated",
    )
    group.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), default="sgd")
    group.add_argument("--learning-rate", type=float, help="default: the model's usual one")
    group.add_argument("--momentum", type=float, default=0.9, help="of sgd")
    group.add_argument("--weight-decay", type=float, default=5e-4)
    group.add_argument("--nesterov", action=argparse.BooleanOptionalAction, default=False)
    group.add_argument("--schedule", choices=("constant", "step", "cosine"), default="step")
    group.add_argument(
        "--milestones",
        type=float,
        nargs="+",
        default=[1 / 3, 2 / 3, 8 / 9],
        help="of step: shares of the run at which the rate drops",
    )
    group.add_argument("--gamma", type=float, default=0.1, help="of step: factor of a drop")
    group.add_argument("--warmup-steps", type=natural, default=0)
    group.add_argument(
        "--precision",
        default="float32",
        help="float32, tf32, float64, or bfloat16 and float16 with float32 master weights",
    )
    memory = group.add_mutually_exclusive_group()
    memory.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help="e.g. 8GiB: cut batches into micro-batches until the step fits; the result is that "
        "of the whole batch",
    )
    memory.add_argument("--accumulate", type=positive, default=1, help="micro-batches in a batch")


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--backend", "--device", dest="device", default="numpy", metavar="DEVICE")
    group.add_argument("--epochs", type=positive, default=90)
    group.add_argument("--seed", type=natural, default=0)
    group.add_argument("--checkpoint", metavar="DIR")
    group.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="continue from the newest good checkpoint, or start if there is none",
    )
    group.add_argument(
        "--checkpoint-every", type=natural, default=0, metavar="STEPS", help="besides each epoch"
    )
    group.add_argument("--keep-last", type=positive, default=3)
    group.add_argument("--keep-best", type=natural, default=1)
    group.add_argument("--eval-every", type=positive, default=1, metavar="EPOCHS")
    group.add_argument("--target-accuracy", type=float, help="stop at this top-1 accuracy, 0 to 1")
    group.add_argument("--log-dir", metavar="DIR", help="JSONL log and TensorBoard events")
    group.add_argument("--log-every", type=positive, default=1, metavar="STEPS")
    group.add_argument("--progress", choices=("auto", "rich", "plain", "none"), default="auto")


def natural(text: str) -> int:
    """An integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _from_toml(parser: argparse.ArgumentParser, path: str) -> dict[str, Any]:
    """Values of a TOML file, converted and checked as the arguments are."""
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise OptionError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise OptionError(f"The configuration {path} is not valid TOML: {error}.") from error
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    actions |= {"backend": actions["device"]}
    values = {}
    for key, value in table.items():
        action = actions.get(key.replace("-", "_"))
        if action is None:
            raise UnknownNameError.of(f"option in {path}", key, actions)
        values[action.dest] = _converted(action, value, f"{key} in {path}")
    return values


def _converted(action: argparse.Action, value: Any, what: str) -> Any:
    if isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise OptionError(f"{what} is {value!r}, expected true or false.")
        return value
    if action.dest == "model_option" and isinstance(value, dict):
        return [f"{name}={json.dumps(item)}" for name, item in value.items()]
    many = action.nargs == "+" or action.dest == "model_option"
    if isinstance(value, list) != many or isinstance(value, dict | bool):
        raise OptionError(f"{what} is {value!r}, expected {'a list' if many else 'one value'}.")
    convert = action.type if callable(action.type) else str
    try:
        items = [convert(str(item)) for item in (value if many else [value])]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise OptionError(f"{what} is {value!r}: {error}.") from error
    if action.choices is not None and not set(items) <= set(action.choices):
        raise UnknownNameError.of(what, str(value), [str(choice) for choice in action.choices])
    return items if many else items[0]
