"""Dropout's keys in a compiled step: a table that comes in with every batch."""

from __future__ import annotations

from accelkit.primitives.shaping import reshape, slice_
from accelkit.random.stream import Stream
from accelkit.tensor import Tensor

__all__ = ["SiteStream"]


class SiteStream(Stream):
    """Keys as rows of one graph input; remembers which place each row belongs to.

    Row 0 holds the step number. How many rows there are is known when the trace ends.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__(0)
        self.table = table
        self.sites: dict[tuple[str, int], int] = {}

    def restart(self) -> None:
        """Give the keys from the beginning again, to the next micro-batch."""
        self._ordinals.clear()

    def _row(self, index: int) -> Tensor:
        row = slice_(self.table, start=(index, 0), stop=(index + 1, 2), step=(1, 1))
        return reshape(row, shape=(2,))

    def key(self, path: str = "") -> Tensor:
        """The key of the next call at this place."""
        row = self.sites.setdefault(self._site(path), len(self.sites) + 1)
        return self._row(row)
