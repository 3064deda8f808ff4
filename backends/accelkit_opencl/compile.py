"""Running a plan: kernels with their arguments bound once, enqueued without waiting."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

import pyopencl as cl

from accelkit.backend import Executable
from accelkit.device import Device
from accelkit.errors import BackendError, CompileError
from accelkit.graph import Graph
from accelkit_opencl.failures import translate
from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.memory import Allocation
from accelkit_opencl.plan import Plan
from accelkit_opencl.programs import Provider
from accelkit_opencl.runtime import DeviceArray, Runtime

__all__ = ["GroupTooLargeError", "OpenclExecutable", "Program"]


class GroupTooLargeError(CompileError):
    """A kernel needs larger work-groups than the device can run.

    Attributes:
        limit: Work-items of the largest group that it can run.
    """

    def __init__(self, source: KernelSource, limit: int) -> None:
        super().__init__(
            f"The kernel {source.name} needs work-groups of {math.prod(source.local_size)} items; "
            f"this device runs at most {limit} of it."
        )
        self.limit = limit


def _fitting_group(source: KernelSource, limit: int) -> tuple[int, ...]:
    """The kernel's work-group, or a smaller one where the kernel does not depend on its size.

    Raises:
        GroupTooLargeError: if the kernel needs this very size.
    """
    group = list(source.local_size)
    if math.prod(group) > limit and "reqd_work_group_size" in source.source:
        raise GroupTooLargeError(source, limit)
    while math.prod(group) > limit:
        largest = group.index(max(group))
        group[largest] = group[largest] // 2 if group[largest] % 2 == 0 else 1
    return tuple(group)


class Program:
    """A plan with its kernels.

    Kernel arguments stay set between runs: only buffers that changed since the last run are set
    again, so a steady training step sets none of its intermediates.

    Args:
        plan: What to run.
        runtime: Where.
        provider: Source of the kernels.

    Raises:
        CompileError: if a kernel cannot be had.
        GroupTooLargeError: if the device cannot run one in its work-groups.
    """

    def __init__(self, plan: Plan, runtime: Runtime, provider: Provider) -> None:
        self.plan = plan
        self._runtime = runtime
        sources = [provider.form(launch.source) for launch in plan.launches]
        self._launches = [
            (kernel, source.global_size, _fitting_group(source, runtime.group_limit(kernel)))
            if math.prod(source.local_size) > 1
            else (kernel, source.global_size, source.local_size)
            for kernel, source in zip(provider.kernels(sources), sources, strict=True)
        ]
        self._constants = [runtime.put(array) for array in plan.constants]
        self._users: dict[tuple[str, int], list[tuple[cl.Kernel, int]]] = {}
        self._regions: list[tuple[cl.Kernel, int, int, int, int]] = []
        for (kernel, _, _), launch in zip(self._launches, plan.launches, strict=True):
            for position, storage in enumerate(launch.arguments):
                if storage.kind == "constant":
                    kernel.set_arg(position, self._constants[storage.index].buffer)
                elif storage.kind == "arena":
                    self._regions.append(
                        (kernel, position, storage.index, storage.offset, storage.size_bytes)
                    )
                else:
                    slot = (storage.kind, storage.index)
                    if storage.kind == "output" and plan.reused[storage.index] is not None:
                        slot = ("input", plan.reused[storage.index] or 0)
                    self._users.setdefault(slot, []).append((kernel, position))
        self._bound: dict[tuple[str, int], cl.Buffer] = {}
        self._arena: list[cl.Buffer] = []
        self._arena_regions: list[cl.Buffer] = []
        self._lock = threading.Lock()

    @property
    def arena_bytes(self) -> int:
        """Memory for intermediates while the program runs."""
        return sum(self.plan.slab_bytes)

    def run(self, arrays: Sequence[DeviceArray]) -> list[DeviceArray]:
        """Enqueue everything; returns before the device is done.

        Raises:
            BackendError: if the arrays do not have the shapes of the program.
            OutOfMemoryError: if the device has no memory for outputs or intermediates.
        """
        self._check(arrays)
        runtime = self._runtime
        with self._lock, runtime.launches.lock:
            try:
                slabs = [runtime.memory.allocate(size) for size in self.plan.slab_bytes]
                inputs, outputs = self._take(arrays)
                self._bind_arena(slabs)
                for position, allocation in enumerate(inputs):
                    self._bind(("input", position), allocation.buffer)
                for position, array in enumerate(outputs):
                    self._bind(("output", position), array.buffer)
                written = [array.allocation.block for array in outputs]
                constants = [array.allocation for array in self._constants]
                used = [a.block for a in (*slabs, *inputs, *constants)]
                runtime.launch(self._launches, used, written)
            except (cl.Error, MemoryError) as error:
                raise translate(error, f"running on {runtime.device}") from error
        return outputs

    def _take(self, arrays: Sequence[DeviceArray]) -> tuple[list[Allocation], list[DeviceArray]]:
        """The inputs' memory, and arrays for the outputs, some of which take over an input's."""
        plan, runtime = self.plan, self._runtime
        inputs = [array.allocation for array in arrays]
        outputs = []
        for spec, reused in zip(plan.outputs, plan.reused, strict=True):
            if reused is None:
                allocation = runtime.memory.allocate(spec.memory_bytes)
            else:
                if not inputs[reused].is_writable:  # the host lends it, or looks at it
                    inputs[reused] = runtime.copy(arrays[reused]).allocation
                allocation = inputs[reused]
            outputs.append(DeviceArray(runtime, allocation, spec.shape, spec.dtype))
        return inputs, outputs

    def _check(self, arrays: Sequence[DeviceArray]) -> None:
        for position, (array, spec) in enumerate(zip(arrays, self.plan.inputs, strict=True)):
            if array.shape != spec.shape or array.dtype is not spec.dtype:
                raise BackendError(
                    f"Input {position} of the program is {spec}, got "
                    f"{array.dtype.name}{list(array.shape)}."
                )

    def _bind(self, slot: tuple[str, int], buffer: cl.Buffer) -> None:
        if self._bound.get(slot) is buffer:
            return
        self._bound[slot] = buffer
        for kernel, position in self._users.get(slot, ()):
            kernel.set_arg(position, buffer)

    def _bind_arena(self, slabs: Sequence[Allocation]) -> None:
        """Cut the slabs into regions, unless they are the ones of the last run."""
        buffers = [slab.buffer for slab in slabs]
        if len(buffers) == len(self._arena) and all(
            a is b for a, b in zip(buffers, self._arena, strict=True)
        ):
            return
        regions: dict[tuple[int, int, int], cl.Buffer] = {}
        for kernel, position, slab, offset, size in self._regions:
            region = regions.get((slab, offset, size))
            if region is None:
                region = regions[slab, offset, size] = buffers[slab].get_sub_region(offset, size)
            kernel.set_arg(position, region)
        self._arena = buffers
        self._arena_regions = list(regions.values())  # a kernel does not keep its arguments alive


class OpenclExecutable(Executable):
    """A compiled graph."""

    def __init__(self, graph: Graph, device: Device, program: Program, *, started_s: float) -> None:
        self.graph = graph
        self.device = device
        self.program = program
        self.compile_time_s = time.perf_counter() - started_s

    def __call__(self, arrays: Sequence[DeviceArray]) -> list[DeviceArray]:
        return self.program.run(arrays)

    def temporary_memory_bytes(self) -> int:
        return self.program.arena_bytes
