"""The command line: what was asked for, checked before anything runs."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from accelkit import registry
from accelkit.bench.processes import available_threads
from accelkit.bench.settings import MODES, Settings
from accelkit.errors import OptionError, UnknownNameError
from accelkit.train.precision import POLICIES

__all__ = [
    "WORKLOAD",
    "Options",
    "Target",
    "add_workload",
    "parse",
    "require_writable",
    "targets",
    "workload",
]

DEFAULT_STEPS: Final = 10
DEFAULT_TIME_LIMIT_S: Final = 20.0

_EPILOG: Final = """\
examples:
  python -m accelkit.bench --backend all
      train AlexNet on every installed backend
  python -m accelkit.bench --backend torch,jax --batch-size 32 --steps 20
  python -m accelkit.bench --device torch:cuda:0,jax:gpu --precision tf32 --batch-size 256
  python -m accelkit.bench --backend jax --device cpu --model resnet18 --mode infer
  python -m accelkit.bench --model alexnet --variant 2012 --json now.json
  python -m accelkit.bench --json now.json --compare before.json --fail-over 5
      exit with status 3 if a step got more than 5 % slower, or takes 5 % more memory
  python -m accelkit.bench --backend torch --profile trace.json
      time per layer and primitive; open the trace in https://ui.perfetto.dev
  python -m accelkit.bench --list
      devices, models, and why a backend offers none

Each timed step is waited for: it ends when its loss has arrived on the host. Batches are drawn
from the seed, lie on the device before the first step, and are the same for all backends.

