"""Where the time goes: each primitive of a prepared graph, run and waited for on its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from accelkit import registry
from accelkit.backend import Backend, translated
from accelkit.bench.settings import Settings
from accelkit.bench.workload import Workload
from accelkit.device import Device
from accelkit.device import device as find_device
from accelkit.graph import Graph, Node, Value, node_flops

__all__ = ["PHASES", "chrome_trace", "group", "profile", "profile_graph", "profile_workload"]

PHASES: Final = ("forward", "backward", "update")
_PASSES: Final = 3
_WAITS: Final = 50

Entry = dict[str, Any]


def profile(settings: Settings, *, passes: int = _PASSES) -> dict[str, Any]:
    """Profile one configuration in this process.

    Args:
        settings: What to run.
        passes: How often each primitive is timed; the median counts.

    Returns:
        ``device``, ``compiled_step_s`` (the whole compiled step, for comparison),
        ``synchronize_s`` (what waiting costs where there is nothing to wait for), ``passes``, and
        ``nodes``: one entry per primitive in the order of execution, with ``primitive``,
        ``layer``, ``phase``, ``output``, ``start_s``, ``duration_s``, ``flops`` and
        ``traffic_bytes`` (operands and results, each once).
    """
    workload = Workload(settings, find_device(settings.device))
    return profile_workload(workload, passes=passes)


def profile_workload(workload: Workload, *, passes: int = _PASSES) -> dict[str, Any]:
    """Profile a workload in its present state; see :func:`profile`."""
    graph = workload.compile().graph
    operands = [tensor.native for tensor in workload.operands()]
    nodes = profile_graph(graph, operands, workload.device, passes=passes)
    del operands
    return {
        "device": str(workload.device),
        "compiled_step_s": _compiled_step(workload, passes),
        "synchronize_s": _waiting(workload.device),
        "passes": passes,
        "nodes": nodes,
    }


def _compiled_step(workload: Workload, passes: int) -> float:
    times = []
    for _ in range(1 + passes):
        begin = time.perf_counter()
        _ = workload.run()["loss"]
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def _waiting(device: Device) -> float:
    backend = registry.backend(device.backend)
    times = []
    for _ in range(_WAITS):
        begin = time.perf_counter()
        backend.synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def profile_graph(
    graph: Graph, arrays: Sequence[Any], device: Device, *, passes: int = _PASSES
) -> list[Entry]:
    """Time each node of a prepared graph; see :func:`profile` for the entries.

    Args:
        graph: Holds only what the device's backend supports.
        arrays: Native arrays, one per input of the graph; none is changed.
        device: Where it runs.
        passes: How often each node is timed, after one time that does not count.
    """
    backend = registry.backend(device.backend)
    with translated(backend):
        list(_run_nodes(graph, arrays, backend, device))  # compiles single primitives
        timed = [list(_run_nodes(graph, arrays, backend, device)) for _ in range(passes)]
    entries = []
    start = 0.0
    for position, node in enumerate(graph.nodes):
        duration = statistics.median(times[position] for times in timed)
        entries.append(_entry(node, start, duration))
        start += duration
    return entries


def _run_nodes(
    graph: Graph, arrays: Sequence[Any], backend: Backend, device: Device
) -> Iterator[float]:
    """Seconds of each node in turn, dispatch and wait included."""
    last = graph.last_uses()
    environment: dict[Value, Any] = dict(zip(graph.inputs, arrays, strict=True))
    backend.synchronize(device)
    for position, node in enumerate(graph.nodes):
        operands = [environment[value] for value in node.inputs]
        begin = time.perf_counter()
        result = backend.run(node.primitive, operands, node.parameters, device)
        backend.synchronize(device)
        yield time.perf_counter() - begin
        results = result if node.primitive.multiple_outputs else (result,)
        environment.update(zip(node.outputs, results, strict=True))
        del operands, result, results
        for value in (*node.inputs, *node.outputs):
            if last.get(value, position) == position:
                environment.pop(value, None)


def _entry(node: Node, start: float, duration: float) -> Entry:
    values = [*node.inputs, *node.outputs]
    return {
        "primitive": node.primitive.name,
        "layer": node.scope,
        "phase": node.phase,
        "output": ", ".join(str(value.spec) for value in node.outputs),
        "start_s": start,
        "duration_s": duration,
        "flops": node_flops(node),
        "traffic_bytes": sum(value.spec.memory_bytes for value in values),
    }


def group(nodes: Iterable[Mapping[str, Any]], key: str) -> dict[str, Entry]:
    """Sums over the entries that share a ``"layer"`` or ``"primitive"``, in order of appearance.

    Returns:
        By name: seconds per phase, ``total``, ``count``, ``flops`` and ``traffic_bytes``.
    """
    found: dict[str, Entry] = {}
    for node in nodes:
        empty = {**dict.fromkeys((*PHASES, "total"), 0.0), "count": 0}
        row = found.setdefault(node[key], {**empty, "flops": 0, "traffic_bytes": 0})
        for field in (node["phase"], "total"):
            row[field] += node["duration_s"]
        row["count"] += 1
        row["flops"] += node["flops"]
        row["traffic_bytes"] += node["traffic_bytes"]
    return found


def chrome_trace(profiles: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The profiles in Chrome's trace event format: one process per device, one row per phase.

    Open the file in https://ui.perfetto.dev or chrome://tracing.
    """
    events: list[Entry] = []
    for process, found in enumerate(profiles):
        events.append(_metadata("process_name", process, 0, f"{found['device']}, node by node"))
        for row, phase in enumerate(PHASES):
            events.append(_metadata("thread_name", process, row, phase))
        for node in found["nodes"]:
            events.append(
                {
                    "name": node["primitive"],
                    "cat": node["phase"],
                    "ph": "X",
                    "ts": node["start_s"] * 1e6,
                    "dur": node["duration_s"] * 1e6,
                    "pid": process,
                    "tid": PHASES.index(node["phase"]),
                    "args": {k: node[k] for k in ("layer", "output", "flops", "traffic_bytes")},
                }
            )
    summary = {
        found["device"]: {k: found[k] for k in ("compiled_step_s", "synchronize_s", "passes")}
        for found in profiles
    }
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": summary}


def _metadata(kind: str, process: int, row: int, name: str) -> Entry:
    return {"name": kind, "ph": "M", "pid": process, "tid": row, "args": {"name": name}}
