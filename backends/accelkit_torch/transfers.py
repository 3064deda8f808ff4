"""Copies from the host on a stream of their own, through pinned memory, beside computing.

A copy from pageable memory makes the host wait, and one on the computing stream makes the
kernels wait. Here an array is first copied to pinned memory, which the device can read by itself,
then sent on a second stream; only what uses the array is ordered after it. The pinned blocks are
few: when the device falls behind, the next upload waits for one, and not for memory to run out.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from accelkit_torch.dtypes import FROM_NUMPY

__all__ = ["CopyStream", "Driver", "DriverCalls"]

BLOCKS = 3  # one being filled, one being sent, one waiting
"""Pinned blocks for each size of array."""

MOST_SIZES = 8


class DriverCalls(Protocol):
    """What a copy stream needs of a device; a fake of it can stand in for a device."""

    def stream(self) -> Any:
        """A new stream."""

    def event(self) -> Any:
        """A new event."""

    def within(self, stream: Any) -> Any:
        """A context in which copies go to the stream."""

    def current_stream(self) -> Any:
        """The stream that this thread computes on."""

    def pinned(self, size_bytes: int) -> Tensor:
        """uint8 host memory that the device can read by itself."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor on the device."""


class Driver:
    """The calls of torch for a device that has streams.

    Args:
        device: The device, of the kind ``"cuda"`` or ``"xpu"``.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module: Any = getattr(torch, device.type)

    def stream(self) -> Any:
        """A new stream of the device."""
        return self._module.Stream(self._device)

    def event(self) -> Any:
        """A new event."""
        return self._module.Event()

    def within(self, stream: Any) -> Any:
        """A context in which work goes to the stream."""
        return self._module.stream(stream)

    def current_stream(self) -> Any:
        """The stream of this thread's computations."""
        return self._module.current_stream(self._device)

    def pinned(self, size_bytes: int) -> Tensor:
        """Page-locked host memory."""
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor, from the allocator's share of the current stream."""
        return torch.empty(shape, dtype=dtype, device=self._device)


class _Block(NamedTuple):
    memory: Tensor
    sent: Any  # the event after its last copy


class CopyStream:
    """Uploads to one device; may be used from several threads.

    Args:
        driver: The device.
    """

    def __init__(self, driver: DriverCalls) -> None:
        self._driver = driver
        self._stream = driver.stream()
        self._blocks: collections.OrderedDict[int, collections.deque[_Block]] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def upload(self, array: np.ndarray) -> Callable[[], Tensor]:
        """Start to copy an array to the device.

        Args:
            array: May be changed as soon as this returns.

        Returns:
            Gives the tensor; to be called once, in the thread that will use it. Whatever that
            thread's stream computes afterwards comes after the copy.
        """
        dtype = FROM_NUMPY[array.dtype]
        with self._lock:
            memory = self._free_block(array.nbytes)
            staged = memory[: array.nbytes].numpy().view(array.dtype).reshape(array.shape)
            np.copyto(staged, array)
            event = self._driver.event()
            with self._driver.within(self._stream):
                result = self._driver.empty(array.shape, dtype)
                source = memory[: array.nbytes].view(dtype).reshape(array.shape)
                result.copy_(source, non_blocking=True)
                event.record(self._stream)
            self._blocks[memory.numel()].append(_Block(memory, event))

        def use() -> Tensor:
            stream = self._driver.current_stream()
            stream.wait_event(event)
            result.record_stream(stream)  # or the copy stream would reuse its memory too early
            return result

        return use

    def _free_block(self, size: int) -> Tensor:
        """A pinned block that no copy reads from any more."""
        blocks = self._blocks.setdefault(size, collections.deque())
        self._blocks.move_to_end(size)
        while len(self._blocks) > MOST_SIZES:
            for block in self._blocks.popitem(last=False)[1]:
                block.sent.synchronize()
        if len(blocks) < BLOCKS and not (blocks and blocks[0].sent.query()):
            return self._driver.pinned(size)
        oldest = blocks.popleft()
        oldest.sent.synchronize()
        return oldest.memory
