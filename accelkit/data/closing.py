"""What everything with threads or processes shares: ``with`` closes it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

__all__ = ["Closing"]


class Closing:
    """A context manager that closes itself at the end of the block."""

    def close(self) -> None:
        """Stop threads and processes; subclasses say which."""
        raise NotImplementedError(f"{type(self).__name__} does not define close().")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
