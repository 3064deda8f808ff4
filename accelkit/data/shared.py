"""Arrays from one process to another through a block of shared memory with a name of ours.

The reader copies the arrays out and frees the block at once, so that no array outlives its
block. Names are chosen by the reader's side, so that it can free blocks whose writer was killed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from accelkit.data.records import Array

__all__ = ["SharedArrays", "free"]

_ALIGNMENT = 64


@dataclass(frozen=True)
class SharedArrays:
    """Where arrays lie in a block: dtype and shape of each, one after the other.

    Attributes:
        name: The block's name.
        forms: dtype and shape of each array.
    """

    name: str
    forms: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...]

    @classmethod
    def write(cls, name: str, arrays: Sequence[Array]) -> SharedArrays:
        """Create the block and copy the arrays into it."""
        shared = cls(name, tuple((array.dtype, array.shape) for array in arrays))
        block = SharedMemory(name, create=True, size=max(1, shared._offsets()[-1]))
        try:
            for view, array in zip(shared._views(block), arrays, strict=True):
                view[...] = array
        finally:
            block.close()
        return shared

    def take(self) -> list[Array]:
        """Copy the arrays out and free the block."""
        block = SharedMemory(self.name)
        try:
            return [view.copy() for view in self._views(block)]
        finally:
            block.close()
            block.unlink()

    def _offsets(self) -> list[int]:
        offsets = [0]
        for dtype, shape in self.forms:
            size = dtype.itemsize * math.prod(shape)
            offsets.append(offsets[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
        return offsets

    def _views(self, block: SharedMemory) -> list[Array]:
        return [
            np.ndarray(shape, dtype, block.buf, offset)
            for (dtype, shape), offset in zip(self.forms, self._offsets(), strict=False)
        ]


def free(name: str) -> None:
    """Free the block of that name, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        block = SharedMemory(name)
        block.close()
        block.unlink()
