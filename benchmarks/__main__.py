"""Compares accelkit with hand-written programs and peers; ``make bench`` runs this.

    python -m benchmarks                     everything: about an hour on two cores
    python -m benchmarks --quick             small networks, a few minutes
    python -m benchmarks --list              workloads and programs, and what is missing
    python -m benchmarks --workloads alexnet-train --programs accelkit,native
    python -m benchmarks --workloads mlp-train --output out/now --add
    python -m benchmarks --only-report --output out/now

The output folder gets results.json, README.md with the tables, and the pictures. With --add, a
run is added to what the folder holds: programs are compared within the runs that they share.

exit status: 0 all measured and agreed; 1 a program failed or computed something else; 2 bad usage
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import difflib
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import layers, overheads, plots, roofline
from benchmarks.measure import Plan, measure
from benchmarks.processes import environment
from benchmarks.program import KINDS, PROGRAMS
from benchmarks.report import COLUMNS, markdown, rows, title
from benchmarks.results_file import Measured, Report
from benchmarks.workload import WORKLOADS, Workload, named, small

__all__ = ["main"]

SECTIONS: Final = ("machine", "overheads", "layers")
QUICK: Final = Plan(turns=2, samples=2, budget_s=2.0, sample_s=0.02)
_BACKENDS: Final = tuple(p.group for p in PROGRAMS.values() if p.kind == "accelkit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        _list()
        return 0
    chosen = _chosen(parser, options.workloads, [*WORKLOADS, *SECTIONS], {}, "workload")
    programs = _programs(parser, options.programs)
    path = options.output / "results.json"
    report = _report(parser, options, path)
    if options.note is not None:
        report.environment["note"] = options.note
    for name in () if options.only_report else chosen:
        if name in SECTIONS:
            _log(f"== {name}")
            report.sections[name] = _section(name, options, programs)
        else:
            _measure(report, name, programs, options)
        report.write(path)  # a run that is cut short keeps what it measured
    report.write(path)
    (options.output / "README.md").write_text(markdown(report), encoding="utf-8")
    for drawn in plots.draw(report, options.output):
        _log(f"wrote {drawn}")
    problems = [f"{n}: {line}" for n, m in report.workloads.items() for line in m.problems()]
    for line in problems:
        _log(line)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workloads",
        default="all",
        metavar="NAMES",
        help="workloads and sections with commas, or all (default); see --list",
    )
    parser.add_argument(
        "--programs",
        default="all",
        metavar="NAMES",
        help=f"programs with commas, kinds ({', '.join(KINDS)}), groups such as torch, or all "
        "(default): every program that can run here",
    )
    parser.add_argument("--batch-size", type=_positive, metavar="N", help="instead of each one's")
    parser.add_argument("--threads", type=_positive, default=os.cpu_count(), metavar="N")
    parser.add_argument("--turns", type=_positive, default=Plan().turns, metavar="N")
    parser.add_argument(
        "--budget",
        type=_positive,
        default=int(Plan().budget_s),
        metavar="SECONDS",
        help="of stepping per program and workload (default: %(default)s)",
    )
    parser.add_argument(
        "--time-limit",
        type=_positive,
        metavar="SECONDS",
        help="of a workload, after which no program takes another turn (default: none)",
    )
    parser.add_argument("--quick", action="store_true", help="small networks, few samples")
    parser.add_argument("--output", type=Path, default=Path("out/benchmarks"), metavar="FOLDER")
    parser.add_argument("--add", action="store_true", help="add to what the folder holds")
    parser.add_argument(
        "--baseline",
        type=_checkout,
        metavar="FOLDER",
        help="another checkout of accelkit, whose layers are profiled beside this one's",
    )
    parser.add_argument("--note", metavar="TEXT", help="on the circumstances, for the report")
    parser.add_argument("--only-report", action="store_true", help="measure nothing")
    parser.add_argument("--list", action="store_true", help="list workloads and programs")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _checkout(text: str) -> Path:
    if not Path(text, "accelkit", "bench").is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of accelkit")
    return Path(text)


def _chosen(
    parser: argparse.ArgumentParser,
    text: str,
    known: Sequence[str],
    groups: dict[str, list[str]],
    what: str,
) -> list[str]:
    """Names from a list with commas, in the order of ``known``."""
    found: set[str] = set()
    for name in (part.strip() for part in text.split(",")):
        if name == "all":
            found |= set(known)
        elif name in groups:
            found |= set(groups[name])
        elif name in known:
            found.add(name)
        else:
            near = difflib.get_close_matches(name, [*known, *groups], n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            parser.error(f"unknown {what} {name!r}.{hint} Known: {', '.join([*groups, *known])}.")
    return [name for name in known if name in found]


def _programs(parser: argparse.ArgumentParser, text: str) -> list[str]:
    """The programs asked for; of "all", a kind or a group those that can run."""
    groups: dict[str, list[str]] = {}
    for name, entry in PROGRAMS.items():
        for group in (entry.kind, entry.group):
            groups.setdefault(group, []).append(name)
    names = []
    asked = {part.strip() for part in text.split(",")}
    for name in _chosen(parser, text, list(PROGRAMS), groups, "program"):
        missing = PROGRAMS[name].missing()
        if missing is None:
            names.append(name)
        elif name in asked:
            parser.error(f"{name} cannot run: {missing}")
        else:
            _log(f"{name} is left out: {missing}")
    if not names:
        parser.error("no program can run: install one of torch, jax, tensorflow")
    return names


def _report(parser: argparse.ArgumentParser, options: argparse.Namespace, path: Path) -> Report:
    """A new report, or the one to add to."""
    now = _environment(options.threads)
    if not (options.add or options.only_report):
        return Report(now)
    if not path.exists():
        if options.only_report:
            parser.error(f"there is no {path}")
        return Report(now)
    try:
        report = Report.read(path)
    except (ValueError, KeyError) as error:
        parser.error(f"{path} cannot be used: {error}")
    if options.add:
        for key in ("cpu", "threads"):
            if report.environment[key] != now[key]:
                parser.error(
                    f"{path} was measured with {key} {report.environment[key]!r}, this is "
                    f"{now[key]!r}: give another --output"
                )
        note = report.environment.get("note")
        report.environment = now if note is None else {**now, "note": note}
    return report


def _environment(threads: int) -> dict[str, Any]:
    """What the figures depend on besides the programs."""
    from accelkit.bench.environment import commit
    from accelkit.host import memory_bytes, processor_name

    return {
        "cpu": processor_name(),
        "threads": threads,
        "memory_bytes": memory_bytes(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "commit": commit(),
        "started": _now(),
        "variables": environment(threads),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _workload(name: str, options: argparse.Namespace) -> Workload:
    workload = named(name, options.threads, options.batch_size)
    return small(workload) if options.quick else workload


def _measure(
    report: Report, name: str, programs: Sequence[str], options: argparse.Namespace
) -> None:
    """Measure one workload and show its table."""
    _log(f"== {name}")
    workload = _workload(name, options)
    plan = QUICK if options.quick else Plan(turns=options.turns, budget_s=options.budget)
    plan = dataclasses.replace(plan, time_limit_s=options.time_limit)
    measured = report.workloads.setdefault(name, Measured(workload))
    if measured.workload != workload:
        _log(f"{name}: the earlier runs measured another size, and are dropped")
        measured = report.workloads[name] = Measured(workload)
    started = _now()
    results = measure(programs, workload, plan, log=_log)
    measured.add(results, plan, started=started, commit=report.environment["commit"])
    _show(measured)


def _section(name: str, options: argparse.Namespace, programs: Iterable[str]) -> Any:
    """Measure the machine, the overheads or the layers, on the backends of the programs."""
    if name == "machine":
        return roofline.measure_machine(options.threads, quick=options.quick)
    chosen = {PROGRAMS[p].group for p in programs if PROGRAMS[p].kind == "accelkit"}
    backends = [backend for backend in _BACKENDS if backend in chosen]
    if name == "overheads":
        peers = {PROGRAMS[p].requires[0]: None for p in programs if PROGRAMS[p].kind == "peer"}
        return overheads.measure_overheads(
            backends, options.threads, peers=peers, quick=options.quick
        )
    batch_size = options.batch_size or (2 if options.quick else 32)
    return layers.measure_layers(
        backends,
        options.threads,
        batch_size=batch_size,
        quick=options.quick,
        baseline=options.baseline,
    )


def _list() -> None:
    for name in WORKLOADS:
        print(f"{name:20}  {title(Measured(named(name, 1)))}")
    for name, module in zip(SECTIONS, (roofline, overheads, layers), strict=True):
        print(f"{name:20}  {(module.__doc__ or '').splitlines()[0]}")
    print()
    for name, entry in PROGRAMS.items():
        missing = entry.missing()
        print(f"{name:20}  {entry.label}{'' if missing is None else f'  ({missing})'}")


def _show(measured: Measured) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title(measured), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for row in rows(measured):
        table.add_row(*row)
    # A pipe has no width of its own: do not squeeze the table into 80 columns there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
