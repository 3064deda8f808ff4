"""The OpenCL runtime: devices, queues, memory and transfers.

Devices are found on all platforms and named by kind, in an order that does not depend on the
order in which the platforms were loaded. Each opened device has an in-order queue for kernels,
one for transfers, and one memory pool with a ledger.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl

from accelkit.device import Device, DeviceInfo
from accelkit.dtypes import DType
from accelkit.dtypes import dtype as as_dtype
from accelkit.errors import DeviceError
from accelkit_opencl.failures import funnel, is_out_of_memory
from accelkit_opencl.kernels.wide import WIDE_FEATURES
from accelkit_opencl.memory import Allocation, Block, Launches, Memory
from accelkit_opencl.transfers import MappedTransfers, StagedTransfers, Transfers

__all__ = ["DeviceArray", "Runtime", "discover", "needs_wide_form", "open_device"]

BoundKernel = tuple[cl.Kernel, Sequence[int], Sequence[int]]
"""A kernel with its arguments set, its work-items, and those of one group."""

_WIDE_FLOATS = 16  # in a vector of AVX-512
# Targets of LLVM with AVX-512.
_WIDE_TARGETS = (
    *("skx", "skylake-avx512", "cannonlake", "cascadelake", "cooperlake", "icelake-client"),
    *("icelake-server", "tigerlake", "rocketlake", "sapphirerapids", "emeraldrapids"),
    *("graniterapids", "graniterapids-d", "knl", "knm", "znver4", "znver5", "x86-64-v4"),
)
_KINDS = (
    (cl.device_type.GPU, "gpu"),
    (cl.device_type.CPU, "cpu"),
    (cl.device_type.ACCELERATOR, "accelerator"),
)


class Found(NamedTuple):
    """A device that exists: its accelkit name and OpenCL's own object."""

    device: Device
    handle: cl.Device


def discover() -> list[Found]:
    """All usable devices of all platforms, GPUs first.

    Within a kind they are ordered by platform and device name, not by loading order.

    Raises:
        DeviceError: if no OpenCL platform is installed.
    """
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        raise DeviceError(
            "No OpenCL platform is installed. Install the vendor's driver, or for CPUs "
            "`pip install pocl-binary-distribution`."
        ) from error
    by_kind: dict[str, list[cl.Device]] = defaultdict(list)
    for platform in sorted(platforms, key=lambda p: (p.name, p.version)):
        try:
            handles = platform.get_devices()
        except cl.Error:  # a platform without a device, e.g. a driver without its hardware
            continue
        for handle in sorted(handles, key=lambda d: d.name):
            if handle.available:
                by_kind[_kind(handle)].append(handle)
    return [
        Found(Device("opencl", kind, index), handle)
        for _, kind in _KINDS
        for index, handle in enumerate(by_kind[kind])
    ]


def _kind(handle: cl.Device) -> str:
    for flag, kind in _KINDS:
        if handle.type & flag:
            return kind
    return "accelerator"


def describe(found: Found) -> DeviceInfo:
    """The entry of a device in accelkit's device list."""
    handle = found.handle
    driver = f"{handle.platform.name} {handle.driver_version}, {handle.version}"
    return DeviceInfo(found.device, handle.name.strip(), handle.global_mem_size, driver)


def needs_wide_form(version: str, width: int) -> bool:
    """Whether a device's compiler makes its widest vectors only in functions that ask for them.

    PoCL asks the processor for their width, but compiles for the newest processor that its LLVM
    knows and the machine can do. That may be one without AVX-512: PoCL 3.0 takes a Zen 4 for a
    Zen 3. Kernels for the registers of the former spill to memory on the latter.

    Args:
        version: What the device says of itself; PoCL's ends with the target's name.
        width: Floats in a vector, as the device says.
    """
    _, found, target = version.partition("PoCL HSTR: ")
    is_wide = width >= _WIDE_FLOATS
    return bool(found) and "x86_64" in target and is_wide and not target.endswith(_WIDE_TARGETS)


class DeviceArray:
    """A dense row-major array in a device's memory: the backend's native array.

    Attributes:
        runtime: The device that holds it.
        allocation: Its memory.
        shape: Extents.
        dtype: Element type; bools take one byte.
    """

    __slots__ = ("allocation", "dtype", "runtime", "shape")

    def __init__(
        self, runtime: Runtime, allocation: Allocation, shape: tuple[int, ...], dtype: DType
    ) -> None:
        self.runtime = runtime
        self.allocation = allocation
        self.shape = shape
        self.dtype = dtype

    @property
    def buffer(self) -> cl.Buffer:
        """OpenCL's own buffer object."""
        return self.allocation.buffer

    @property
    def size_bytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype.name}{list(self.shape)} on {self.runtime.device}>"


