"""What a run shows: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["Display", "Progress", "make_display"]


@dataclass
class Progress:
    """The figures of a run at one moment.

    Attributes:
        epoch: The current epoch, from 1.
        epochs: How many there are to be.
        step: Steps done.
        steps: How many there are to be.
        values: The last training metrics.
        evaluation: The last evaluation's metrics.
        images_per_s: Training throughput since the run began or was resumed.
        shares: Share of the time in which the step waited for data or for transfers, or computed.
        bottleneck: What makes the run as slow as it is.
        memory: Memory in use, and how it was read.
        skipped: Images that could not be read.
        remaining_s: Estimated time left.
        is_final: Whether the run is over.
    """

    epoch: int = 1
    epochs: int = 1
    step: int = 0
    steps: int = 1
    values: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    images_per_s: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    bottleneck: str = ""
    memory: str = ""
    skipped: int = 0
    remaining_s: float = 0.0
    is_final: bool = False

    def speed(self) -> str:
        """Throughput, waits and bottleneck in one line."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        limit = f", limited by {self.bottleneck}" if self.bottleneck else ""
        return f"{self.images_per_s:.1f} images/s ({shares}{limit})"


class Display(Protocol):
    """Shows progress."""

    def update(self, progress: Progress) -> None:
        """Show the figures; called often, shown when it is time."""

    def message(self, text: str) -> None:
        """Show a line that stays."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class _Silent:
    def update(self, progress: Progress) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing to do."""


class _Plain:
    """One line whenever ``interval_s`` has passed, and all messages."""

    def __init__(self, interval_s: float = 5.0) -> None:
        self._interval_s = interval_s
        self._last = 0.0

    def update(self, progress: Progress) -> None:
        """Print a line if the last one is old enough, or the run is over."""
        now = time.monotonic()
        if now - self._last < self._interval_s and not progress.is_final:
            return
        self._last = now
        skipped = f"  {progress.skipped} skipped" if progress.skipped else ""
        print(
            f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.steps}  "
            f"{_figures(progress.values)}  {progress.speed()}  {progress.memory}{skipped}  "
            f"{_duration(progress.remaining_s)} left",
            flush=True,
        )

    def message(self, text: str) -> None:
        """Print it."""
        print(text, flush=True)

    def close(self) -> None:
        """Nothing to do."""


class _Live:
    """A table and a bar that stay in place."""

    def __init__(self) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("steps", total=None)
        self._live = Live(self._bar, refresh_per_second=4)
        self._live.start()

    def update(self, progress: Progress) -> None:
        """Draw the table anew."""
        from rich.console import Group

        self._bar.update(
            self._task,
            description=f"epoch {progress.epoch}/{progress.epochs}",
            completed=progress.step,
            total=progress.steps,
        )
        self._live.update(Group(self._table(progress), self._bar))

    @staticmethod
    def _table(progress: Progress) -> Any:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        rows = {
            "training": _figures(progress.values),
            "evaluation": _figures(progress.evaluation),
            "speed": progress.speed(),
            "memory": progress.memory,
            "skipped": f"{progress.skipped} images" if progress.skipped else "",
        }
        for name, text in rows.items():
            if text:
                table.add_row(f"[bold]{name}[/bold]", text)
        return table

    def message(self, text: str) -> None:
        """Print it above the table."""
        self._live.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing."""
        self._live.stop()


def make_display(kind: Literal["auto", "rich", "plain", "none"]) -> Display:
    """The display of that kind; ``auto`` is ``rich`` on a terminal, else ``plain``."""
    if kind == "none":
        return _Silent()
    if kind == "rich" or (kind == "auto" and sys.stdout.isatty()):
        return _Live()
    return _Plain()


def _figures(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
