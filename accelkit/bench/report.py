"""The report: one JSON document, and tables for people.

The document holds ``schema_version``, ``environment`` (versions, commit, processor, threads, and
name, memory and driver of each device measured), ``settings``, and ``results``: one entry per
device, with

- ``backend``, ``device``, ``model``, ``variant``, ``batch_size``, ``precision``, ``parameters``;
- ``flops_per_step``: floating-point operations of the traced step by the primitives' own counts,
  a multiply-add counted as two: the same for every backend, however it computes them;
- ``compile_time_s``: tracing, differentiating, preparing and compiling, without the first step,
  whose time is ``first_step_time_s``;
- ``step_time_s``: ``median``, ``p95``, ``min``, ``iqr`` and all ``samples`` of the timed steps,
  each from its dispatch until its loss is on the host; ``throughput_images_per_s`` is the batch
  size over the median;
- ``peak_memory_bytes`` while the timed steps ran, and ``peak_memory_method``: how it was read;
- ``losses``: of every step from the first one, warm-up included;
- ``error``: None, or why there are no figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from accelkit.bench.profile import PHASES, group
from accelkit.bench.settings import Settings
from accelkit.errors import OptionError
from accelkit.filesystem import FileSystem

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "REFERENCE_BACKEND",
    "RESULT_FIELDS",
    "SCHEMA_VERSION",
    "document",
    "failed_result",
    "loss_difference",
    "print_header",
    "print_profile",
    "print_results",
    "reference",
    "succeeded",
    "write_json",
]

SCHEMA_VERSION: Final = 1
REFERENCE_BACKEND: Final = "numpy"
_SMALL_SHARE: Final = 0.002  # of a profile's total
RESULT_FIELDS: Final = (
    "backend",
    "device",
    "model",
    "variant",
    "batch_size",
    "precision",
    "parameters",
    "flops_per_step",
    "compile_time_s",
    "first_step_time_s",
    "step_time_s",
    "throughput_images_per_s",
    "peak_memory_bytes",
    "peak_memory_method",
    "losses",
    "error",
)

Result = dict[str, Any]


def failed_result(settings: Settings, device: str, message: str) -> Result:
    """The entry of a backend that failed: what was asked for, and its error."""
    return {
        **dict.fromkeys(RESULT_FIELDS),
        "backend": device.split(":")[0],
        "device": device,
        "model": settings.model,
        "variant": settings.resolved_variant(),
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "losses": [],
        "error": message,
    }


def succeeded(results: Sequence[Result]) -> list[Result]:
    """The results that hold figures."""
    return [result for result in results if result["error"] is None]


def document(
    environment: Mapping[str, Any], settings: Settings, results: Sequence[Result]
) -> dict[str, Any]:
    """Everything measured, as plain values."""
    workload = settings.workload()
    how_often = {name: getattr(settings, name) for name in ("steps", "warmup", "seed")}
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": dict(environment),
        "settings": {**workload, **how_often, "time_limit_s": settings.time_limit_s},
        "results": list(results),
    }


def write_json(path: Path, value: Any, *, allow_nan: bool = False) -> None:
    """Write a file of JSON, whole or not at all.

    Args:
        path: The file.
        value: Plain values.
        allow_nan: Write NaN and infinities in Python's way; JSON has none.

    Raises:
        OptionError: if it cannot be written, for want of space above all.
    """
    try:
        text = json.dumps(value, indent=1, allow_nan=allow_nan) + "\n"
        FileSystem().replace_file(path, text.encode(), durable=False)
    except OSError as error:
        raise OptionError(
            f"{path} could not be written: {error.strerror}. Free some space, or choose another "
            "place."
        ) from error


# --- losses -------------------------------------------------------------------------------------


def reference(results: Sequence[Result]) -> Result | None:
    """Whose losses the others are compared with: NumPy's, or else the first backend's."""
    good = succeeded(results)
    return next((r for r in good if r["backend"] == REFERENCE_BACKEND), good[0] if good else None)


def loss_difference(result: Result, other: Result) -> float:
    """max|a - b| / max|b| over the steps that both ran."""
    pairs = list(zip(result["losses"], other["losses"], strict=False))
    largest = max(abs(b) for _, b in pairs)
    difference = max(abs(a - b) for a, b in pairs)
    return float(difference / largest if largest else difference)


# --- tables -------------------------------------------------------------------------------------


def print_header(console: Console, environment: Mapping[str, Any], settings: Settings) -> None:
    """What runs, and on what."""
    w = settings.workload()
    name = w["model"] + (f" ({w['variant']})" if w["variant"] else "")
    shape = "x".join(map(str, w["input_shape"]))
    width = "" if w["width"] == 1.0 else f", width {w['width']:g}"
    memory = environment["memory_bytes"]
    commit = f" at {environment['commit']}" if environment["commit"] else ""
    lines = [
        f"{name}, {w['mode']}, batch {w['batch_size']} of {shape}{width}, {w['precision']}, "
        f"seed {settings.seed}",
        f"{environment['cpu']}, {environment['threads']} threads"
        + (f", {memory / 2**30:.0f} GiB" if memory else ""),
        f"accelkit {environment['accelkit']}{commit}, Python {environment['python']}, "
        f"numpy {environment['versions']['numpy']}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def new_table(title: str | None, columns: Sequence[str]) -> Table:
    """A table whose first column is text and whose others are figures."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        is_text = position == 0
        table.add_column(column, justify="left" if is_text else "right", no_wrap=is_text)
    return table


