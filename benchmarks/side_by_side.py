"""Compares accelkit with hand-written programs on training steps: ``make bench`` runs this.

    python -m benchmarks.side_by_side                     everything, batch 32
    python -m benchmarks.side_by_side --list              the programs, and what is missing
    python -m benchmarks.side_by_side --programs torch-channels-last,jax-jit --model mlp

Exits with 1 if a program failed or its losses differ from the others', with 2 for bad usage.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import AGREEMENT_BOUND, Plan, Result, deviations, measure
from benchmarks.program import PROGRAMS
from benchmarks.report import COLUMNS, describe_machine, markdown, rows, title, to_json
from benchmarks.workload import Workload

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        _list_programs()
        return 0
    names = _chosen_programs(parser, options.programs)
    measured: list[tuple[Workload, Sequence[Result]]] = []
    machine = describe_machine(options.threads)
    for workload, plan in _workloads(parser, options):
        results = measure(names, workload, plan, log=_log)
        measured.append((workload, results))
        _show(workload, results)
    if options.json is not None:
        _write(options.json, json.dumps(to_json(machine, measured), indent=1) + "\n")
    if options.markdown is not None:
        _write(options.markdown, markdown(machine, measured))
    problems = [line for _, results in measured for line in _problems(results)]
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side",
        description="Compare training steps of accelkit and hand-written programs.",
    )
    parser.add_argument(
        "--programs",
        default="all",
        help="comma-separated names, or 'all': every program whose framework is installed",
    )
    parser.add_argument("--model", choices=["alexnet", "mlp", "all"], default="all")
    parser.add_argument("--batch-size", type=_positive, default=32, metavar="N")
    parser.add_argument("--image-size", type=_positive, default=224, metavar="PIXELS")
    parser.add_argument("--threads", type=_positive, default=os.cpu_count(), metavar="N")
    parser.add_argument("--rounds", type=_positive, default=5, metavar="N", help="turns of each")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all samples")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="write the tables")
    parser.add_argument("--list", action="store_true", help="list the programs and exit")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _chosen_programs(parser: argparse.ArgumentParser, choice: str) -> list[str]:
    if choice == "all":
        names = []
        for name, entry in PROGRAMS.items():
            missing = entry.missing()
            if missing is None:
                names.append(name)
            else:
                _log(f"{name} is left out: {missing}")
        if not names:
            parser.error("no program can run: install one of torch, jax, tensorflow")
        return names
    names = [name.strip() for name in choice.split(",")]
    for name in names:
        if name not in PROGRAMS:
            near = difflib.get_close_matches(name, PROGRAMS, n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            parser.error(f"unknown program {name!r}.{hint} Known: {', '.join(PROGRAMS)}.")
        missing = PROGRAMS[name].missing()
        if missing is not None:
            parser.error(f"{name} cannot run: {missing}")
    return list(dict.fromkeys(names))


def _workloads(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> list[tuple[Workload, Plan]]:
    chosen = []
    if options.model in ("mlp", "all"):
        # 200 steps per sample: the wait at a sample's end must not count.
        plan = Plan(options.rounds, samples=5, steps_per_sample=200, check_batch_size=32)
        chosen.append((Workload("mlp", 32, options.threads), plan))
    if options.model in ("alexnet", "all"):
        workload = Workload(
            "alexnet", options.batch_size, options.threads, image_size=options.image_size
        )
        try:
            workload.feature_sizes()
        except ValueError as error:
            parser.error(str(error))
        plan = Plan(options.rounds, samples=3, steps_per_sample=1, check_batch_size=4)
        chosen.append((workload, plan))
    return chosen


def _problems(results: Sequence[Result]) -> list[str]:
    deviation = deviations(results)
    problems = []
    for result in results:
        if result.error is not None:
            problems.append(f"{result.name} failed: {result.error}")
        elif not deviation[result.name] <= AGREEMENT_BOUND:  # also catches NaN
            problems.append(
                f"{result.name} computes something else: its losses {result.losses} deviate by "
                f"{deviation[result.name]:.1e} from the others' (bound {AGREEMENT_BOUND:g})."
            )
    return problems


def _list_programs() -> None:
    width = max(map(len, PROGRAMS))
    for name, entry in PROGRAMS.items():
        missing = entry.missing()
        print(f"{name:{width}}  {entry.label}{'' if missing is None else f'  ({missing})'}")


def _show(workload: Workload, results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title(workload), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    for row in rows(workload, results):
        table.add_row(*row)
    # A pipe has no width of its own: do not squeeze the table into 80 columns there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    _log(f"wrote {path}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
