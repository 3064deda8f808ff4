"""Trying kernels in a child process, because one may crash a runtime or never end."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait
from typing import TypeAlias, cast

import pyopencl as cl

from accelkit.device import Device
from accelkit.errors import AccelkitError, BackendError
from accelkit_opencl.failures import funnel
from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.kernels.source import itemsize_of
from accelkit_opencl.lowering import Choice, Lowering, Profile
from accelkit_opencl.products import LOWERINGS
from accelkit_opencl.programs import Provider, SourceProvider
from accelkit_opencl.runtime import BoundKernel, Runtime, open_device

__all__ = ["Trials", "measure"]

_MOST_WORKERS = 4
_START_S = 120.0  # for a child to import and open the device, on a machine that is busy


_Item: TypeAlias = tuple[str, Matmul | Convolution, Choice]


class Trials:
    """Compiles and measures choices in child processes; a crash there costs one choice and a child.

    Compiling takes longer than running: all children compile at the same time, but only one runs
    kernels, while the others wait. Close it when done, by ``contextlib.closing``.

    Args:
        device: An OpenCL device.
        profile: Of the device.
        limit_s: Most seconds that one choice may take, its compilation included.
        workers: Children; by default one per processor, at most four.

    Attributes:
        crashes: How often a child died, or had to be stopped because a choice took too long.
    """

    def __init__(
        self,
        device: Device,
        profile: Profile,
        *,
        limit_s: float = 20.0,
        workers: int | None = None,
    ) -> None:
        self._device, self._profile, self._limit_s = device, profile, limit_s
        self.workers = workers or min(_MOST_WORKERS, os.cpu_count() or 1)
        self._children: dict[int, _Child] = {}
        self._compiled: dict[_Item, int] = {}
        self._hopeless: set[_Item] = set()
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
        if (kind, product, choice) in self._hopeless:
            return math.inf
        number = self._compiled.get((kind, product, choice), 0)
        child = self._child(number)
        if not child.is_ready_within(within_s):
            return math.inf
        patience_s = min(self._limit_s, end - time.perf_counter())
        try:
            child.connection.send((kind, product, choice, give_up_s))
            if child.connection.poll(max(0.0, patience_s)):
                found: float = child.connection.recv()
                return found
            self.crashes += patience_s >= self._limit_s
        except (EOFError, OSError):
            self.crashes += 1
        self._end(number)
        return math.inf

    def compile_ahead(self, items: Iterable[_Item], *, within_s: float) -> None:
        """Compile choices in all children at the same time, to be measured there afterwards.

        What crashes a child is not tried again; what is not ready in time is compiled when it is
        measured.
        """
        end = time.perf_counter() + within_s
        waiting = deque(item for item in items if item not in self._compiled)
        busy: dict[int, tuple[float, _Item]] = {}
        while waiting or busy:
            for number in [n for n in range(self.workers) if n not in busy][: len(waiting)]:
                if self._child(number).is_ready_within(end - time.perf_counter()):
                    item = waiting.popleft()
                    busy[number] = time.perf_counter() + self._limit_s, item
                    self._children[number].connection.send((*item, None))
            now = time.perf_counter()
            if now >= end:
                break
            links = {self._children[number].connection: number for number in busy}
            answers = wait(list(links), min(end, *(limit for limit, _ in busy.values())) - now)
            for answer in answers:
                self._compiled_in(links[cast(Connection, answer)], busy)
            for number in [n for n, (limit, _) in busy.items() if limit <= time.perf_counter()]:
                self._crashed(number, busy.pop(number)[1])
        for number in busy:
            self._end(number)

    def _compiled_in(self, number: int, busy: dict[int, tuple[float, _Item]]) -> None:
        """Take a child's answer, or notice its death."""
        _, item = busy.pop(number)
        try:
            self._children[number].connection.recv()
            self._compiled[item] = number
        except (EOFError, OSError):
            self._crashed(number, item)

    def _crashed(self, number: int, item: _Item) -> None:
        self.crashes += 1
        self._hopeless.add(item)
        self._end(number)

    def start(self) -> None:
        """Start the children, unless there are some; does not wait until they are ready."""
        for number in range(self.workers):
            self._child(number)

    def _child(self, number: int) -> _Child:
        if number not in self._children:
            self._children[number] = _Child(self._device, self._profile)
        return self._children[number]

    def _end(self, number: int) -> None:
        """End a child, with which goes what it compiled."""
        self._children.pop(number).close()
        self._compiled = {item: n for item, n in self._compiled.items() if n != number}

    def close(self) -> None:
        """End the children."""
        for number in list(self._children):
            self._end(number)


class _Child:
    """A process that compiles and measures."""

    def __init__(self, device: Device, profile: Profile) -> None:
        # A fork would share the runtime's threads and locks.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, device, profile), daemon=True)
        self._process.start()
        theirs.close()
        self._device, self._is_ready = device, False

    def is_ready_within(self, seconds: float) -> bool:
        """Wait until it has opened the device.

        Raises:
            BackendError: if it ends before that, or takes minutes.
        """
        if self._is_ready:
            return True
        with contextlib.suppress(EOFError, OSError):
            if self.connection.poll(max(0.0, min(seconds, _START_S))):
                self.connection.recv()
                self._is_ready = True
                return True
            if seconds < _START_S:
                return False
        raise BackendError(
            f"The process that tries kernels on {self._device} does not start. Use the defaults, "
            f"without tuning."
        )

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self._process.kill()
        self._process.join()
        self._process.close()


def _serve(connection: Connection, device: Device, profile: Profile) -> None:
    """A child's loop: a product and a choice come in, seconds go out.

    Without a time to give up at, the choice is only compiled.
    """
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
    give_up_s: float | None = math.inf,
) -> float:
    """Best time of three runs, in seconds, or the first one's if that is above ``give_up_s``.

    With None one run makes sure that the kernels are compiled, and its time is returned.
    """
    names = {name for launch in lowering.launches for name in launch.buffers}
    largest = _largest_operand(product) * itemsize_of(product.dtype)
    buffers = {
        name: runtime.memory.allocate(lowering.scratch_bytes.get(name, largest)) for name in names
    }
    sources = [provider.form(launch.source) for launch in lowering.launches]
    kernels = provider.kernels(sources)
    bound = [
        (kernel, source.global_size, source.local_size)
        for source, kernel in zip(sources, kernels, strict=True)
    ]
    with funnel("tuning"):
        for buffer in buffers.values():  # zeros: uninitialised numbers may be slow ones
            cl.enqueue_fill_buffer(runtime.queue, buffer.buffer, b"\0\0\0\0", 0, buffer.size_bytes)
        for launch, kernel in zip(lowering.launches, kernels, strict=True):
            kernel.set_args(*(buffers[name].buffer for name in launch.buffers))
        first_s = _run(bound, runtime)  # runtimes finish compiling at the first run
        if give_up_s is None:
            return first_s
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
