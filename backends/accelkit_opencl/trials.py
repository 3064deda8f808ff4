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
from accelkit_opencl.runtime import BoundKernel, Runtime, open_device

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
        crashes: How often the child died, or had to be stopped because a choice took too long.
    """

    def __init__(self, device: Device, profile: Profile, *, limit_s: float = 20.0) -> None:
        self._device, self._profile, self._limit_s = device, profile, limit_s
        self._child: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._is_ready = False
        self.crashes = 0

    def __call__(
        self,
        kind: str,
        product: Matmul | Convolution,
        choice: Choice,
        *,
        give_up_s: float = math.inf,
        within_s: float = math.inf,
    ) -> float:
        """Seconds of one run; infinite if the choice fails, crashes, or takes too long.

        Args:
            kind, product, choice: What to run.
            give_up_s: A choice that takes longer than this is run once and not again.
            within_s: How long to wait; without a result until then, the child is ended.
        """
        end = time.perf_counter() + within_s
        self.start()
        if not self._await_child(within_s) or self._connection is None:
            return math.inf
        patience_s = min(self._limit_s, end - time.perf_counter())
        try:
            self._connection.send((kind, product, choice, give_up_s))
            if self._connection.poll(max(0.0, patience_s)):
                found: float = self._connection.recv()
                return found
            self.crashes += patience_s >= self._limit_s
        except (EOFError, OSError):
            self.crashes += 1
        self.close()
        return math.inf

    def start(self) -> None:
        """Start the child, unless there is one; does not wait until it is ready."""
        if self._connection is None:
            # A fork would share the runtime's threads and locks.
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._child = context.Process(
                target=_serve, args=(theirs, self._device, self._profile), daemon=True
            )
            self._child.start()
            theirs.close()
            self._is_ready = False

    def _await_child(self, within_s: float) -> bool:
        """Whether the child is ready in time."""
        if self._is_ready or self._connection is None:
            return True
        try:
            if self._connection.poll(max(0.0, min(within_s, _START_S))):
                self._connection.recv()
                self._is_ready = True
                return True
            if within_s < _START_S:
                return False
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
            kind, product, choice, give_up_s = connection.recv()
        except EOFError:
            return
        try:
            lowering = LOWERINGS[kind](product, profile, choice)
            connection.send(measure(lowering, product, runtime, provider, give_up_s=give_up_s))
        except AccelkitError:  # the device refuses this choice
            connection.send(math.inf)


def measure(
    lowering: Lowering,
    product: Matmul | Convolution,
    runtime: Runtime,
    provider: Provider,
    *,
    give_up_s: float = math.inf,
) -> float:
    """Best time of three runs, in seconds, or the first one's if that is above ``give_up_s``."""
    names = {name for launch in lowering.launches for name in launch.buffers}
    largest = _largest_operand(product) * itemsize_of(product.dtype)
    buffers = {
        name: runtime.memory.allocate(lowering.scratch_bytes.get(name, largest)) for name in names
    }
    kernels = provider.kernels([launch.source for launch in lowering.launches])
    bound = [
        (kernel, launch.source.global_size, launch.source.local_size)
        for launch, kernel in zip(lowering.launches, kernels, strict=True)
    ]
    with funnel("tuning"):
        for buffer in buffers.values():  # zeros: uninitialised numbers may be slow ones
            cl.enqueue_fill_buffer(runtime.queue, buffer.buffer, b"\0\0\0\0", 0, buffer.size_bytes)
        for launch, kernel in zip(lowering.launches, kernels, strict=True):
            kernel.set_args(*(buffers[name].buffer for name in launch.buffers))
        _run(bound, runtime)  # runtimes finish compiling at the first run
        best_s = _run(bound, runtime)
        for _ in range(2 if best_s <= give_up_s else 0):
            best_s = min(best_s, _run(bound, runtime))
    return best_s


def _run(bound: list[BoundKernel], runtime: Runtime) -> float:
    """Seconds of all launches, one after the other."""
    runtime.queue.finish()
    start = time.perf_counter()
    for kernel, size, group in bound:
        cl.enqueue_nd_range_kernel(runtime.queue, kernel, size, group)
    runtime.queue.finish()
    return time.perf_counter() - start


def _largest_operand(product: Matmul | Convolution) -> int:
    if isinstance(product, Matmul):
        m, n, k = product.m, product.n, product.k
        return product.batch * max(m * n, m * k, n * k)
    image = product.batch * product.height * product.width * product.channels
    out = product.batch * product.out_height * product.out_width * product.features
    taps = product.kernel[0] * product.kernel[1]
    return max(image, out, taps * product.group_channels * product.features)
