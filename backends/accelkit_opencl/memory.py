"""Device memory: buffers with what must be over before they are touched, a pool and its ledger.

Kernels run on one in-order queue and transfers on another. A buffer that is freed while kernels
still use it can be given to new kernels at once, since they come later in the same queue; a
transfer waits for the last kernel that was queued when the buffer was freed.
"""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pyopencl as cl

from accelkit.errors import OutOfMemoryError
from accelkit_opencl.failures import funnel
from accelkit_opencl.sizes import buffer_bytes

__all__ = ["Allocation", "Block", "Launches", "Memory"]


class Launches:
    """Order on the queue of kernels.

    Attributes:
        lock: Held while kernels of one program are enqueued.
        last: Event of the last command; once it is complete, so are all before it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.last: cl.Event | None = None


class Block:
    """A buffer and the events that its next user may have to wait for.

    Attributes:
        buffer: OpenCL's own buffer object.
        size_bytes: Its size.
        uploaded: Event of the transfer that fills it, until kernels have been made to wait for it.
        computed: Event of the last kernel of the program that filled it.
        used: Event of the last kernel that was queued when it was freed.
        lender: Host memory that the buffer borrows; kept while the device may read it.
    """

    __slots__ = ("buffer", "computed", "lender", "size_bytes", "uploaded", "used")

    def __init__(self, buffer: cl.Buffer, size_bytes: int, lender: np.ndarray | None = None):
        self.buffer = buffer
        self.size_bytes = size_bytes
        self.lender = lender
        self.uploaded: cl.Event | None = None
        self.computed: cl.Event | None = None
        self.used: cl.Event | None = None

    def filled(self) -> list[cl.Event]:
        """Events after which the content is complete."""
        return [event for event in (self.uploaded, self.computed) if event is not None]

    def free_for_transfer(self) -> list[cl.Event]:
        """Events after which nothing queued touches a buffer from the pool."""
        return [event for event in (self.uploaded, self.used) if event is not None]


class Allocation:
    """One block, owned by the arrays and programs that refer to this object."""

    __slots__ = ("__weakref__", "_finalizer", "_view", "block")

    def __init__(self, block: Block, give_back: Callable[[Block], None]) -> None:
        self.block = block
        self._view: weakref.ref[Any] | None = None
        self._finalizer = weakref.finalize(self, give_back, block)
        self._finalizer.atexit = False

    @property
    def buffer(self) -> cl.Buffer:
        """OpenCL's own buffer object."""
        return self.block.buffer

    @property
    def size_bytes(self) -> int:
        """Size of the buffer."""
        return self.block.size_bytes

    @property
    def view(self) -> Any:
        """The host's view of it that somebody holds; None if nobody does."""
        return None if self._view is None else self._view()

    @view.setter
    def view(self, view: Any) -> None:
        self._view = weakref.ref(view)

    @property
    def is_writable(self) -> bool:
        """Whether a program may overwrite it: no memory that the host lends or looks at."""
        return self.block.lender is None and self.view is None

    def free(self) -> None:
        """Return the buffer to the pool now, unless the host looks at it."""
        if self.view is None:
            self._finalizer()


class Memory:
    """A device's memory pool and its ledger.

    Freed buffers are kept and given out again for requests of about their size; they are
    released when the device runs out.

    Args:
        context: In which buffers are made.
        launches: Order on the queue of kernels.
        synchronize: Waits for all queues.
        limit_bytes: Largest buffer of the device.

    Attributes:
        in_use_bytes: Held by live arrays and compiled programs now; borrowed memory of the host
            is not counted.
        peak_bytes: The most since the start or the last reset.
        pooled_bytes: Freed by their owners, kept for reuse.
    """

    def __init__(
        self,
        context: cl.Context,
        launches: Launches,
        synchronize: Callable[[], None],
        limit_bytes: int,
    ) -> None:
        self._context, self._launches = context, launches
        self._synchronize, self._limit = synchronize, limit_bytes
        self._free: dict[int, list[Block]] = defaultdict(list)
        self._lent: list[Block] = []
        self._lock = threading.RLock()  # a finalizer can run inside of allocate
        self.in_use_bytes = 0
        self.peak_bytes = 0
        self.pooled_bytes = 0

    def allocate(self, size_bytes: int) -> Allocation:
        """A buffer of at least this size, which returns to the pool with its last reference.

        Raises:
            OutOfMemoryError: if the device has no more, or one buffer cannot be this large.
        """
        size = buffer_bytes(size_bytes)
        if size_bytes > self._limit:
            raise OutOfMemoryError(
                f"A buffer of {size_bytes} bytes was asked for; this device allows at most "
                f"{self._limit} bytes in one. Use a smaller batch."
            )
        size = min(size, self._limit)
        with self._lock:
            if self._free[size]:
                block = self._free[size].pop()
                self.pooled_bytes -= size
            else:
                block = Block(self._create(size), size)
            self.in_use_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.in_use_bytes)
        return Allocation(block, self.give_back)

    def borrow(self, array: np.ndarray) -> Allocation:
        """A buffer in the memory of a host array, which nobody may write to from now on."""
        with funnel(f"sharing {array.nbytes} bytes of host memory"):
            flags = cl.mem_flags.READ_ONLY | cl.mem_flags.USE_HOST_PTR
            buffer = cl.Buffer(self._context, flags, hostbuf=array)
        return Allocation(Block(buffer, array.nbytes, lender=array), self._return_to_lender)

    def _create(self, size: int) -> cl.Buffer:
        try:
            return cl.Buffer(self._context, cl.mem_flags.READ_WRITE, size)
        except (cl.Error, MemoryError):
            self.release_pool()
        with funnel(f"allocating {size} bytes with {self.in_use_bytes} bytes in use on the device"):
            return cl.Buffer(self._context, cl.mem_flags.READ_WRITE, size)

    def release_pool(self) -> None:
        """Give freed buffers back to the device, after waiting for it."""
        self._synchronize()
        with self._lock:
            self._free.clear()
            self._lent.clear()
            self.pooled_bytes = 0

    def reset_peak(self) -> None:
        """Start a new peak measurement."""
        self.peak_bytes = self.in_use_bytes

    def give_back(self, block: Block) -> None:
        """Return a block to the pool: called by the finalizer of its allocation."""
        with self._lock:
            block.used, block.computed = self._launches.last, None
            self._free[block.size_bytes].append(block)
            self.in_use_bytes -= block.size_bytes
            self.pooled_bytes += block.size_bytes

    def _return_to_lender(self, block: Block) -> None:
        """Let go of borrowed memory, once the kernels that were queued by now have run."""
        complete = cl.command_execution_status.COMPLETE
        with self._lock:
            block.used = self._launches.last
            self._lent.append(block)
            self._lent = [
                lent
                for lent in self._lent
                if lent.used is not None and lent.used.command_execution_status > complete
            ]
