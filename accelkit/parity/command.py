"""The command ``python -m accelkit.parity``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from accelkit import registry
from accelkit.bench.environment import describe
from accelkit.bench.options import (
    WORKLOAD,
    Target,
    add_workload,
    require_writable,
    targets,
    wants_traceback,
    workload,
)
from accelkit.bench.processes import available_threads
from accelkit.bench.report import write_json
from accelkit.bench.settings import Settings
from accelkit.device import device as find_device
from accelkit.errors import AccelkitError, BackendUnavailableError, UnknownNameError
from accelkit.parity.report import WORST, failures, print_report, to_json
from accelkit.parity.tolerances import TRAINING_BOUNDS
from accelkit.parity.training import Comparison, Flips, Worst, compare_training

__all__ = ["main"]

_EPILOG: Final = """\
examples:
  python -m accelkit.parity --backend all --model alexnet --variant 2012 --steps 10 --batch-size 4
  python -m accelkit.parity --backend torch,jax --precision float64 --width 0.1
  python -m accelkit.parity --backend all --isolate --json parity.json
  python -m accelkit.parity --device opencl:cpu:0,opencl:accelerator --width 0.25

Each backend trains from the same weights, batches and dropout masks as the oracle, NumPy in
float64. The deviation of a tensor is max|a-b| / max|b|. Rounding decides some max-pool winners and
ReLU signs between nearly equal numbers; those that differ from the oracle's are counted as flips.
Gradients are those of each single step from the oracle's own state, losses and final weights those
of the backend's own run, all on the oracle's winners and signs. A free run, on the backend's own,
is held to the bounds up to its first flip and reported from there on, since training is chaotic.

exit status: 0 all within the bounds; 1 a bound was passed, or a backend failed; 2 bad options;
130 interrupted
"""


@dataclass(frozen=True)
class Options:
    """A checked command line."""

    targets: tuple[Target, ...]
    settings: Settings
    json_path: Path | None
    isolate: bool


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accelkit.parity",
        description="Prove that backends agree: train a model on each of them beside the float64 "
        "oracle, and compare losses, gradients and weights.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_workload(parser, batch_size=4, precisions=TRAINING_BOUNDS)
    add = parser.add_argument
    add("--steps", type=int, default=10, metavar="N", help="default: 10")
    add("--json", type=Path, metavar="PATH", help="write everything measured")
    add("--isolate", action="store_true", help="run each backend in a process of its own")
    add("--traceback", action="store_true", help="show tracebacks of errors")
    return parser


def parse(arguments: Sequence[str]) -> Options:
    """Check a command line, without loading any backend.

    Raises:
        AccelkitError: saying what was given, what was expected, and what to do.
    """
    given = _parser().parse_args(arguments)
    if given.precision not in TRAINING_BOUNDS:
        raise UnknownNameError.of("precision", given.precision, TRAINING_BOUNDS)
    chosen = targets(given.backend, given.device, registry.backend_names())
    settings = Settings(chosen[0].device, steps=given.steps, warmup=0, **workload(given))
    settings.check()
    if given.json is not None:
        require_writable("--json", given.json)
    return Options(chosen, settings, given.json, given.isolate)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _run(parse(words))
    except AccelkitError as error:
        if wants_traceback(words):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(options: Options) -> int:
    settings = options.settings
    names, missing = _usable(options.targets)
    if options.isolate and len(names) > 1:
        comparisons, losses = _isolated(settings, names)
    else:
        comparisons, losses = compare_training(settings, names, _log)
    bounds = TRAINING_BOUNDS[settings.precision]
    print_report(settings, comparisons, losses, missing, bounds)
    if options.json_path is not None:
        report = to_json(settings, comparisons, losses, missing, bounds)
        report["environment"] = describe(available_threads())
        write_json(options.json_path, report, allow_nan=True)  # of a backend that went astray
    return 1 if any(failures(c, bounds) for c in comparisons) else 0


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _usable(wanted: Sequence[Target]) -> tuple[list[str], dict[str, str]]:
    """Backends to run, and why those that were not asked for by name are left out."""
    names, missing = [], {}
    for target in wanted:
        try:
            registry.backend(target.backend)
            if target.is_required:
                find_device(target.device)  # before the oracle, which takes minutes
        except BackendUnavailableError as error:
            if target.is_required:
                raise
            missing[target.backend] = str(error)
            continue
        names.append(target.device)
    return names, missing


def _isolated(settings: Settings, names: Sequence[str]) -> tuple[list[Comparison], list[float]]:
    """Each backend in a process of its own, one after the other; each has its own oracle."""
    comparisons: list[Comparison] = []
    losses: list[float] = []
    for name in names:
        _log(f"process of {name}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.json"
            command = [sys.executable, "-m", "accelkit.parity", "--device", name]
            command += [*_arguments(settings), "--json", str(path)]
            ended = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            if not path.exists():
                text = f"its process ended with exit status {ended.returncode}"
                comparisons.append(Comparison(name, name, error=text))
                continue
            report = json.loads(path.read_text(encoding="utf-8"))
        losses = report["oracle_losses"]
        comparisons += [_from_json(entry) for entry in report["results"]]
    return comparisons, losses


def _arguments(settings: Settings) -> list[str]:
    given = {name: getattr(settings, name) for name in (*WORKLOAD, "steps")}
    return [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def _from_json(entry: dict[str, Any]) -> Comparison:
    known = {key: entry[key] for key in asdict(Comparison("")) if key in entry}
    for key in WORST:
        known[key] = Worst(**entry[key])
    known["flips"] = {kind: Flips(**flips) for kind, flips in entry["flips"].items()}
    return Comparison(**known)
