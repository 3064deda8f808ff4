"""Where accelkit's step spends its time, by layer and by primitive, on every backend.

Every primitive of the prepared training step of AlexNet runs alone and is waited for, as
``python -m accelkit.bench --profile`` does, whose trace files show the same in Perfetto.
"""

from __future__ import annotations

import contextlib
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


def measure_layers(
    backends: Iterable[str], threads: int, *, batch_size: int, quick: bool = False
) -> dict[str, Any]:
    """Profile AlexNet's training step on each backend, in a process of its own.

    Returns:
        ``batch_size`` and, by backend, what :func:`accelkit.bench.profile` returns, its nodes
        summed by layer, primitive and phase, or an ``error``.
    """
    found: dict[str, Any] = {}
    for backend in backends:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.layers", backend, str(batch_size), str(int(quick))],
            env=os.environ | environment(threads),
            cwd=Path(__file__).resolve().parent.parent,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            found[backend] = {"error": done.stderr.strip().splitlines()[-1]}
        else:
            found[backend] = json.loads(done.stdout)
    return {"batch_size": batch_size, "backends": found}


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
    parts += [f"{n} failed: {p['error']}" for n, p in section["backends"].items() if "error" in p]
    return "\n\n".join(parts)


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


def _main() -> None:
    from accelkit import bench

    backend, batch_size, quick = sys.argv[1], int(sys.argv[2]), bool(int(sys.argv[3]))
    small = {"image_size": 95, "width": 0.125} if quick else {}
    settings = bench.Settings(f"{backend}:cpu", batch_size=batch_size, **small)
    with contextlib.redirect_stdout(sys.stderr):
        found = bench.profile(settings, passes=1 if backend == "numpy" else 3)
    found["nodes"] = _summed(found["nodes"])
    print(json.dumps(found))


def _summed(nodes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Nodes of the same layer, primitive and phase as one, in order of appearance."""
    sums: dict[tuple[str, ...], dict[str, Any]] = {}
    for node in nodes:
        key = {name: node[name] for name in ("layer", "primitive", "phase")}
        row = sums.setdefault(tuple(key.values()), dict(key))
        for field in ("duration_s", "flops", "traffic_bytes"):
            row[field] = row.get(field, 0) + node[field]
    return list(sums.values())


if __name__ == "__main__":
    _main()
