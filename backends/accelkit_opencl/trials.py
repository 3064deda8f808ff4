"""Trying kernels in a child process, because one may crash a runtime or never end."""

from __future__ import annotations

import math
import multiprocessing
import time
from multiprocessing.connection import Connection

import pyopencl as cl

from accelkit.device import Device
from accelkit.errors import AccelkitError, BackendError
from accelkit_opencl.failures import funnel
from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.kernels.source import itemsize_of
from accelkit_opencl.products import (
    LOWERINGS,
    Choice,
    Lowering,
    Profile,
)
from accelkit_opencl.programs import Provider, SourceProvider
from accelkit_opencl.runtime import Runtime, open_device

__all__ = ["Trials", "measure"]

_START_S = 120.0  # for a child to import and open the device, on a machine that is busy


class Trials:
    """Measures choices in a child process; a crash there costs one choice and a new child.

    Close it when done, by ``contextlib.closing``.

    Args:
        device: An OpenCL device.
        profile: Of the device.
        limit_s: Most seconds that one choice may take, its compilation included.

    Attributes:
        crashes: How often the child died or had to be stopped.
    """

    def __init__(self, device: Device, profile: Profile, *, limit_s: float = 20.0) -> None:
        self._device, self._profile, self._limit_s = device, profile, limit_s
        self._child: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self.crashes = 0

    def __call__(self, kind: str, product: Matmul | Convolution, choice: Choice) -> float:
        """Seconds of one run; infinite if the choice fails, crashes, or takes too long."""
        connection = self._start()
        try:
            connection.send((kind, product, choice))
            if connection.poll(self._limit_s):
                found: float = connection.recv()
                return found
        except (EOFError, OSError):
            pass
        self.crashes += 1
        self.close()
        return math.inf

    def _start(self) -> Connection:
        if self._connection is None:
            # A fork would share the runtime's threads and locks.
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._child = context.Process(
                target=_serve, args=(theirs, self._device, self._profile), daemon=True
            )
            self._child.start()
            theirs.close()
            self._await_child(self._connection)
        return self._connection

    def _await_child(self, connection: Connection) -> None:
        try:
            if connection.poll(_START_S):
                connection.recv()
                return
        except (EOFError, OSError):
            pass
        self.close()
        raise BackendError(
            f"The process that tries kernels on {self._device} does not start. Use the defaults, "
            f"without tuning."
        )

    def close(self) -> None:
        """End the child."""
        if self._child is not None and self._connection is not None:
            self._connection.close()
            self._child.kill()
            self._child.join()
            self._child.close()
        self._child = self._connection = None


def _serve(connection: Connection, device: Device, profile: Profile) -> None:
    """The child's loop: a product and a choice come in, seconds go out."""
    runtime = open_device(device)
    provider = SourceProvider(runtime, keep_binaries=False)
    connection.send("ready")
    while True:
        try:
            kind, product, choice = connection.recv()
        except EOFError:
            return
        try:
            lowering = LOWERINGS[kind](product, profile, choice)
            connection.send(measure(lowering, product, runtime, provider))
        except AccelkitError:  # the device refuses this choice
            connection.send(math.inf)


def measure(
    lowering: Lowering, product: Matmul | Convolution, runtime: Runtime, provider: Provider
) -> float:
    """Best time of a few runs, in seconds."""
    names = {name for launch in lowering.launches for name in launch.buffers}
    largest = _largest_operand(product) * itemsize_of(product.dtype)
    buffers = {
        name: runtime.memory.allocate(lowering.scratch_bytes.get(name, largest)) for name in names
    }
    kernels = provider.kernels([launch.source for launch in lowering.launches])
    times = []
    with funnel("tuning"):
        for buffer in buffers.values():  # zeros: uninitialised numbers may be slow ones
            cl.enqueue_fill_buffer(runtime.queue, buffer.buffer, b"\0\0\0\0", 0, buffer.size_bytes)
        for launch, kernel in zip(lowering.launches, kernels, strict=True):
            kernel.set_args(*(buffers[name].buffer for name in launch.buffers))
        for _ in range(4):
            runtime.queue.finish()
            start = time.perf_counter()
            for launch, kernel in zip(lowering.launches, kernels, strict=True):
                source = launch.source
                cl.enqueue_nd_range_kernel(
                    runtime.queue, kernel, source.global_size, source.local_size
                )
            runtime.queue.finish()
            times.append(time.perf_counter() - start)
    return min(times[1:])


def _largest_operand(product: Matmul | Convolution) -> int:
    if isinstance(product, Matmul):
        m, n, k = product.m, product.n, product.k
        return product.batch * max(m * n, m * k, n * k)
    image = product.batch * product.height * product.width * product.channels
    out = product.batch * product.out_height * product.out_width * product.features
    taps = product.kernel[0] * product.kernel[1]
    return max(image, out, taps * product.group_channels * product.features)
