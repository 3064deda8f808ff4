"""The OpenCL runtime: devices, queues, memory and transfers.

Devices are found on all platforms and named by kind, in an order that does not depend on the
order in which the platforms were loaded. Each opened device has one in-order queue, so a buffer
can be handed on while kernels that use it are still queued, and one memory pool with a ledger.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pyopencl as cl

from accelkit.device import Device, DeviceInfo
from accelkit.dtypes import DType
from accelkit.dtypes import dtype as as_dtype
from accelkit.errors import DeviceError, OutOfMemoryError
from accelkit.passes.memory import ALIGNMENT_BYTES
from accelkit_opencl.failures import funnel
from accelkit_opencl.kernels.source import round_up

__all__ = ["DeviceArray", "Memory", "Runtime", "discover", "open_device"]

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


class Memory:
    """A device's memory pool and its ledger.

    Freed buffers are kept and given out again for requests of about their size; they are
    released when the device runs out.

    Attributes:
        in_use_bytes: Held by live arrays and compiled programs now.
        peak_bytes: The most since the start or the last reset.
        pooled_bytes: Freed by their owners, kept for reuse.
    """

    def __init__(self, context: cl.Context, queue: cl.CommandQueue, limit_bytes: int) -> None:
        self._context, self._queue, self._limit = context, queue, limit_bytes
        self._free: dict[int, list[cl.Buffer]] = defaultdict(list)
        self._lock = threading.RLock()  # a finalizer can run inside of allocate
        self.in_use_bytes = 0
        self.peak_bytes = 0
        self.pooled_bytes = 0

    def allocate(self, size_bytes: int) -> Allocation:
        """A buffer of at least this size, which returns to the pool with its last reference.

        Raises:
            OutOfMemoryError: if the device has no more, or one buffer cannot be this large.
        """
        size = _size_class(size_bytes)
        if size_bytes > self._limit:
            raise OutOfMemoryError(
                f"A buffer of {size_bytes} bytes was asked for; this device allows at most "
                f"{self._limit} bytes in one. Use a smaller batch."
            )
        size = min(size, self._limit)
        with self._lock:
            if self._free[size]:
                buffer = self._free[size].pop()
                self.pooled_bytes -= size
            else:
                buffer = self._create(size)
            self.in_use_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.in_use_bytes)
        return Allocation(self, buffer, size)

    def _create(self, size: int) -> cl.Buffer:
        try:
            return cl.Buffer(self._context, cl.mem_flags.READ_WRITE, size)
        except (cl.Error, MemoryError):
            self.release_pool()
        with funnel(f"allocating {size} bytes with {self.in_use_bytes} bytes in use on the device"):
            return cl.Buffer(self._context, cl.mem_flags.READ_WRITE, size)

    def release_pool(self) -> None:
        """Give freed buffers back to the device."""
        with self._lock:
            self._queue.finish()
            self._free.clear()
            self.pooled_bytes = 0

    def reset_peak(self) -> None:
        """Start a new peak measurement."""
        self.peak_bytes = self.in_use_bytes

    def give_back(self, buffer: cl.Buffer, size: int) -> None:
        """Return a buffer to the pool: called by the finalizer of its allocation."""
        with self._lock:
            self._free[size].append(buffer)
            self.in_use_bytes -= size
            self.pooled_bytes += size


def _size_class(size: int) -> int:
    """Round up to a multiple of the alignment, or of an eighth of the power of two below."""
    step = max(ALIGNMENT_BYTES, (1 << max(size, 1).bit_length()) // 16)
    return round_up(max(size, 1), step)


class Allocation:
    """One buffer, owned by the arrays and programs that refer to this object."""

    __slots__ = ("__weakref__", "_finalizer", "buffer", "size_bytes")

    def __init__(self, memory: Memory, buffer: cl.Buffer, size_bytes: int) -> None:
        self.buffer = buffer
        self.size_bytes = size_bytes
        self._finalizer = weakref.finalize(self, memory.give_back, buffer, size_bytes)
        self._finalizer.atexit = False

    def free(self) -> None:
        """Return the buffer to the pool now."""
        self._finalizer()


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


class Runtime:
    """An opened device.

    Attributes:
        device: Its accelkit name.
        handle: OpenCL's own device object.
        context, queue: One of each; the queue executes in order.
        memory: Its pool and ledger.
        shares_host_memory: Whether mapping a buffer needs no copy.
        is_cpu: Whether kernels take the CPU forms.
        vector_bytes: Width of the widest native vectors.
        has_float64: Whether it computes in double precision.
    """

    def __init__(self, device: Device, handle: cl.Device) -> None:
        self.device = device
        self.handle = handle
        with funnel(f"opening {handle.name.strip()}"):
            self.context = cl.Context([handle])
            self.queue = cl.CommandQueue(self.context, handle)
        self.memory = Memory(self.context, self.queue, handle.max_mem_alloc_size)
        self.shares_host_memory = bool(handle.host_unified_memory)
        self.is_cpu = bool(handle.type & cl.device_type.CPU) or (
            bool(handle.type & cl.device_type.ACCELERATOR) and self.shares_host_memory
        )
        self.vector_bytes = 4 * max(1, handle.native_vector_width_float)
        self.has_float64 = bool(handle.double_fp_config)

    @property
    def identity(self) -> dict[str, str]:
        """What a binary depends on: platform, device and driver."""
        handle = self.handle
        return {
            "platform": handle.platform.name,
            "platform_version": handle.platform.version,
            "device": handle.name.strip(),
            "driver": handle.driver_version,
        }

    def empty(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        """An array with unspecified content."""
        allocation = self.memory.allocate(math.prod(shape) * dtype.itemsize)
        return DeviceArray(self, allocation, shape, dtype)

    def filled(self, shape: tuple[int, ...], dtype: DType, element: np.ndarray) -> DeviceArray:
        """An array with ``element`` everywhere."""
        result = self.empty(shape, dtype)
        if result.size_bytes:
            with funnel(f"filling {result.size_bytes} bytes on {self.device}"):
                cl.enqueue_fill_buffer(self.queue, result.buffer, element, 0, result.size_bytes)
        return result

    def put(self, array: np.ndarray) -> DeviceArray:
        """Copy a NumPy array to the device; later changes of ``array`` have no effect."""
        result = self.empty(array.shape, as_dtype(array.dtype))
        if array.size:
            self.write(result.buffer, np.ascontiguousarray(array))
        return result

    def write(self, buffer: cl.Buffer, array: np.ndarray) -> None:
        """Copy a contiguous array to the start of a buffer, waiting for it."""
        with funnel(f"copying {array.nbytes} bytes to {self.device}"):
            if not self.shares_host_memory:
                cl.enqueue_copy(self.queue, buffer, array, is_blocking=True)
                return
            flags = cl.map_flags.WRITE_INVALIDATE_REGION
            view, _ = cl.enqueue_map_buffer(
                self.queue, buffer, flags, 0, array.shape, array.dtype, is_blocking=True
            )
            view[...] = array
            view.base.release(self.queue)

    def get(self, array: DeviceArray) -> np.ndarray:
        """Copy an array to the host, waiting for everything queued before."""
        if not array.size_bytes:
            return np.empty(array.shape, array.dtype.numpy)
        with funnel(f"copying {array.size_bytes} bytes from {self.device}"):
            if not self.shares_host_memory:
                result = np.empty(array.shape, array.dtype.numpy)
                cl.enqueue_copy(self.queue, result, array.buffer, is_blocking=True)
                return result
            view, _ = cl.enqueue_map_buffer(
                self.queue,
                array.buffer,
                cl.map_flags.READ,
                0,
                array.shape,
                array.dtype.numpy,
                is_blocking=True,
            )
            result = np.array(view)
            view.base.release(self.queue)
            return result

    def copy(self, array: DeviceArray) -> DeviceArray:
        """A copy of an array on the device."""
        result = self.empty(array.shape, array.dtype)
        if array.size_bytes:
            with funnel(f"copying {array.size_bytes} bytes on {self.device}"):
                cl.enqueue_copy(
                    self.queue, result.buffer, array.buffer, byte_count=array.size_bytes
                )
        return result

    def synchronize(self) -> None:
        """Wait until everything queued is done."""
        with funnel(f"waiting for {self.device}"):
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