class _HostView:
    """Bytes of an allocation, mapped for reading, as NumPy sees them.

    Unmapped when nobody looks any more. Until then it keeps the memory alive, and programs from
    overwriting it.
    """

    def __init__(self, allocation: Allocation, mapped: np.ndarray, queue: cl.CommandQueue) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": mapped.shape,
            "typestr": mapped.dtype.str,
            "data": (mapped.ctypes.data, True),  # read only
        }
        # The finalizer holds the allocation.
        unmap = weakref.finalize(self, _unmap, mapped, queue, allocation)
        unmap.atexit = False


def _unmap(mapped: Any, queue: cl.CommandQueue, allocation: Allocation) -> None:
    mapped.base.release(queue)


class Runtime:
    """An opened device.

    Attributes:
        device: Its accelkit name.
        handle: OpenCL's own device object.
        context: One per device.
        queue: Kernels, in order.
        launches: The order on that queue, for those who must wait for it.
        memory: Its pool and ledger.
        transfers: Copies to and from the host.
        shares_host_memory: Whether mapping a buffer needs no copy.
        is_cpu: Whether kernels take the CPU forms.
        vector_bytes: Width of the widest native vectors.
        form: In which its compiler makes the most of kernels, of ``kernels.forms.FORMS``.
        alignment_bytes: Of buffers, and of host memory that can be one.
        has_float64: Whether it computes in double precision.
        has_winograd: Whether Winograd's transforms suit it: a processor that computes their weights
            in double precision. In an accelerator's circuit their many small sums take room that
            multipliers need.
    """

    def __init__(self, device: Device, handle: cl.Device) -> None:
        self.device = device
        self.handle = handle
        self.launches = Launches()
        with funnel(f"opening {handle.name.strip()}"):
            self.context = cl.Context([handle])
            self.queue = cl.CommandQueue(self.context, handle)
            self._transfer_queue = cl.CommandQueue(self.context, handle)
        self.memory = Memory(self.context, self.launches, self._finish, handle.max_mem_alloc_size)
        self.use_host_memory(bool(handle.host_unified_memory))
        self.is_cpu = bool(handle.type & cl.device_type.CPU) or (
            bool(handle.type & cl.device_type.ACCELERATOR) and self.shares_host_memory
        )
        width = handle.native_vector_width_float
        self.vector_bytes = 4 * max(1, width)
        self.form = "wide" if needs_wide_form(handle.version, width) else "range"
        self.alignment_bytes = max(1, handle.mem_base_addr_align // 8)
        self.has_float64 = bool(handle.double_fp_config)
        self.has_winograd = self.has_float64 and bool(handle.type & cl.device_type.CPU)

    def use_host_memory(self, shares: bool) -> None:
        """Choose between mapped transfers and staged ones, which work on every device."""
        self.shares_host_memory = shares
        self.transfers: Transfers = (
            MappedTransfers(self._transfer_queue)
            if shares
            else StagedTransfers(self.context, self._transfer_queue)
        )

    @property
    def identity(self) -> dict[str, str]:
        """What a binary depends on: platform, device, driver, added instructions."""
        handle = self.handle
        beyond = {"features": WIDE_FEATURES} if self.form == "wide" else {}
        return {
            **beyond,
            "platform": handle.platform.name,
            "platform_version": handle.platform.version,
            "device": handle.name.strip(),
            "driver": handle.driver_version,
        }

    # --- kernels -------------------------------------------------------------------------------

    def group_limit(self, kernel: cl.Kernel) -> int:
        """Most work-items of a group in which the device can run a kernel."""
        information = cl.kernel_work_group_info.WORK_GROUP_SIZE
        limit: int = kernel.get_work_group_info(information, self.handle)
        return limit

    def launch(
        self, kernels: Sequence[BoundKernel], used: Iterable[Block], written: Iterable[Block]
    ) -> None:
        """Enqueue kernels, after the transfers to the blocks that they touch; does not wait.

        A driver may run out of memory as late as here; the pool is released then, and the kernel
        tried once more.

        Args:
            kernels: With their arguments set.
            used: Blocks that they read, or write before they read them.
            written: Blocks whose content is complete afterwards.
        """
        event = None
        written = list(written)
        with self.launches.lock:
            after = self._pending([*used, *written])
            try:
                for kernel, size, group in kernels:
                    try:
                        event = self._enqueue(kernel, size, group, after)
                    except (cl.Error, MemoryError) as error:
                        if not is_out_of_memory(error):
                            raise
                        self.memory.release_pool()
                        event = self._enqueue(kernel, size, group, after)
                    after = []
            finally:
                if event is not None:
                    self._submitted(event, written)

    def _enqueue(
        self, kernel: cl.Kernel, size: Sequence[int], group: Sequence[int], after: list[cl.Event]
    ) -> cl.Event:
        return cl.enqueue_nd_range_kernel(self.queue, kernel, size, group, wait_for=after)

    def _pending(self, blocks: Iterable[Block]) -> list[cl.Event]:
        """Transfers that the next command must wait for; later ones need not ask again."""
        found = []
        for block in blocks:
            if block.uploaded is not None:
                found.append(block.uploaded)
                block.uploaded = None
        return found

    def _submitted(self, event: cl.Event, written: Iterable[Block]) -> None:
        """Note a command, which completes the content of these blocks."""
        self.launches.last = event
        for block in written:
            block.computed = event
        self.queue.flush()  # other queues wait for it

    # --- arrays --------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        """An array with unspecified content."""
        allocation = self.memory.allocate(math.prod(shape) * dtype.itemsize)
        return DeviceArray(self, allocation, shape, dtype)

    def filled(self, shape: tuple[int, ...], dtype: DType, element: np.ndarray) -> DeviceArray:
        """An array with ``element`` everywhere."""
        result = self.empty(shape, dtype)
        block = result.allocation.block
        if result.size_bytes:
            doing = f"filling {result.size_bytes} bytes on {self.device}"
            with self.launches.lock, funnel(doing):
                event = cl.enqueue_fill_buffer(
                    self.queue, block.buffer, element, 0, result.size_bytes, self._pending([block])
                )
                self._submitted(event, [block])
        return result

    def copy(self, array: DeviceArray) -> DeviceArray:
        """A copy of an array on the device."""
        result = self.empty(array.shape, array.dtype)
        if array.size_bytes:
            with self.launches.lock, funnel(f"copying {array.size_bytes} bytes on {self.device}"):
                self._copy(array.allocation.block, result.allocation.block, array.size_bytes)
        return result

    def _copy(self, source: Block, target: Block, size_bytes: int) -> None:
        event = cl.enqueue_copy(
            self.queue,
            target.buffer,
            source.buffer,
            byte_count=size_bytes,
            wait_for=self._pending([source, target]),
        )
        self._submitted(event, [target])

    def put(self, array: np.ndarray) -> DeviceArray:
        """Copy a NumPy array to the device; later changes of ``array`` have no effect.

        Does not wait for kernels. Where the device has memory of its own, the end of the
        transfer is not waited for either: what reads the array on the device does.
        """
        result = self.empty(array.shape, as_dtype(array.dtype))
        if array.size:
            with funnel(f"copying {array.nbytes} bytes to {self.device}"):
                self.transfers.upload(result.allocation.block, array)
        return result

    def get(self, array: DeviceArray) -> np.ndarray:
        """Copy an array to the host, waiting for the program that computes it."""
        result = np.empty(array.shape, array.dtype.numpy)
        if array.size_bytes:
            with funnel(f"copying {array.size_bytes} bytes from {self.device}"):
                self.transfers.download(array.allocation.block, result)
        return result

    # --- shared memory -------------------------------------------------------------------------

    def share(self, array: np.ndarray) -> DeviceArray | None:
        """A device array in the memory of a host array; None where that is impossible.

        The host array is kept alive, and nobody may write to it any more. It must be dense and
        lie at a multiple of the device's alignment.
        """
        if (
            not self.shares_host_memory
            or not array.flags.c_contiguous
            or not array.size
            or array.ctypes.data % self.alignment_bytes
        ):
            return None
        return DeviceArray(self, self.memory.borrow(array), array.shape, as_dtype(array.dtype))

    def view(self, array: DeviceArray) -> np.ndarray | None:
        """The memory of a device array as a read-only NumPy array; None where that is impossible.

        Waits for the content. While the view exists, no program overwrites the memory: a donated
        array is copied instead.
        """
        if not isinstance(self.transfers, MappedTransfers) or not array.size_bytes:
            return None
        allocation = array.allocation
        with self.launches.lock, funnel(f"mapping {array.size_bytes} bytes of {self.device}"):
            host = allocation.view
            if host is None:
                block = allocation.block
                mapped = self.transfers.map(
                    block, cl.map_flags.READ, (array.size_bytes,), np.uint8, block.filled()
                )
                host = allocation.view = _HostView(allocation, mapped, self._transfer_queue)
        return np.asarray(host).view(array.dtype.numpy).reshape(array.shape)

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        with funnel(f"waiting for {self.device}"):
            self._finish()

    def _finish(self) -> None:
        self._transfer_queue.finish()
        self.queue.finish()


_opened: dict[Device, Runtime] = {}
_lock = threading.Lock()


def open_device(device: Device) -> Runtime:
    """The runtime of a device, opened once per process.

    Raises:
        DeviceError: if there is no such device; lists what there is.
    """
    with _lock:
        if device not in _opened:
            found = discover()
            match = [f for f in found if f.device == device]
            if not match:
                listing = ", ".join(f"{f.device} ({f.handle.name.strip()})" for f in found)
                raise DeviceError(f"There is no OpenCL device {device}. There is: {listing}.")
            _opened[device] = Runtime(device, match[0].handle)
        return _opened[device]
