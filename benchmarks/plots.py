"""Pictures of a report: bars per workload, an overview of ratios, and the roofline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.program import PROGRAMS
from benchmarks.report import figure as short
from benchmarks.report import title
from benchmarks.results_file import Figures, Measured, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

# Colour-blind safe (Okabe and Ito, 2008).
_COLOURS: Final = {"native": "#0072B2", "peer": "#E69F00", "accelkit": "#D55E00"}
_NAMES: Final = {"native": "hand-written", "peer": "peer", "accelkit": "accelkit"}
_BACKENDS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
_DPI: Final = 110


def draw(report: Report, folder: Path) -> list[Path]:
    """Write all pictures that the report has the data for; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, measured in report.workloads.items():
        figures = measured.figures()
        if figures:
            paths.append(_bars(measured, figures, folder / f"{name}.png"))
    if ratios := _over_native(report):
        paths.append(_ratios(report, ratios, folder / "ratios.png"))
    if "machine" in report.sections:
        paths.append(_roofline(report, folder / "roofline.png"))
    return paths


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    plt.close(figure)
    return path


def _bars(measured: Measured, figures: Sequence[Figures], path: Path) -> Path:
    """Examples per second, time over the best hand-written program, compile time, memory."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    figures = sorted(figures, key=lambda f: f.step_s, reverse=True)
    height = 1.6 + 0.32 * len(figures)
    figure, axes = plt.subplots(1, 4, figsize=(15, height), sharey=True, layout="constrained")
    panels: list[tuple[str, list[float | None], str | None]] = [
        ("examples per second", [f.examples_per_s for f in figures], None),
        (
            "step time / best hand-written,\nsame framework",
            [f.native.time if f.native else None for f in figures],
            "{:.2f}",
        ),
        ("compile time, s", [f.compile_s for f in figures], "{:.1f}"),
        ("peak memory, MiB", [f.peak_memory_bytes / 2**20 for f in figures], "{:,.0f}"),
    ]
    for axis, (name, values, form) in zip(axes, panels, strict=True):
        _panel(axis, figures, values, form)
        axis.set_title(name, fontsize=10)
    axes[1].axvline(1.0, color="black", linewidth=0.8)
    axes[0].set_yticks(range(len(figures)), [f.label for f in figures], fontsize=9)
    handles = [Patch(color=_COLOURS[k], label=_NAMES[k]) for k in _COLOURS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title(measured), fontsize=11)
    return _save(figure, path)


def _panel(
    axis: Axes, figures: Sequence[Figures], values: Sequence[float | None], form: str | None
) -> None:
    most = max((v for v in values if v is not None), default=1.0)
    for position, (found, value) in enumerate(zip(figures, values, strict=True)):
        if value is None:
            continue
        axis.barh(position, value, color=_COLOURS[PROGRAMS[found.name].kind])
        text = short(value) if form is None else form.format(value)
        axis.text(value + 0.01 * most, position, text, va="center", fontsize=8)
    axis.set_xlim(0, 1.18 * most or 1.0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _over_native(report: Report) -> dict[str, dict[str, float]]:
    """Step time over the best hand-written program, by program and workload."""
    ratios: dict[str, dict[str, float]] = {}
    for name, measured in report.workloads.items():
        for found in measured.figures():
            if found.native is not None and PROGRAMS[found.name].kind != "native":
                ratios.setdefault(found.name, {})[name] = found.native.time
    return ratios


def _ratios(report: Report, ratios: Mapping[str, Mapping[str, float]], path: Path) -> Path:
    """accelkit and Keras over the best hand-written program, for all workloads."""
    from matplotlib import pyplot as plt

    workloads = [n for n in report.workloads if any(n in own for own in ratios.values())]
    figure, axis = plt.subplots(figsize=(7.0 + 0.9 * len(workloads), 4.5), layout="constrained")
    width = 0.8 / len(ratios)
    for index, (program, own) in enumerate(ratios.items()):
        places = [workloads.index(n) - 0.4 + (index + 0.5) * width for n in own]
        is_ours = PROGRAMS[program].kind == "accelkit"
        group = list(dict.fromkeys(PROGRAMS[p].group for p in ratios)).index(
            PROGRAMS[program].group
        )
        axis.bar(  # up or down from 1
            places,
            [ratio - 1.0 for ratio in own.values()],
            width,
            bottom=1.0,
            label=PROGRAMS[program].label,
            color=_BACKENDS[group],
            alpha=1.0 if is_ours else 0.45,
            hatch=None if is_ours else "//",
        )
    axis.axhline(1.0, color="black", linewidth=0.8)
    _ratio_axis(axis, [value for own in ratios.values() for value in own.values()])
    axis.set_xticks(range(len(workloads)), workloads, rotation=20, ha="right", fontsize=9)
    axis.set_ylabel("step time / best hand-written program\nof the same framework, log scale")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", fontsize=8, frameon=False, ncols=4)
    return _save(figure, path)


def _ratio_axis(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis on which half as long is as far from 1 as twice as long."""
    axis.set_yscale("log")
    ticks = (0.2, 0.25, 1 / 3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
    least, most = 0.9 * min(values), 1.1 * max(values)
    axis.set_ylim(min(least, 0.65), max(most, 1.5))
    shown = [tick for tick in ticks if min(least, 0.65) <= tick <= max(most, 1.5)]
    axis.set_yticks(shown, [f"{tick:.2g}" for tick in shown], fontsize=9)
    axis.set_yticks([], minor=True)
    axis.grid(axis="y", alpha=0.25, linewidth=0.5)
    axis.set_axisbelow(True)


def _roofline(report: Report, path: Path) -> Path:
    """Layers' primitives and whole steps under the machine's two limits."""
    from matplotlib import pyplot as plt

    machine = report.sections["machine"]
    flops, bandwidth = machine["peak_flops"], machine["peak_bytes_per_s"]
    figure, axis = plt.subplots(figsize=(9, 6), layout="constrained")
    span = [10 ** (x / 20) for x in range(-24, 68)]
    limit = [min(flops, bandwidth * x) / 1e9 for x in span]
    axis.plot(span, limit, color="black", linewidth=1.5)
    axis.annotate(f"{flops / 1e9:,.0f} GFLOP/s", (span[-1], flops / 1e9), ha="right", va="bottom")
    slope = (0.12, bandwidth * 0.12 / 1e9)
    axis.annotate(f"{bandwidth / 1e9:,.0f} GB/s", slope, ha="right", va="bottom")
    profiles: Mapping[str, Any] = report.sections.get("layers", {}).get("backends", {})
    for index, (backend, profile) in enumerate(profiles.items()):
        _points(axis, profile.get("nodes", ()), backend, _BACKENDS[index % len(_BACKENDS)])
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(span[0], span[-1])
    axis.set_ylim(flops / 1e9 / 3e3, flops / 1e9 * 2)
    axis.set_xlabel("operations per byte of operands and results")
    axis.set_ylabel("GFLOP/s")
    axis.set_title("Primitives of AlexNet's training step, each run alone; larger takes longer")
    if profiles:
        axis.legend(frameon=False, loc="lower right")
    axis.grid(alpha=0.25, which="both", linewidth=0.4)
    return _save(figure, path)


def _points(axis: Axes, nodes: Sequence[Mapping[str, Any]], backend: str, colour: str) -> None:
    shown = [n for n in nodes if n["flops"] and n["traffic_bytes"] and n["duration_s"] > 1e-4]
    axis.scatter(
        [n["flops"] / n["traffic_bytes"] for n in shown],
        [n["flops"] / n["duration_s"] / 1e9 for n in shown],
        s=[12 + 6 * math.sqrt(n["duration_s"] * 1e6) / 4 for n in shown],
        color=colour,
        alpha=0.55,
        linewidths=0,
        label=backend,
    )
