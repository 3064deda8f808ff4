"""Options of the training command, from its arguments and from a TOML file."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelkit.command_line import amount, fraction, magnitude, natural, positive, rate, seed, share
from accelkit.errors import OptionError, UnknownNameError
from accelkit.train.precision import POLICIES

__all__ = ["MATHEMATICAL", "HelpFormatter", "as_arguments", "parse_options", "recorded_options"]

_EPILOG = """\
examples:
  python -m accelkit.train --data shapes:2000:32 --model lenet5 --model-option channels=3 \\
      --image-size 32 --epochs 3 --backend torch
  python -m accelkit.train --config run.toml --device torch:cuda:0 --precision bfloat16
  python -m accelkit.train --config run.toml --checkpoint runs/a --log-dir runs/a --resume

A run that was interrupted goes on with --resume, on any backend: a checkpoint records what decides
the numbers, and nothing else.

exit status: 0 the run is complete; 1 it failed; 2 it could not begin, no step was made: bad
options, or data, device or checkpoint that cannot be used; 128 + n stopped by signal n, after a
last checkpoint
"""

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
    "clip_norm",
    "ema_decay",
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


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows defaults that say something, and keeps the lines of the epilog."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        default = action.default
        says_nothing = default is None or default is False or default in ("", [], argparse.SUPPRESS)
        if text is None or says_nothing or "default" in text:
            return text
        return f"{text} (default: %(default)s)"


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
    if options.nesterov and options.optimizer != "sgd":
        parser.error(f"--nesterov is of --optimizer sgd, not of {options.optimizer}")
    if options.memory_limit is not None and options.accumulate > 1:  # perhaps one of the file
        parser.error("--memory-limit chooses the micro-batches itself: leave out --accumulate")
    if options.batch_size % options.accumulate:
        parser.error(
            f"--accumulate is {options.accumulate}, which does not divide --batch-size "
            f"{options.batch_size}"
        )
    return options


def recorded_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that a checkpoint records and a resumed run must repeat."""
    return {name: json.loads(json.dumps(getattr(options, name))) for name in MATHEMATICAL}


