"""What a run shows: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from accelkit.training.speed import Speed

__all__ = ["Display", "Progress", "make_display"]

_LINE_INTERVAL_S: Final = 5.0  # where there is no terminal


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
        speed: Throughput, waits and bottleneck; None until it is known.
        memory: Memory in use, and how it was read.
        skipped: Images that could not be read.
        remaining_s: Estimated time left; None until it is known.
        is_final: Whether the run is over.
    """

    epoch: int = 1
    epochs: int = 1
    step: int = 0
    steps: int = 1
    values: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    speed: Speed | None = None
    memory: str = ""
    skipped: int = 0
    remaining_s: float | None = None
    is_final: bool = False

    def speed_text(self) -> str:
        """Throughput, waits and bottleneck in one line."""
        if self.speed is None:
            return ""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.speed.shares.items())
        return (
            f"{self.speed.images_per_s:.1f} images/s ({shares}, limited by {self.speed.bottleneck})"
        )

    def remaining_text(self) -> str:
        """The time left, hours:minutes:seconds."""
        return "" if self.remaining_s is None else f"{_duration(self.remaining_s)} left"


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
    """One line every few seconds, and all messages."""

    def __init__(self) -> None:
        self._last = 0.0

    def update(self, progress: Progress) -> None:
        """Print a line if the last one is old enough, or the run is over."""
        now = time.monotonic()
        if now - self._last < _LINE_INTERVAL_S and not progress.is_final:
            return
        self._last = now
        parts = (
            _figures(progress.values),
            progress.speed_text(),
            progress.memory,
            f"{progress.skipped} skipped" if progress.skipped else "",
            progress.remaining_text(),
        )
        print(
            f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.steps}  "
            + "  ".join(filter(None, parts)),
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
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        rows = {
            "training": _figures(progress.values),
            "evaluation": _figures(progress.evaluation),
            "speed": progress.speed_text(),
            "memory": progress.memory,
            "skipped": f"{progress.skipped} images" if progress.skipped else "",
        }
        for name, text in rows.items():
            if text:
                table.add_row(Text(name, style="bold"), Text(text))
        return table

    def message(self, text: str) -> None:
        """Print it above the table."""
        from rich.text import Text

        self._live.console.print(Text(text))

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
