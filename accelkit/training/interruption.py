"""SIGINT and SIGTERM ask a run to stop at the next step; a second one stops it at once."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interruption"]


class Interruption:
    """While entered, remembers the first signal instead of dying of it.

    Attributes:
        signal_number: The signal that came, None if none did.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            os._exit(128 + number)  # what was saved is complete; what is being saved is not needed
        self.signal_number = number
        name = signal.Signals(number).name
        print(f"\n{name}: stopping after this step; a second signal stops at once", file=sys.stderr)

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