def as_arguments(recorded: Mapping[str, Any]) -> str:
    """How to give options the values that a checkpoint records, in words.

    Example:
        >>> as_arguments({"ema_decay": 0.999, "nesterov": False, "clip_norm": None})
        'with --ema-decay 0.999 --no-nesterov and without --clip-norm'
    """
    given: list[str] = []
    left_out: list[str] = []
    for name, value in recorded.items():
        flag = name.replace("_", "-")
        if value is None or value == []:
            left_out.append(f"--{flag}")
        elif isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        elif name == "model_option":
            given += [f"--{flag} {item}" for item in value]
        else:
            words = value if isinstance(value, list) else [value]
            given.append(" ".join([f"--{flag}", *map(str, words)]))
    parts = [f"with {' '.join(given)}"] * bool(given)
    parts += [f"without {' '.join(left_out)}"] * bool(left_out)
    return " and ".join(parts)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m accelkit.train``."""
    parser = argparse.ArgumentParser(
        prog="python -m accelkit.train",
        description="Train a model on a data set, on any backend, through interruptions.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these options")
    _add_data(parser.add_argument_group("data"))
    trained = parser.add_argument_group("model and optimizer")
    _add_model(trained)
    _add_optimizer(trained)
    _add_precision_and_memory(trained)
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
    add = group.add_argument
    add("--batch-size", type=positive, default=128, metavar="N", help="samples in one update")
    add_loading(group)
    add(
        "--partial",
        choices=("drop", "pad"),
        default="drop",
        help="an epoch's last batch, if it is smaller: leave it out, or weigh it by its samples",
    )


def add_loading(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """How batches are read: options of training and evaluation alike."""
    add = group.add_argument
    add("--workers", type=natural, default=0, metavar="N", help="worker processes (Grain)")
    add("--threads", type=natural, default=2, metavar="N", help="threads, if no workers")
    add(
        "--on-corrupt",
        choices=("raise", "skip"),
        default="raise",
        help="what to do about a sample that cannot be read",
    )


def add_device(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Where to run: ``--backend`` and ``--device`` mean the same."""
    group.add_argument(
        "--backend",
        "--device",
        dest="device",
        default="numpy",
        metavar="DEVICE",
        help="a backend's name, or a device such as torch:cuda:0",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", default="alexnet", metavar="NAME", help="name of a registered model")
    add("--variant", metavar="NAME", help="of the model (default: its first)")
    add("--image-size", type=positive, metavar="PIXELS", help="default: the model's")
    group.add_argument(
        "--model-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any option of the model, e.g. width=0.25; may be repeated",
    )


def _add_optimizer(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--optimizer", choices=("sgd", "adam", "adamw"), default="sgd", help="how weights change")
    add("--learning-rate", type=rate, metavar="RATE", help="default: the model's usual one")
    add("--momentum", type=fraction, default=0.9, metavar="SHARE", help="of sgd")
    add("--weight-decay", type=magnitude, default=5e-4, metavar="RATE", help="L2 penalty")
    add(
        "--nesterov",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="of sgd: look ahead",
    )
    add("--clip-norm", type=rate, metavar="NORM", help="of all gradients together, at most")
    group.add_argument(
        "--ema-decay",
        type=fraction,
        metavar="SHARE",
        help="keep an exponential moving average of the weights, e.g. 0.999, and evaluate that",
    )
    add(
        "--schedule",
        choices=("constant", "step", "cosine"),
        default="step",
        help="how the learning rate changes",
    )
    group.add_argument(
        "--milestones",
        type=share,
        nargs="+",
        default=[1 / 3, 2 / 3, 8 / 9],
        metavar="SHARE",
        help="of step: shares of the run at which the rate drops (default: 1/3 2/3 8/9)",
    )
    add("--gamma", type=rate, default=0.1, metavar="FACTOR", help="of step: factor of a drop")
    add("--warmup-steps", type=natural, default=0, metavar="N", help="steps of a linear rise")


def _add_precision_and_memory(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--precision",
        choices=tuple(POLICIES),
        default="float32",
        metavar="NAME",
        help="float32, tf32, float64, or bfloat16 and float16 with float32 master weights",
    )
    memory = group.add_mutually_exclusive_group()
    memory.add_argument(
        "--memory-limit",
        type=amount,
        metavar="SIZE",
        help="e.g. 8GiB: micro-batches, rematerialisation, early updates and optimizer state on "
        "the host are combined until the step fits; batch, learning rate and masks stay the same",
    )
    memory.add_argument(
        "--accumulate", type=positive, default=1, metavar="N", help="micro-batches in a batch"
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add_device(group)
    add("--epochs", type=positive, default=90, metavar="N", help="passes over the data")
    add("--seed", type=seed, default=0, metavar="N", help="of weights, masks and sample order")
    add("--checkpoint", metavar="DIR", help="where the run's checkpoints go (default: nowhere)")
    group.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="continue from the newest good checkpoint, or start if there is none",
    )
    group.add_argument(
        "--checkpoint-every",
        type=natural,
        default=0,
        metavar="STEPS",
        help="besides each epoch; 0 for never",
    )
    add("--keep-last", type=positive, default=3, metavar="N", help="newest checkpoints to keep")
    add("--keep-best", type=natural, default=1, metavar="N", help="most accurate ones to keep")
    add("--eval-every", type=positive, default=1, metavar="EPOCHS", help="how often to evaluate")
    add(
        "--target-accuracy",
        type=share,
        metavar="SHARE",
        help="stop at this top-1 accuracy, 0 to 1",
    )
    add("--log-dir", metavar="DIR", help="where a JSONL log and TensorBoard events go")
    add("--log-every", type=positive, default=1, metavar="STEPS", help="how often to log a step")
    add(
        "--progress",
        choices=("auto", "rich", "plain", "none"),
        default="auto",
        help="auto: rich on a terminal, plain elsewhere",
    )


def _from_toml(parser: argparse.ArgumentParser, path: str) -> dict[str, Any]:
    """Values of a TOML file, converted and checked as the arguments are."""
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise OptionError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise OptionError(f"The configuration {path} is not valid TOML: {error}.") from error
    own = ("help", "config")  # of the command line alone
    actions = {action.dest: action for action in parser._actions if action.dest not in own}
    actions |= {"backend": actions["device"]}
    values: dict[str, Any] = {}
    for key, value in table.items():
        action = actions.get(key.replace("-", "_"))
        if action is None:
            raise UnknownNameError.of(f"option in {path}", key, actions)
        if action.dest in values:
            raise OptionError(f"{path} gives {action.dest} twice, the second time as {key}.")
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
