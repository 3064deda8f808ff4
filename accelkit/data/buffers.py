"""Memory of batches that is used again once nobody holds the batch any more.

Fresh memory costs about as much as the copy into it: the system clears every page when it is
first touched. A batch's pixels are large enough for that to halve the speed of packed data.
"""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any

import numpy as np

from accelkit.data.records import Array

__all__ = ["BufferPool"]

_SMALL_BYTES = 1 << 18  # below this malloc keeps the memory anyway


class BufferPool:
    """Makes uninitialised arrays in recycled memory.

    An array's memory comes back when the array and every view of it are gone, whoever held them,
    so that an array stays valid for as long as it is held.

    Args:
        spare: How many unused blocks of memory to hold; the oldest are freed.
    """

    def __init__(self, spare: int = 4) -> None:
        self._spare = spare
        self._blocks: list[memoryview] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array with arbitrary content."""
        size = math.prod(shape) * dtype.itemsize
        if size < _SMALL_BYTES:
            return np.empty(shape, dtype)
        block = self._take(size)
        # Views of views name this array as their base, because its own base is no array (but
        # the memoryview): it lives exactly as long as anything that looks at the block.
        whole = np.frombuffer(block, np.uint8)
        weakref.finalize(whole, _give_back, weakref.ref(self), block).atexit = False
        return whole.view(dtype).reshape(shape)

    def _take(self, size: int) -> memoryview:
        with self._lock:
            for number, block in enumerate(self._blocks):
                if len(block) == size:
                    return self._blocks.pop(number)
        return np.empty(size, np.uint8).data  # NumPy asks for huge pages

    def put(self, block: memoryview) -> None:
        """Take a block back."""
        with self._lock:
            self._blocks.append(block)
            del self._blocks[: -self._spare]


def _give_back(pool: weakref.ref[BufferPool], block: memoryview) -> None:
    if (alive := pool()) is not None:
        alive.put(block)