exit status: 0 all measured; 1 a backend failed; 2 bad options; 3 a regression; 130 interrupted
"""


class Target(NamedTuple):
    """A device to measure.

    Attributes:
        device: Its name; a backend's name alone is its preferred device.
        is_required: Whether it was asked for by name; otherwise, part of "all", it is left out
            where its framework is not installed or there is no such device.
    """

    device: str
    is_required: bool

    @property
    def backend(self) -> str:
        """Name of its backend."""
        return self.device.split(":")[0]


@dataclass(frozen=True)
class Options:
    """A checked command line.

    Attributes:
        targets: What to measure.
        settings: What to run; ``device`` is filled in per target.
        threads: Threads of each backend.
        json_path: Where the report goes.
        compare_path: An earlier report.
        fail_over: Share by which a figure may get worse, e.g. 0.05; None for any.
        profile_path: Where the trace goes; None for no profile.
        list_only: Whether to list devices and models instead.
        traceback: Whether to show tracebacks of errors.
    """

    targets: tuple[Target, ...]
    settings: Settings
    threads: int
    json_path: Path | None
    compare_path: Path | None
    fail_over: float | None
    profile_path: Path | None
    list_only: bool
    traceback: bool


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accelkit.bench",
        description="Measure the training or inference step of a model on every backend, each in "
        "a process of its own, and compare their losses.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_what(parser)
    _add_how_often(parser)
    _add_output(parser)
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to measure")
    add_workload(group, batch_size=8, precisions=POLICIES)
    group.add_argument(
        "--mode",
        default="train",
        metavar="MODE",
        help=f"{' or '.join(MODES)} (default: train: forward, backward and update)",
    )


def add_workload(
    group: argparse._ActionsContainer, *, batch_size: int, precisions: Iterable[str]
) -> None:
    """The options of which :func:`targets` and :func:`workload` take the values.

    Args:
        group: Gets the options.
        batch_size: The default one.
        precisions: Names of those that the command knows.
    """
    add = group.add_argument
    add("--backend", metavar="NAMES", help="a backend, several with commas, or 'all' (default)")
    add(
        "--device",
        metavar="NAMES",
        help="devices such as torch:cuda:0, with commas; or a kind such as cpu or cuda:1, which "
        "applies to each backend (default: each backend's preferred device)",
    )
    add("--model", default="alexnet", help="name of a model (default: alexnet)")
    add("--variant", help="a variant of the model (default: its first)")
    add("--batch-size", type=int, default=batch_size, metavar="N", help=f"default: {batch_size}")
    add("--image-size", type=int, metavar="PIXELS", help="height and width (default: the model's)")
    add("--width", type=float, metavar="SCALE", help="scale of the channel counts (default: 1)")
    known = f"{', '.join(precisions)} (default: float32)"
    add("--precision", default="float32", metavar="NAME", help=known)
    add("--seed", type=int, default=0, metavar="N", help="default: 0")


WORKLOAD: Final = ("model", "variant", "batch_size", "image_size", "width", "precision", "seed")


def workload(given: argparse.Namespace) -> dict[str, Any]:
    """The arguments of :class:`Settings` that :func:`add_workload` read."""
    return {name: getattr(given, name) for name in WORKLOAD}


def _add_how_often(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how often")
    group.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"timed steps (default: {DEFAULT_STEPS}, or as many as fit into "
        f"{DEFAULT_TIME_LIMIT_S:g} s, at least 3)",
    )
    group.add_argument(
        "--warmup", type=int, default=2, metavar="N", help="steps before them (default: 2)"
    )
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of each backend (default: all that this process may use)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--json", type=Path, metavar="PATH", help="write everything measured")
    group.add_argument(
        "--compare", type=Path, metavar="OLD.json", help="compare with an earlier --json report"
    )
    group.add_argument(
        "--fail-over",
        metavar="PERCENT",
        help="with --compare: exit with status 3 if step time or peak memory grew by more",
    )
    group.add_argument(
        "--profile",
        type=Path,
        nargs="?",
        const=Path("accelkit-trace.json"),
        metavar="PATH",
        help="time each layer and primitive too, and write a trace for Perfetto or "
        "chrome://tracing (default: accelkit-trace.json)",
    )
    group.add_argument("--list", action="store_true", help="list devices and models, and exit")
    group.add_argument(
        "--traceback",
        action="store_true",
        help="show tracebacks of errors (also: ACCELKIT_TRACEBACK=1)",
    )


def wants_traceback(arguments: Sequence[str]) -> bool:
    """Whether tracebacks are asked for, known before the options are checked."""
    return "--traceback" in arguments or os.environ.get("ACCELKIT_TRACEBACK", "0") not in ("", "0")


def parse(arguments: Sequence[str]) -> Options:
    """Check a command line, without loading any backend.

    Raises:
        AccelkitError: saying what was given, what was expected, and what to do.
        SystemExit: after ``--help``, or for words that are no option at all.
    """
    given = _parser().parse_args(arguments)
    if given.fail_over is not None and given.compare is None:
        raise OptionError("--fail-over needs --compare OLD.json: there is nothing to compare with.")
    threads = available_threads() if given.threads is None else given.threads
    if threads < 1:
        raise OptionError(f"threads must be at least 1, got {threads}.")
    chosen = targets(given.backend, given.device, registry.backend_names())
    settings = Settings(
        device=chosen[0].device,
        steps=DEFAULT_STEPS if given.steps is None else given.steps,
        warmup=given.warmup,
        mode=given.mode,
        time_limit_s=DEFAULT_TIME_LIMIT_S if given.steps is None else None,
        **workload(given),
    )
    if not given.list:
        settings.check()
    for name, path in (("--json", given.json), ("--profile", given.profile)):
        if path is not None:
            require_writable(name, path)
    if given.json is not None and given.json == given.profile:
        raise OptionError(f"--json and --profile both name {given.json}. Give two files.")
    return Options(
        targets=chosen,
        settings=settings,
        threads=threads,
        json_path=given.json,
        compare_path=given.compare,
        fail_over=_share(given.fail_over),
        profile_path=given.profile,
        list_only=given.list,
        traceback=wants_traceback(arguments),
    )


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise OptionError(f"{option} holds an empty name: {text!r}. Separate names by one comma.")
    return list(dict.fromkeys(names))


def targets(backend: str | None, device: str | None, known: Sequence[str]) -> tuple[Target, ...]:
    """The devices that ``--backend`` and ``--device`` name together.

    Args:
        backend: Backends with commas, ``"all"``, or None.
        device: Full device names or kinds, with commas, or None.
        known: Names of the registered backends.

    Raises:
        UnknownNameError: for a backend that nobody registered, with the nearest names.
        OptionError: for a device of a backend that is not among those asked for.
    """
    asked = [] if backend is None else _names("--backend", backend)
    if "all" in asked:
        asked = []
    for name in asked:
        if name not in known:
            raise UnknownNameError.of("backend", name, [*known, "all"])
    everything = not asked
    if device is None:
        return tuple(Target(name, not everything) for name in (asked or known))
    full, kinds = _split(_names("--device", device), known)
    if kinds and backend is None:
        raise UnknownNameError(
            f"{UnknownNameError.of('backend', kinds[0].split(':')[0], known)} A device is named "
            f"'backend:kind:index'; a kind alone needs --backend NAMES, or --backend all."
        )
    for name in full:
        if asked and name.split(":")[0] not in asked:
            raise OptionError(
                f"--device {name!r} belongs to a backend that --backend {backend} leaves out. Add "
                f"it there, or leave --backend away."
            )
    named = {name.split(":")[0] for name in full}
    others = [
        name for name in (asked or (known if backend is not None else [])) if name not in named
    ]
    spread = [f"{name}:{kind}" for kind in kinds for name in others] if kinds else others
    found = dict.fromkeys(full, True) | dict.fromkeys(spread, not everything)
    return tuple(Target(name, required) for name, required in found.items())


def _split(names: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Full device names, and kinds that apply to any backend."""
    full = [name for name in names if name.split(":")[0] in known]
    return full, [name for name in names if name not in full]


def _share(percent: str | None) -> float | None:
    if percent is None:
        return None
    try:
        value = float(percent.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise OptionError(
            f"--fail-over takes a percentage of at least 0, such as 5 or 5%, got {percent!r}."
        )
    return value / 100.0


def require_writable(option: str, path: Path) -> None:
    """Refuse a path that could not be written later, leaving nothing behind.

    Raises:
        OptionError: if its folder is missing, or something forbids writing.
    """
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise OptionError(f"{option} {path} is a folder. Give the name of a file in it.")
        if not folder.is_dir():
            raise OptionError(f"{option} {path}: there is no folder {folder}. Create it first.")
        if path.exists():
            with path.open("ab"):
                return
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise OptionError(
            f"{option} {path} cannot be written: {error.strerror}. Choose another place."
        ) from error
