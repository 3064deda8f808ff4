"""Prints the profile of one backend as JSON: a script, so that any checkout's accelkit can run it.

python -P benchmarks/layer_profile.py torch 32 [--quick]
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from accelkit import bench
from accelkit.bench.environment import commit


def main() -> None:
    """Profile AlexNet's training step on a backend at a batch size."""
    backend, batch_size = sys.argv[1], int(sys.argv[2])
    small = {"image_size": 95, "width": 0.125} if "--quick" in sys.argv else {}
    settings = bench.Settings(f"{backend}:cpu", batch_size=batch_size, **small)
    with contextlib.redirect_stdout(sys.stderr):
        found = bench.profile(settings, passes=1 if backend == "numpy" else 3)
    nodes = _summed(found["nodes"])
    print(json.dumps({**found, "commit": commit(), "nodes": nodes}))


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
    main()
