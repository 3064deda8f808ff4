"""Showing how far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["Progress", "progress"]

_LEAST_INTERVAL_S: Final = 2.0  # between two lines about steps


class Progress(Protocol):
    """Is told what happens."""

    def begin(self, device: str, steps: int) -> None:
        """A backend's turn begins; it will run about ``steps`` steps."""

    def stage(self, text: str) -> None:
        """It does something other than steps."""

    def step(self, event: dict[str, Any]) -> None:
        """It has done a step: ``number``, ``seconds``, ``loss``, ``timed``."""

    def end(self, text: str) -> None:
        """Its turn is over."""


class _Lines:
    """One line per event, steps not more often than every two seconds."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._position = 0
        self._device = ""
        self._last = 0.0

    def _print(self, text: str) -> None:
        line = f"[{self._position}/{self._count}] {self._device}: {text}"
        print(line, file=sys.stderr, flush=True)

    def begin(self, device: str, steps: int) -> None:
        self._position += 1
        self._device = device
        self._last = 0.0

    def stage(self, text: str) -> None:
        self._print(text)

    def step(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last >= _LEAST_INTERVAL_S:
            self._last = now
            self._print(_describe(event))

    def end(self, text: str) -> None:
        self._print(text)


class _Bars:
    """One bar per backend."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._device = ""

    def _show(self, text: str, advance: float = 0) -> None:
        assert self._task is not None
        self._bar.update(self._task, advance=advance, text=text)

    def begin(self, device: str, steps: int) -> None:
        self._device = device
        self._task = self._bar.add_task(device, total=steps, text="")

    def stage(self, text: str) -> None:
        self._show(text)

    def step(self, event: dict[str, Any]) -> None:
        self._show(_describe(event), advance=1)

    def end(self, text: str) -> None:
        assert self._task is not None
        done = self._bar.tasks[self._task].completed
        self._bar.update(self._task, total=max(done, 1), completed=max(done, 1), text=text)


def _describe(event: dict[str, Any]) -> str:
    kind = "step" if event["timed"] else "warm-up step"
    return f"{kind} {event['number']}, {event['seconds'] * 1e3:,.1f} ms, loss {event['loss']:.5f}"


@contextlib.contextmanager
def progress(count: int) -> Iterator[Progress]:
    """A progress display on standard error for ``count`` backends."""
    if not sys.stderr.isatty():
        yield _Lines(count)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bars(bar)
