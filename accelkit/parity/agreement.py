"""Two backends live against each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accelkit.device import Device
from accelkit.graph import Graph
from accelkit.parity import checks, graphs
from accelkit.parity.cases import CLOSE, Case
from accelkit.parity.tolerances import tolerance

__all__ = ["compare"]


def results(
    batch: Sequence[Case], device: Device, *, gradient: bool
) -> list[tuple[Graph, list[np.ndarray]]]:
    """Each case's graph and what it gives on the device, all compiled as one."""
    parts = []
    for case in batch:
        graph = graphs.gradient_graph(case) if gradient else graphs.value_graph(case)
        parts.append((graph, [*case.arrays, *checks.cotangents(case, graph)]))
    found = checks.run_joined(parts, device)
    return [(graph, arrays) for (graph, _), arrays in zip(parts, found, strict=True)]


def compare(
    batch: Sequence[Case], devices: Sequence[Device], *, gradient: bool
) -> list[checks.Mismatch]:
    """All pairs of devices on the same cases; each may deviate once from the true result."""
    chosen = [case for case in batch if case.gradients] if gradient else list(batch)
    if not chosen:
        return []
    found = [results(chosen, device, gradient=gradient) for device in devices]
    problems = []
    for j, second in enumerate(devices):
        for i, first in enumerate(devices[:j]):
            label = f"on {second} against {first}"
            for case, (graph, a), (_, b) in zip(chosen, found[j], found[i], strict=True):
                problems += _compare(case, graph, a, b, label, gradient=gradient)
    return problems


def _compare(
    case: Case,
    graph: Graph,
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    label: str,
    *,
    gradient: bool,
) -> list[checks.Mismatch]:
    length = case.gradient_length if gradient else case.length
    return checks.compare(
        case,
        label,
        graph,
        a,
        b,
        comparison=CLOSE if gradient else case.comparison,
        bound=2.0 * tolerance(case.dtype, gradient=gradient, length=length),
        floor=checks.gradient_floor(case, graph) if gradient else case.floor,
    )
