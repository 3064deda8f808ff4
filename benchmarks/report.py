"""Turns results of the side-by-side benchmark into JSON and Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.measure import AGREEMENT_BOUND, Result, deviations, environment, ratio, summary
from benchmarks.program import PROGRAMS
from benchmarks.workload import Workload

__all__ = ["COLUMNS", "SCHEMA_VERSION", "describe_machine", "markdown", "rows", "title", "to_json"]

SCHEMA_VERSION: Final = 1
COLUMNS: Final = (
    "program",
    "framework",
    "build, s",
    "step, ms: median",
    "IQR",
    "min",
    "examples/s",
    "GFLOP/s",
    "peak memory, MiB",
    "loss deviation",
    "time / rival's",
)


def describe_machine(threads: int) -> dict[str, Any]:
    """What the figures depend on besides the programs."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_average_before": _load_average(),
        "environment": environment(threads),
    }


def to_json(
    machine: dict[str, Any], measured: Sequence[tuple[Workload, Sequence[Result]]]
) -> dict[str, Any]:
    """Everything that was measured, raw samples included, as plain values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": machine,
        "agreement_bound": AGREEMENT_BOUND,
        "workloads": [
            {
                "workload": workload.to_json(),
                "flops_per_step": workload.flops_per_step,
                "results": [_result_json(result, workload, results) for result in results],
            }
            for workload, results in measured
        ],
    }


def rows(workload: Workload, results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The table's cells, one row per program, in the order of ``COLUMNS``."""
    return [_row(_result_json(result, workload, results)) for result in results]


def markdown(machine: dict[str, Any], measured: Sequence[tuple[Workload, Sequence[Result]]]) -> str:
    """The report as Markdown."""
    parts = [
        f"{machine['processor']}, {machine['threads']} threads, {machine['system']}, "
        f"Python {machine['python']}, load average before {machine['load_average_before']}.",
    ]
    for workload, results in measured:
        table = [COLUMNS, ("---",) * len(COLUMNS), *rows(workload, results)]
        lines = "\n".join("| " + " | ".join(row) + " |" for row in table)
        parts.append(f"### {title(workload)}\n\n{lines}")
    parts.append(
        "Loss deviation: largest relative difference from the median of all programs over five "
        f"steps without dropout (bound {AGREEMENT_BOUND:g}). Time / rival's: median over turns "
        "of the ratio to the best hand-written program of the same framework; below 1 is faster."
    )
    return "\n\n".join(parts) + "\n"


def title(workload: Workload) -> str:
    """One line that names the workload."""
    shape = "x".join(map(str, workload.input_shape))
    dropout = f", dropout {workload.dropout}" if workload.dropout and workload.convolutions else ""
    return f"{workload.model}, training, input {shape}, float32{dropout}"


def _result_json(result: Result, workload: Workload, results: Sequence[Result]) -> dict[str, Any]:
    entry = PROGRAMS[result.name]
    report: dict[str, Any] = {
        "name": result.name,
        "label": entry.label,
        "framework": result.version,
        "losses": result.losses,
        "loss_deviation": deviations(results).get(result.name),
        "error": result.error,
    }
    if result.error is not None:
        return report
    times = summary(result)
    rival = next((r for r in results if r.name == entry.rival and r.error is None), None)
    return report | {
        "build_s": result.build_s,
        "step_time_s": {**times, "rounds": result.rounds_s},
        "throughput_examples_per_s": workload.batch_size / times["median"],
        "achieved_gflops": workload.flops_per_step / times["median"] / 1e9,
        "peak_memory_bytes": result.peak_memory_bytes,
        "peak_memory_method": "largest resident set of the process",
        "rival": entry.rival,
        "time_over_rival": None if rival is None else ratio(result, rival),
    }


def _row(report: dict[str, Any]) -> tuple[str, ...]:
    deviation = report["loss_deviation"]
    deviation_cell = "" if deviation is None else f"{deviation:.1e}"
    if report["error"] is not None:
        reason = report["error"].splitlines()[0]
        blank = ("",) * (len(COLUMNS) - 6)
        return (report["label"], report["framework"], "", f"failed: {reason}", *blank,
                deviation_cell, "")  # fmt: skip
    times = report["step_time_s"]
    over_rival = report["time_over_rival"]
    return (
        report["label"],
        report["framework"],
        f"{report['build_s']:.1f}",
        f"{times['median'] * 1e3:.4g}",
        f"{times['iqr'] * 1e3:.3g}",
        f"{times['min'] * 1e3:.4g}",
        f"{report['throughput_examples_per_s']:.4g}",
        f"{report['achieved_gflops']:.3g}",
        f"{report['peak_memory_bytes'] / 2**20:.0f}",
        deviation_cell,
        "" if over_rival is None else f"{over_rival:.3f}",
    )


def _load_average() -> float | None:
    """Processes that wanted to run during the last minute: above 0, the figures have rivals."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
