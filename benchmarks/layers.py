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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import environment

__all__ = ["markdown", "measure_layers"]

_SMALL_SHARE: Final = 0.005  # rows below this share of every backend's sum are added up


def measure_layers(
    backends: Iterable[str], threads: int, *, batch_size: int, quick: bool = False
) -> dict[str, Any]:
    """Profile AlexNet's training step on each backend, in a process of its own.

    Returns:
        ``batch_size`` and, by backend, what :func:`accelkit.bench.profile` returns, its nodes
        summed by layer and primitive, or an ``error``.
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
    """Two tables: milliseconds by layer and by primitive, a column per backend."""
    parts = [
        "## Layers and primitives\n\nTraining step of AlexNet (torchvision), batch "
        f"{section['batch_size']}: milliseconds of each layer's and primitive's operations, "
        "forward, backward and update, each run alone and waited for; the compiled step fuses "
        "and overlaps them."
    ]
    good = {name: p for name, p in section["backends"].items() if "error" not in p}
    for key in ("layer", "primitive"):
        parts.append(_table(key, good))
    parts += [f"{n} failed: {p['error']}" for n, p in section["backends"].items() if "error" in p]
    return "\n\n".join(parts)


def _table(key: str, profiles: Mapping[str, Mapping[str, Any]]) -> str:
    from benchmarks.report import table

    sums: dict[str, dict[str, float]] = {}
    for backend, profile in profiles.items():
        for node in profile["nodes"]:
            row = sums.setdefault(node[key] or "(step)", {})
            row[backend] = row.get(backend, 0.0) + node["duration_s"]
    totals = {b: sum(row.get(b, 0.0) for row in sums.values()) for b in profiles}
    cells, others = [], dict.fromkeys(profiles, 0.0)
    for name, row in sums.items():
        if all(row.get(b, 0.0) < _SMALL_SHARE * totals[b] for b in profiles):
            others = {b: others[b] + row.get(b, 0.0) for b in profiles}
        else:
            cells.append((name, *(f"{row[b] * 1e3:,.2f}" if b in row else "" for b in profiles)))
    cells.append(("others", *(f"{others[b] * 1e3:,.2f}" for b in profiles)))
    cells.append(("sum", *(f"{totals[b] * 1e3:,.1f}" for b in profiles)))
    compiled = (f"{p['compiled_step_s'] * 1e3:,.1f}" for p in profiles.values())
    cells.append(("compiled step", *compiled))
    return table((key, *profiles), cells)


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
    """Nodes of the same layer and primitive as one, in order of appearance."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for node in nodes:
        key = (node["layer"], node["primitive"])
        row = sums.setdefault(key, {"layer": key[0], "primitive": key[1]})
        for field in ("duration_s", "flops", "traffic_bytes"):
            row[field] = row.get(field, 0) + node[field]
    return list(sums.values())


if __name__ == "__main__":
    _main()
