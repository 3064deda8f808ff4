"""The report in Markdown: one table per workload, and the tables of the other sections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from benchmarks.measure import AGREEMENT_BOUND
from benchmarks.program import PROGRAMS
from benchmarks.results_file import Comparison, Figures, Measured, Report

__all__ = ["COLUMNS", "figure", "markdown", "rows", "table", "title"]

COLUMNS: Final = (
    "program",
    "step, ms: median",
    "IQR",
    "examples/s",
    "GFLOP/s",
    "time / best hand-written",
    "/ peer",
    "/ best of all",
    "compile, s",
    "peak memory, MiB",
    "/ least hand-written",
    "loss deviation",
)
_NOTE: Final = (
    "Times are medians over all samples; ratios are medians over turns of the ratio between "
    "programs that took turns with each other, below 1 is faster. Best hand-written: the fastest "
    "hand-written program in the same framework; peer: Keras 3 on the same backend, or tinygrad "
    "on the same OpenCL device; best of all: the fastest program that is not accelkit's. "
    "Compile: the first step less a median one. Peak memory: largest resident set of the process "
    "once warm, framework included; least hand-written: of the program in the same framework that "
    "needs least memory, which need not be the fastest. Loss deviation: largest relative "
    "difference from the median of all programs over five steps of a small form of the network "
    "without dropout, before anything "
    f"was timed (bound {AGREEMENT_BOUND:g})."
)


def figure(value: float) -> str:
    """A number with three digits, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    rules = ["---", *["---:"] * (len(columns) - 1)]
    lines = [columns, rules, *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def title(measured: Measured) -> str:
    """One line that names the workload."""
    workload = measured.workload
    shape = "x".join(map(str, workload.input_shape))
    task = "training" if workload.is_training else "inference"
    return f"{workload.model}, {task}, input {shape}, float32, {workload.parameters:,} parameters"


def rows(measured: Measured) -> list[tuple[str, ...]]:
    """The table's cells, one row per program, in the order of ``COLUMNS``."""
    found = [_row(figures) for figures in measured.figures()]
    for name, error in measured.failures().items():
        blank = ("",) * (len(COLUMNS) - 2)
        found.append((PROGRAMS[name].label, f"failed: {_cell(error.splitlines()[0])}", *blank))
    return found


def markdown(report: Report) -> str:
    """The whole report."""
    environment = report.environment
    parts = [
        "# Benchmark",
        f"{environment['cpu']}, {environment['threads']} threads, {environment['platform']}, "
        f"Python {environment['python']}, commit {environment['commit']}, "
        f"{environment['started']}.",
    ]
    if "note" in environment:
        parts.append(environment["note"])
    for name, measured in report.workloads.items():
        parts.append(f"## {name}\n\n{title(measured)}\n\n{table(COLUMNS, rows(measured))}")
        parts.append(f"![{name}]({name}.png)")
    parts.append(_NOTE)
    parts += _sections(report.sections)
    versions = sorted({f.version for m in report.workloads.values() for f in m.figures()})
    if versions:
        parts.append("Versions: " + "; ".join(versions) + ".")
    return "\n\n".join(parts) + "\n"


def _sections(sections: dict[str, Any]) -> Iterable[str]:
    from benchmarks import layers, overheads, roofline

    renderers = {"machine": roofline, "overheads": overheads, "layers": layers}
    for name, module in renderers.items():
        if name in sections:
            yield module.markdown(sections[name])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _row(figures: Figures) -> tuple[str, ...]:
    return (
        figures.label,
        figure(figures.step_s * 1e3),
        f"{figures.iqr_s * 1e3:,.2g}",
        figure(figures.examples_per_s),
        figure(figures.gflops),
        _ratio(figures.native),
        _ratio(figures.peer),
        _ratio(figures.best),
        f"{figures.compile_s:.1f}",
        f"{figures.peak_memory_bytes / 2**20:,.0f}",
        "" if figures.memory is None else f"{figures.memory:.2f}",
        f"{figures.deviation:.1e}",
    )


def _ratio(comparison: Comparison | None) -> str:
    return "" if comparison is None else f"{comparison.time:.3f}"
