"""``python -m accelkit.plot LOG...``: curves of several runs or backends in one picture."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelkit.command_line import positive
from accelkit.errors import AccelkitError, OptionError
from accelkit.training.logs import read_log
from accelkit.training.options import HelpFormatter

__all__ = ["curve", "main", "running_mean"]

# The colours of Okabe and Ito, which colour-blind readers can tell apart.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: 0 on success, 2 for what cannot be drawn, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        draw(options)
    except AccelkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accelkit.plot",
        description="Draw the curves of several runs.",
        epilog="exit status: 0 drawn; 2 bad options, or a log that cannot be read; 130 interrupted",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "logs", metavar="[NAME=]LOG", nargs="+", help="a --log-dir, or its log.jsonl"
    )
    add = parser.add_argument
    add("--output", "-o", default="curves.png", metavar="PATH", help=".png, .svg or .pdf")
    add(
        "--metrics",
        nargs="+",
        default=["loss", "top1"],
        metavar="NAME",
        help="one panel for each (default: loss top1)",
    )
    add(
        "--smooth",
        type=positive,
        default=1,
        metavar="N",
        help="draw the mean of the last N values of a training curve",
    )
    add("--title", default="", metavar="TEXT", help="above the panels")
    return parser


def draw(options: argparse.Namespace) -> None:
    """Draw the picture.

    Raises:
        OptionError: if a log cannot be read, a metric is in none of them, Matplotlib is not
            installed, or the picture cannot be written.
    """
    logs = [_named(text) for text in options.logs]
    figure, panels = _figure(len(options.metrics))
    for metric, axes in zip(options.metrics, panels, strict=True):
        found = False
        for number, (name, records) in enumerate(logs):
            color = _COLORS[number % len(_COLORS)]
            # The first lines are the widest, so that coinciding curves all stay visible.
            width = 1.2 + 1.8 * (len(logs) - 1 - number)
            steps, values = curve(records, metric, evaluation=False)
            values = running_mean(values, options.smooth)
            axes.plot(steps, values, color=color, linewidth=width, alpha=0.8, label=name)
            tested_steps, tested = curve(records, metric, evaluation=True)
            dots = {"markersize": 4, "linewidth": 1, "zorder": 3}  # before all the wide lines
            axes.plot(tested_steps, tested, "o--", color=color, **dots)
            found |= bool(values or tested)
        if not found:
            names = sorted({key for _, records in logs for r in records for key in r})
            raise OptionError(f"No log has the metric {metric!r}. They have: {', '.join(names)}.")
        axes.set(xlabel="step", ylabel=metric)
        axes.grid(alpha=0.3)
    panels[0].legend(title="dots: evaluation" if _any_evaluation(logs) else None, frameon=False)
    figure.suptitle(options.title)
    output = Path(options.output)
    if not output.suffix:
        output = output.with_name(f"{output.name}.png")  # what Matplotlib takes it for
    try:
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"The picture {output} cannot be written: {reason}.") from error
    print(output)


def _named(text: str) -> tuple[str, list[dict[str, Any]]]:
    name, equals, path = text.partition("=")
    if equals and not path:
        raise OptionError(f"{text!r} names no log. Expected NAME=LOG, or LOG alone.")
    if not equals:
        name, path = Path(text).name, text
    return name, read_log(path)


def curve(
    records: list[dict[str, Any]], metric: str, *, evaluation: bool
) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, of training or of evaluation."""
    chosen = [
        (record["step"], (record.get("evaluation", {}) if evaluation else record).get(metric))
        for record in records
        if ("evaluation" in record) == evaluation
    ]
    present = [(step, value) for step, value in chosen if value is not None]
    return [step for step, _ in present], [value for _, value in present]


def running_mean(values: Sequence[float], count: int) -> list[float]:
    """The mean of the last ``count`` values at each place, of fewer at the first ones."""
    windows = (values[max(0, stop - count) : stop] for stop in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _any_evaluation(logs: list[tuple[str, list[dict[str, Any]]]]) -> bool:
    return any("evaluation" in record for _, records in logs for record in records)


def _figure(panels: int) -> tuple[Any, list[Any]]:
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise OptionError(
            "Plots need Matplotlib, which is not installed: pip install 'accelkit[plot]'."
        ) from error
    figure = figures.Figure(figsize=(5.5 * panels, 4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    return figure, list(axes)
