"""Where accelkit's step spends its time, by layer and by primitive, on every backend.

Every primitive of the prepared training step of AlexNet runs alone and is waited for, as
``python -m accelkit.bench --profile`` does, whose trace files show the same in Perfetto. With a
baseline, another checkout of accelkit is profiled beside this one, backend by backend.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, Final

from accelkit.bench.profile import PHASES, group
from benchmarks.processes import environment

__all__ = ["markdown", "measure_layers"]

_SMALL_SHARE: Final = 0.005  # rows below this share of every backend's sum are added up
_HERE: Final = Path(__file__).resolve().parent
_PACKAGES: Final = ("", "backends", "models")  # folders of a checkout that hold packages


def measure_layers(
    backends: Iterable[str],
    threads: int,
    *,
    batch_size: int,
    quick: bool = False,
    baseline: Path | None = None,
) -> dict[str, Any]:
    """Profile AlexNet's training step on each backend, in a process of its own.

    Args:
        backends: Their names.
        threads: For each backend's arithmetic.
        batch_size: Images per step.
        quick: A small network instead.
        baseline: The folder of another checkout, profiled in turns with this one.

    Returns:
        ``batch_size`` and, by backend, what :func:`accelkit.bench.profile` returns, its nodes
        summed by layer, primitive and phase, and the ``commit``, or an ``error``; with a baseline
        also the same under ``baseline``.
    """
    sources = [_HERE.parent] if baseline is None else [_HERE.parent, baseline.resolve()]
    found: list[dict[str, Any]] = [{} for _ in sources]
    for backend in backends:
        for source, own in zip(sources, found, strict=True):
            own[backend] = _profile(source, backend, threads, batch_size, quick)
    section: dict[str, Any] = {"batch_size": batch_size, "backends": found[0]}
    if baseline is not None:
        section["baseline"] = {"backends": found[1]}
    return section


def _profile(
    source: Path, backend: str, threads: int, batch_size: int, quick: bool
) -> dict[str, Any]:
    """What the child process prints that imports accelkit from a checkout."""
    paths = os.pathsep.join(str(source / folder) for folder in _PACKAGES)
    done = subprocess.run(
        # -P: the script's own folder is no place to import from
        [sys.executable, "-P", str(_HERE / "layer_profile.py"), backend, str(batch_size)]
        + (["--quick"] if quick else []),
        env=os.environ | environment(threads) | {"PYTHONPATH": paths},
        cwd=source,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    profile: dict[str, Any] = json.loads(done.stdout)
    return profile


def markdown(section: Mapping[str, Any]) -> str:
    """Milliseconds by phase, by layer and by primitive, a column per backend.

    A layer's cell holds its sum and, behind it, forward, backward and update.
    """
    parts = [
        "## Layers and primitives\n\nTraining step of AlexNet (torchvision), batch "
        f"{section['batch_size']}: milliseconds of each layer's and primitive's operations, "
        "each run alone and waited for; the compiled step fuses and overlaps them. Behind the sum "
        "of each layer, where it was kept: forward + backward + update. `python -m accelkit.bench "
        "--profile` shows the same for any model, and writes a trace for Perfetto."
    ]
    good = {name: p for name, p in section["backends"].items() if "error" not in p}
    phased = all("phase" in node for profile in good.values() for node in profile["nodes"])
    for key in ("phase", "layer", "primitive") if phased else ("layer", "primitive"):
        parts.append(_table(key, good, phased=phased))
    parts += _failures(section["backends"])
    if "baseline" in section:
        parts += _comparison(section["baseline"], good)
    return "\n\n".join(parts)


def _failures(profiles: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"{name} failed: {p['error']}" for name, p in profiles.items() if "error" in p]


def _comparison(baseline: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sums by primitive of the baseline and of now, for the backends that both measured."""
    from benchmarks.report import table

    before = {n: p for n, p in baseline["backends"].items() if "error" not in p and n in now}
    sums = {
        name: [group(p["nodes"], "primitive") for p in (before[name], now[name])] for name in before
    }
    profiles = [own for pair in sums.values() for own in pair]
    large = {
        name: None
        for own in profiles
        for name, row in own.items()
        if row["total"] >= _SMALL_SHARE * sum(r["total"] for r in own.values())
    }
    cells = [
        (n, *(_both(*(own.get(n, {}).get("total") for own in pair)) for pair in sums.values()))
        for n in large
    ]
    compiled = (_both(p["compiled_step_s"], now[n]["compiled_step_s"]) for n, p in before.items())
    cells.append(("compiled step", *compiled))
    commits = ", ".join({str(p["commit"]): None for p in before.values()}) or "unknown"
    return [
        f"### Before and now\n\nThe same of an earlier version (commit {commits}), measured in "
        "turns with this one: milliseconds by primitive, before and now. What is new in a "
        "prepared step has no figure before, what was fused into something else none now.",
        table(("primitive", *before), cells),
        *_failures(baseline["backends"]),
    ]


def _both(before: float | None, now: float | None) -> str:
    if before is None and now is None:
        return ""
    cells = ("" if seconds is None else f"{seconds * 1e3:,.1f}" for seconds in (before, now))
    return " → ".join(cells).strip()


def _table(key: str, profiles: Mapping[str, Mapping[str, Any]], *, phased: bool) -> str:
    from benchmarks.report import table

    found = {
        # results that were stored before phases were know sums only
        backend: group(({"phase": PHASES[0], **node} for node in profile["nodes"]), key)
        for backend, profile in profiles.items()
    }
    names = dict.fromkeys(name for own in found.values() for name in own)
    if key == "phase":
        names = {phase: None for phase in PHASES if phase in names}
    totals = {b: sum(row["total"] for row in own.values()) for b, own in found.items()}
    small = {
        name
        for name in names
        if all(
            own[name]["total"] < _SMALL_SHARE * totals[b] for b, own in found.items() if name in own
        )
    }
    cells = [
        (
            name or "(step)",
            *(_cell(own.get(name), split=phased and key == "layer") for own in found.values()),
        )
        for name in names
        if name not in small
    ]
    if small:
        cells.append(("others", *_others(found.values(), small)))
    cells.append(("sum", *(f"{seconds * 1e3:,.1f}" for seconds in totals.values())))
    compiled = (f"{p['compiled_step_s'] * 1e3:,.1f}" for p in profiles.values())
    cells.append(("compiled step", *compiled))
    return table((key, *profiles), cells)


def _others(found: Iterable[Mapping[str, Mapping[str, float]]], names: Set[str]) -> list[str]:
    sums = [sum(row["total"] for name, row in own.items() if name in names) for own in found]
    return [f"{seconds * 1e3:,.2f}" for seconds in sums]


def _cell(row: Mapping[str, float] | None, *, split: bool) -> str:
    if row is None:
        return ""
    total = f"{row['total'] * 1e3:,.2f}"
    if not split:
        return total
    return f"{total} = " + " + ".join(f"{row[phase] * 1e3:,.1f}" for phase in PHASES)
