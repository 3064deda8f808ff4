"""Copies between host and device, on a queue of their own, so that kernels run meanwhile.

Where the device shares the host's memory, a buffer is mapped and copied into. Where it does not,
data goes through a ring of pinned staging buffers: a copy into the next free slot, then a
transfer that nobody waits for. In both cases ``upload`` returns when the host array may be
changed, and the next program that reads the buffer waits for it on the device.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyopencl as cl

from accelkit_opencl.memory import Block

__all__ = ["MappedTransfers", "StagedTransfers", "Transfers"]

SLOT_BYTES = 4 << 20
SLOTS = 4


class Transfers(Protocol):
    """Copies between host arrays and blocks of device memory."""

    def upload(self, block: Block, array: np.ndarray) -> None:
        """Copy an array to the start of a block.

        Does not wait for kernels, but for those that may still use a block from the pool.
        ``array`` may be changed afterwards.
        """
        ...

    def download(self, block: Block, array: np.ndarray) -> None:
        """Copy the start of a block to an array, once its content has been computed."""
        ...


class MappedTransfers:
    """Copies through mapped memory.

    Args:
        queue: A queue for transfers alone.
    """

    def __init__(self, queue: cl.CommandQueue) -> None:
        self._queue = queue

    def upload(self, block: Block, array: np.ndarray) -> None:
        """Copy an array to the start of a block."""
        view = self._map(
            block, cl.map_flags.WRITE_INVALIDATE_REGION, array, block.free_for_transfer()
        )
        view[...] = array
        block.uploaded = view.base.release(self._queue)
        self._queue.flush()

    def download(self, block: Block, array: np.ndarray) -> None:
        """Copy the start of a block to an array, once its content has been computed."""
        view = self._map(block, cl.map_flags.READ, array, block.filled())
        array[...] = view
        view.base.release(self._queue)

    def _map(
        self, block: Block, flags: int, like: np.ndarray, after: Sequence[cl.Event]
    ) -> np.ndarray:
        view: np.ndarray = self.map(block, flags, like.shape, like.dtype, after)
        return view

    def map(
        self,
        block: Block,
        flags: int,
        shape: tuple[int, ...],
        dtype: Any,
        after: Sequence[cl.Event],
    ) -> Any:
        """A host array of a block's memory; its base ends the mapping when released."""
        view, _ = cl.enqueue_map_buffer(
            self._queue, block.buffer, flags, 0, shape, dtype, wait_for=after, is_blocking=True
        )
        return view


class _Slot:
    """One pinned buffer, mapped for good, and the transfer that uses it."""

    def __init__(self, context: cl.Context, queue: cl.CommandQueue, size_bytes: int) -> None:
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.ALLOC_HOST_PTR
        self.buffer = cl.Buffer(context, flags, size_bytes)
        access = cl.map_flags.READ | cl.map_flags.WRITE
        self.memory, _ = cl.enqueue_map_buffer(
            queue, self.buffer, access, 0, (size_bytes,), np.uint8, is_blocking=True
        )
        self.busy: cl.Event | None = None

    def wait(self) -> None:
        """Until its last transfer is done."""
        if self.busy is not None:
            self.busy.wait()
            self.busy = None


class _Ring:
    """Slots used in turn. Pinned memory is taken when it is needed first."""

    def __init__(self, context: cl.Context, queue: cl.CommandQueue, slot_bytes: int) -> None:
        self._context, self._queue, self.slot_bytes = context, queue, slot_bytes
        self._slots: list[_Slot] = []
        self._next = 0
        self.lock = threading.Lock()

    def take(self) -> _Slot:
        """The next slot, once its last transfer is done."""
        if len(self._slots) < SLOTS:
            self._slots.append(_Slot(self._context, self._queue, self.slot_bytes))
            return self._slots[-1]
        slot = self._slots[self._next]
        self._next = (self._next + 1) % SLOTS
        slot.wait()
        return slot


class StagedTransfers:
    """Copies through pinned staging buffers.

    Args:
        context: Of the device.
        queue: A queue for transfers alone.
        slot_bytes: Size of one staging buffer.
    """

    def __init__(
        self, context: cl.Context, queue: cl.CommandQueue, slot_bytes: int = SLOT_BYTES
    ) -> None:
        self._queue = queue
        self._up = _Ring(context, queue, slot_bytes)
        self._down = _Ring(context, queue, slot_bytes)

    def upload(self, block: Block, array: np.ndarray) -> None:
        """Copy an array to the start of a block; the last slots are still on their way."""
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        after = block.free_for_transfer()
        with self._up.lock:
            for start, stop in _pieces(source.size, self._up.slot_bytes):
                slot = self._up.take()
                staged = slot.memory[: stop - start]
                staged[...] = source[start:stop]
                slot.busy = block.uploaded = cl.enqueue_copy(
                    self._queue,
                    block.buffer,
                    staged,
                    dst_offset=start,
                    is_blocking=False,
                    wait_for=after,
                )
                self._queue.flush()
                after = []

    def download(self, block: Block, array: np.ndarray) -> None:
        """Copy the start of a block to a contiguous array, once it has been computed."""
        target = array.reshape(-1).view(np.uint8)
        after = block.filled()
        with self._down.lock:
            waiting: list[tuple[_Slot, int, int]] = []
            for start, stop in _pieces(target.size, self._down.slot_bytes):
                if len(waiting) == SLOTS:
                    _copy_out(*waiting.pop(0), target)
                slot = self._down.take()
                slot.busy = cl.enqueue_copy(
                    self._queue,
                    slot.memory[: stop - start],
                    block.buffer,
                    src_offset=start,
                    is_blocking=False,
                    wait_for=after,
                )
                self._queue.flush()
                after = []
                waiting.append((slot, start, stop))
            for piece in waiting:
                _copy_out(*piece, target)


def _copy_out(slot: _Slot, start: int, stop: int, target: np.ndarray) -> None:
    slot.wait()
    target[start:stop] = slot.memory[: stop - start]


def _pieces(size: int, most: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, most):
        yield start, min(start + most, size)
