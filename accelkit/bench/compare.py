"""Comparing a report with an earlier one of the same machine and workload."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from accelkit.bench.report import SCHEMA_VERSION, new_table, succeeded
from accelkit.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Comparison", "check_comparable", "compare", "print_comparison", "read_report"]

_MACHINE: Final = ("cpu", "threads")
_NOT_THE_WORKLOAD: Final = frozenset({"steps", "warmup", "seed", "time_limit_s"})

Report = dict[str, Any]


class Comparison(NamedTuple):
    """One device, then and now.

    Attributes:
        device: Its name.
        step_times_s: Medians.
        memories_bytes: Peaks; None where unknown or read in different ways.
        error: Why there are no figures now, or None.
    """

    device: str
    step_times_s: tuple[float, float] | None
    memories_bytes: tuple[int, int] | None
    error: str | None

    def growth(self) -> dict[str, float]:
        """By how much each figure grew, as a share: 0.1 is 10 % worse."""
        pairs: dict[str, tuple[float, float] | None] = {
            "step time": self.step_times_s,
            "peak memory": self.memories_bytes,
        }
        return {
            name: now / then - 1.0 for name, pair in pairs.items() if pair for then, now in [pair]
        }

    def regressions(self, fail_over: float) -> list[str]:
        """What got worse by more than this share; a device that fails now did."""
        if self.error is not None:
            return [f"{self.device} was measured before and fails now: {self.error}"]
        return [
            f"{self.device}: {name} grew by {share:.1%}, more than {fail_over:.1%}"
            for name, share in self.growth().items()
            if share > fail_over
        ]


def read_report(path: Path) -> Report:
    """Read a report that ``--json`` wrote.

    Raises:
        OptionError: if it cannot be read, is no report, or is one of another schema.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--compare {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise OptionError(f"--compare {path} is no JSON: {error}.") from error
    needed = {"schema_version": int, "environment": dict, "settings": dict, "results": list}
    found = report if isinstance(report, dict) else {}
    missing = [name for name, kind in needed.items() if not isinstance(found.get(name), kind)]
    if not missing and not all(map(_is_result, found["results"])):
        missing = ["devices with their figures in results"]
    if missing:
        raise OptionError(
            f"--compare {path} is no report of this benchmark: it has no {', '.join(missing)}. "
            f"Give a file that `python -m accelkit.bench --json PATH` wrote."
        )
    if report["schema_version"] != SCHEMA_VERSION:
        raise OptionError(
            f"--compare {path} has schema version {report['schema_version']}, this accelkit "
            f"reads {SCHEMA_VERSION}. Measure again with --json."
        )
    return dict(report)


def _is_result(value: Any) -> bool:
    """Whether a comparison finds in it what it reads."""
    if not isinstance(value, dict) or not {"backend", "device", "error"} <= value.keys():
        return False
    figures = {"step_time_s", "peak_memory_bytes", "peak_memory_method"}
    return value["error"] is not None or figures <= value.keys()


def check_comparable(
    old: Report,
    environment: Mapping[str, Any],
    settings: Mapping[str, Any],
    backends: Sequence[str],
) -> None:
    """Refuse to compare what cannot be compared, before anything is measured.

    Raises:
        OptionError: for another machine, another workload, or no backend in common.
    """
    found = [
        f"{name} {old['environment'].get(name)!r}, now {environment[name]!r}"
        for name in _MACHINE
        if old["environment"].get(name) != environment[name]
    ]
    if found:
        raise OptionError(
            f"The --compare report is of another machine: it has {'; '.join(found)}. Times can "
            f"only be compared on the same machine with the same number of threads."
        )
    wanted = {name: v for name, v in settings.items() if name not in _NOT_THE_WORKLOAD}
    found = [
        f"{name} {old['settings'].get(name)!r}, now {value!r}"
        for name, value in wanted.items()
        if old["settings"].get(name) != value
    ]
    if found:
        raise OptionError(
            f"The --compare report is of other settings: it has {'; '.join(found)}. Measure with "
            f"the same settings."
        )
    if not {r["backend"] for r in succeeded(old["results"])} & set(backends):
        names = sorted({r["backend"] for r in succeeded(old["results"])})
        raise OptionError(
            f"The --compare report has no figures of {', '.join(backends)}, only of "
            f"{', '.join(names) or 'nothing'}. Choose one of these with --backend."
        )


def compare(old: Report, new: Report) -> list[Comparison]:
    """Each device of the new report that the old one has figures of.

    Raises:
        OptionError: if a device's hardware changed.
    """
    before = {result["device"]: result for result in succeeded(old["results"])}
    by_backend = {result["backend"]: result for result in before.values()}
    found = []
    for now in new["results"]:
        then = before.get(now["device"])
        if then is None and now["error"] is not None:
            then = by_backend.get(now["device"])  # it failed before its device was known
        if then is None:
            continue
        _check_same_device(old, new, then["device"])
        found.append(_compare_result(then, now))
    return found


def _check_same_device(old: Report, new: Report, device: str) -> None:
    then, now = (r["environment"]["devices"].get(device, {}) for r in (old, new))
    names = [d.get("description") for d in (then, now)]
    if None not in names and names[0] != names[1]:
        raise OptionError(f"{device} was {names[0]!r} in the --compare report, it is {names[1]!r}.")


def _compare_result(then: Mapping[str, Any], now: Mapping[str, Any]) -> Comparison:
    if now["error"] is not None:
        return Comparison(then["device"], None, None, now["error"])
    times = then["step_time_s"]["median"], now["step_time_s"]["median"]
    memories = then["peak_memory_bytes"], now["peak_memory_bytes"]
    same_method = then["peak_memory_method"] == now["peak_memory_method"]
    comparable = same_method and None not in memories and memories[0] > 0
    return Comparison(then["device"], times, memories if comparable else None, None)


def print_comparison(console: Console, found: Sequence[Comparison], started: str) -> None:
    """Then, now, and the change of each device."""
    columns = ("device", "step ms then", "now", "change", "peak MiB then", "now", "change")
    table = new_table(f"Compared with {started}", columns)
    for entry in found:
        if entry.step_times_s is None:
            table.add_row(entry.device, "failed now")
            continue
        growth = entry.growth()
        times = [f"{seconds * 1e3:,.2f}" for seconds in entry.step_times_s]
        cells = [entry.device, *times, f"{growth['step time']:+.1%}"]
        if entry.memories_bytes is not None:
            cells += [f"{size / 2**20:,.0f}" for size in entry.memories_bytes]
            cells.append(f"{growth['peak memory']:+.1%}")
        table.add_row(*cells)
    console.print(table)
