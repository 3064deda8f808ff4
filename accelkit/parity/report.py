"""The table and the JSON of a training comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from accelkit.bench.settings import Settings
from accelkit.parity.tolerances import TrainingBounds
from accelkit.parity.training import Comparison, Worst

__all__ = ["SCHEMA_VERSION", "WORST", "failures", "print_report", "to_json"]

SCHEMA_VERSION = 3
WORST = ("loss", "gradient", "weight", "free_loss", "free_weight", "parted_loss")


class _Compared(NamedTuple):
    """One line of the table."""

    what: str
    worst: Worst
    bound: float | None


def _compared(found: Comparison, bounds: TrainingBounds) -> list[_Compared]:
    lines = [
        _Compared("losses", found.loss, bounds.losses),
        _Compared("gradients", found.gradient, bounds.gradients),
        _Compared("final weights", found.weight, bounds.weights),
    ]
    if found.parted is None:
        return [
            *lines,
            _Compared("free losses", found.free_loss, bounds.losses),
            _Compared("free weights", found.free_weight, bounds.weights),
        ]
    lines.append(_Compared("free losses to first flip", found.free_loss, bounds.losses))
    if found.parted_loss.tensor:
        lines.append(_Compared("free losses after it", found.parted_loss, None))
    return lines


def failures(found: Comparison, bounds: TrainingBounds) -> list[str]:
    """What is wrong with a backend; empty if it agrees."""
    if found.error:
        return [found.error]
    return [
        f"{what} deviate by {worst.deviation:.2e}, the bound is {bound:.0e}"
        for what, worst, bound in _compared(found, bounds)
        if bound is not None and not worst.deviation <= bound
    ]


def _rows(found: Comparison, bounds: TrainingBounds) -> list[list[str]]:
    """Rows of the table: what, deviation, bound, worst tensor, step."""
    if found.error:
        return [["[bold red]failed[/]", "", "", "", ""]]
    rows = []
    for what, worst, bound in _compared(found, bounds):
        agrees = bound is None or worst.deviation <= bound
        colour = "green" if agrees else "bold red"
        limit = "-" if bound is None else f"{bound:.0e}"
        tensor, step = worst.tensor or "-", str(worst.step) if worst.tensor else "-"
        rows.append([what, f"[{colour}]{worst.deviation:.1e}[/]", limit, tensor, step])
    for kind, flips in found.flips.items():
        rows.append([f"{kind} flips", str(flips.differ), "-", f"of {flips.total}", ""])
    return rows


def print_report(
    settings: Settings,
    comparisons: Sequence[Comparison],
    oracle_losses: Sequence[float],
    missing: Mapping[str, str],
    bounds: TrainingBounds,
) -> None:
    """Print one row per backend, and what is wrong."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=False)
    variant = settings.resolved_variant()
    model = f"{settings.model}{f' ({variant})' if variant else ''}"
    console.print(
        f"{model}, {settings.precision}, batch {settings.batch_size}, {settings.steps} steps, "
        f"seed {settings.seed}. Oracle: numpy, float64."
    )
    if oracle_losses:
        console.print(f"Oracle's loss: {oracle_losses[0]:.6f} first, {oracle_losses[-1]:.6f} last.")
    table = Table("device", "compared", "deviation", "bound", "worst tensor", "step")
    for found in comparisons:
        for index, row in enumerate(_rows(found, bounds)):
            table.add_row("" if index else found.device or found.backend, *row)
        table.add_section()
    console.print(table)
    console.print(
        "Deviation of a tensor: max|a-b| / max|b|. Steps count from 0. Flips: max-pool winners and "
        "ReLU signs that rounding decides otherwise. Losses, gradients and final weights are those "
        "of runs on the oracle's branches; the free run takes its own, and its first flip makes it "
        "another run.",
        highlight=False,
    )
    for name, why in missing.items():
        console.print(f"{name} was left out: {why}", markup=False)
    for found in comparisons:
        for problem in failures(found, bounds):
            console.print(f"{found.device or found.backend}: {problem}", markup=False)


def to_json(
    settings: Settings,
    comparisons: Sequence[Comparison],
    oracle_losses: Sequence[float],
    missing: Mapping[str, str],
    bounds: TrainingBounds,
) -> dict[str, Any]:
    """Everything measured, as plain values."""
    results = []
    for found in comparisons:
        entry = asdict(found)
        for key in WORST:
            entry[key] = getattr(found, key)._asdict()
        entry["flips"] = {kind: flips._asdict() for kind, flips in found.flips.items()}
        results.append({**entry, "failures": failures(found, bounds)})
    return {
        "schema_version": SCHEMA_VERSION,
        "workload": settings.workload(),
        "steps": settings.steps,
        "seed": settings.seed,
        "bounds": bounds._asdict(),
        "oracle_losses": list(oracle_losses),
        "results": results,
        "unavailable": dict(missing),
    }