def print_results(
    console: Console, results: Sequence[Result], devices: Mapping[str, Mapping[str, Any]]
) -> None:
    """One row per backend, then how memory was read, the reference, and what failed."""
    chosen = reference(results)
    columns = ("device", "compile s", "step ms", "IQR", "p95", "images/s", "GFLOP/s", "peak MiB")
    table = new_table(None, (*columns, "first loss", "last loss", "difference"))
    for result in results:
        table.add_row(*_cells(result, chosen))
    console.print(table)
    for line in _footnotes(results, chosen, devices):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _cells(result: Result, chosen: Result | None) -> list[str]:
    if result["error"] is not None or chosen is None:
        return [result["device"], "failed"]
    times, losses = result["step_time_s"], result["losses"]
    memory = result["peak_memory_bytes"]
    is_reference = result is chosen
    return [
        result["device"],
        f"{result['compile_time_s']:.2f}",
        *(_milliseconds(times[name]) for name in ("median", "iqr", "p95")),
        _figure(result["throughput_images_per_s"]),
        _figure(result["flops_per_step"] / times["median"] / 1e9),
        "unknown" if memory is None else f"{memory / 2**20:,.0f}",
        f"{losses[0]:.5f}",
        f"{losses[-1]:.5f}",
        "reference" if is_reference else f"{loss_difference(result, chosen):.1e}",
    ]


def _milliseconds(seconds: float) -> str:
    return _figure(seconds * 1e3)


def _figure(value: float) -> str:
    """About three or four digits that count."""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def _footnotes(
    results: Sequence[Result],
    chosen: Result | None,
    devices: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    lines = []
    for result in succeeded(results):
        found = devices.get(result["device"])
        about = f"{found['description']} ({found['driver']}), " if found else ""
        steps = len(result["step_time_s"]["samples"])
        lines.append(
            f"{result['device']}: {about}{steps} timed steps; peak memory: "
            f"{result['peak_memory_method']}"
        )
    if chosen is not None:
        lines.append(
            f"difference: max|a - b| / max|b| of the loss curve against {chosen['device']}, over "
            f"the steps that both ran, warm-up included."
        )
    lines += [f"{r['device']} FAILED: {r['error']}" for r in results if r["error"] is not None]
    return lines


# --- profiles -----------------------------------------------------------------------------------


def print_profile(console: Console, found: Mapping[str, Any]) -> None:
    """Time per layer and per primitive, and what these figures mean."""
    nodes = found["nodes"]
    total = sum(node["duration_s"] for node in nodes)
    by_primitive = group(nodes, "primitive")
    ranked = dict(sorted(by_primitive.items(), key=lambda item: -item[1]["total"]))
    for kind, rows in (("layer", group(nodes, "layer")), ("primitive", ranked)):
        columns = (kind, "count", *(f"{phase} ms" for phase in PHASES), "total ms", "share")
        title = f"{found['device']}: time per {kind}"
        table = new_table(title, (*columns, "GFLOP/s", "GB/s"))
        for name, row in _without_small(rows, total).items():
            label = name or "(loss, metrics and numbers)"
            times = [_milliseconds(row[key]) if row[key] else "" for key in (*PHASES, "total")]
            rates = [_rate(row[key], row["total"]) for key in ("flops", "traffic_bytes")]
            table.add_row(label, str(row["count"]), *times, f"{row['total'] / total:.1%}", *rates)
        console.print(table)
    console.print(_explanation(found, total), highlight=False, markup=False, soft_wrap=True)


def _without_small(rows: Mapping[str, Result], total: float) -> dict[str, Result]:
    """The rows, those that hardly count summed up in one last row."""
    small = [name for name, row in rows.items() if row["total"] < _SMALL_SHARE * total]
    if len(small) < 2:
        return dict(rows)
    kept = {name: row for name, row in rows.items() if name not in small}
    others = {key: sum(rows[name][key] for name in small) for key in rows[small[0]]}
    return {**kept, f"({len(small)} others)": others}


def _rate(amount: float, seconds: float) -> str:
    return _figure(amount / seconds / 1e9) if seconds and amount else ""


def _explanation(found: Mapping[str, Any], total: float) -> str:
    compiled = found["compiled_step_s"]
    return (
        f"Each of the {len(found['nodes'])} primitives of the prepared graph ran alone and was "
        f"waited for (median of {found['passes']}): nothing was fused, overlapped or updated in "
        f"place, as the compiled step may do. Their sum is {total * 1e3:,.1f} ms, the compiled "
        f"step takes {compiled * 1e3:,.1f} ms ({compiled / total:.2f} of it). A wait by itself "
        f"costs {found['synchronize_s'] * 1e6:,.1f} us; dispatch is included too, so small "
        f"primitives look dearer than they are."
    )
