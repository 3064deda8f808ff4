"""The OpenCL backend: GPUs, CPUs and accelerators of every vendor, through pyopencl.

Requires ``pyopencl`` and a driver (for CPUs ``pocl-binary-distribution`` brings one). A graph
becomes one static plan: fused kernels, one arena, launches that never wait. One primitive run
eagerly is a plan of one node.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from accelkit import dtypes
from accelkit.backend import Backend, CompileOptions, Executable, MemoryStatistics
from accelkit.device import Device, DeviceInfo
from accelkit.dtypes import DType
from accelkit.errors import AccelkitError, CapabilityError, DTypeError
from accelkit.graph import Graph, Node, TensorSpec, Value
from accelkit.primitives.primitive import PRIMITIVES, Primitive
from accelkit_opencl.bundle import BundleProvider
from accelkit_opencl.compile import GroupTooLargeError, OpenclExecutable, Program
from accelkit_opencl.exchange import export, import_shared, is_immutable
from accelkit_opencl.expressions import EXPRESSIONS
from accelkit_opencl.failures import translate
from accelkit_opencl.lowering import Choice, Profile
from accelkit_opencl.nodes import NODE_RULES
from accelkit_opencl.plan import Plan, make_plan
from accelkit_opencl.programs import Provider, SourceProvider
from accelkit_opencl.runtime import DeviceArray, Runtime, describe, discover, open_device
from accelkit_opencl.schedule import REDUCTIONS
from accelkit_opencl.tuning import load_choices
from accelkit_opencl.views import COMPUTED, VIEW_PRIMITIVES

__all__ = ["OpenclBackend"]

_NATIVE = frozenset(
    {
        *COMPUTED,
        *EXPRESSIONS,
        *NODE_RULES,
        *REDUCTIONS,
        *VIEW_PRIMITIVES,
        "barrier",
        "cast",
        "constant",
        "select",
    }
)


class OpenclBackend(Backend):
    """Plans whole graphs onto OpenCL devices."""

    name: ClassVar[str] = "opencl"
    table: Mapping[str, Callable[..., Any]] = {}
    capabilities = frozenset(
        {
            "float64",
            "fast_grouped_convolution",
            "fusion",
            "workspaces",
        }
    )

    def __init__(self) -> None:
        self._providers: dict[Device, Provider] = {}
        self._profiles: dict[Device, Profile] = {}
        self._eager: dict[Any, Program] = {}
        self._lock = threading.RLock()

    # --- devices and memory ------------------------------------------------------------------

    def devices(self) -> list[DeviceInfo]:
        return [describe(found) for found in discover()]

    def put(self, array: np.ndarray, device: Device) -> DeviceArray:
        self._require_dtype(dtypes.dtype(array.dtype), device)
        return open_device(device).put(array)

    def get(self, array: DeviceArray) -> np.ndarray:
        return array.runtime.get(array)

    def spec(self, array: DeviceArray) -> TensorSpec:
        return TensorSpec(array.shape, array.dtype)

    def copy(self, array: DeviceArray, device: Device) -> DeviceArray:
        return array.runtime.copy(array)

    def to_dlpack(self, array: DeviceArray, **options: Any) -> Any:
        return export(array, options)

    def from_dlpack(self, source: Any, device: Device) -> DeviceArray:
        host = np.from_dlpack(source)
        self._require_dtype(dtypes.dtype(host.dtype), device)
        runtime = open_device(device)
        shared = runtime.share(host) if is_immutable(source, host) else None
        return shared or runtime.put(host)

    def share_dlpack(self, source: Any, device: Device) -> DeviceArray:
        shared = import_shared(source, open_device(device))
        self._require_dtype(shared.dtype, device)
        return shared

    def device_of(self, array: DeviceArray) -> Device:
        return array.runtime.device

    def owns(self, array: object) -> bool:
        return isinstance(array, DeviceArray)

    def synchronize(self, device: Device) -> None:
        open_device(device).synchronize()

    def memory(self, device: Device) -> MemoryStatistics:
        memory = open_device(device).memory
        return MemoryStatistics(
            memory.in_use_bytes, memory.peak_bytes, "ledger of all OpenCL buffers in use"
        )

    def reset_peak_memory(self, device: Device) -> None:
        open_device(device).memory.reset_peak()

    def dtype_names(self, device: Device) -> frozenset[str]:
        names = super().dtype_names(device)
        return names if open_device(device).has_float64 else names - {"float64"}

    def _require_dtype(self, dtype: DType, device: Device) -> None:
        if dtype.name not in self.dtype_names(device):
            raise DTypeError(
                f"{device} does not support {dtype.name}. It supports: "
                f"{', '.join(sorted(self.dtype_names(device)))}."
            )

    def translate(self, error: BaseException) -> AccelkitError:
        return translate(error)

    # --- compiling and running ---------------------------------------------------------------

    def supports(self, primitive: Primitive, parameters: Mapping[str, Any]) -> bool:
        return primitive.name in _NATIVE and PRIMITIVES.get(primitive.name) is primitive

    def compile(
        self,
        graph: Graph,
        device: Device,
        *,
        donate: frozenset[int] = frozenset(),
        options: CompileOptions | None = None,
    ) -> Executable:
        start = time.perf_counter()
        program = self._program(graph, device, donate, options or CompileOptions())
        return OpenclExecutable(graph, device, program, started_s=start)

    def run(
        self,
        primitive: Primitive,
        arrays: Sequence[DeviceArray],
        parameters: Mapping[str, Any],
        device: Device,
    ) -> Any:
        created = self._without_kernel(primitive, arrays, parameters, device)
        if created is not None:
            return created
        key = (
            primitive.name,
            device,
            tuple((a.shape, a.dtype) for a in arrays),
            *((k, type(v), str(v) if v == 0 else v) for k, v in sorted(parameters.items())),
        )
        program = self._eager.get(key)
        if program is None:
            specs = [TensorSpec(a.shape, a.dtype) for a in arrays]
            inputs = [Value(spec, None, i) for i, spec in enumerate(specs)]
            node = Node(primitive, inputs, parameters, primitive.infer(specs, parameters))
            graph = Graph(inputs, [node], node.outputs, name=primitive.name)
            program = self._eager[key] = self._program(graph, device, frozenset(), CompileOptions())
        results = program.run(arrays)
        return tuple(results) if primitive.multiple_outputs else results[0]

    def _without_kernel(
        self,
        primitive: Primitive,
        arrays: Sequence[DeviceArray],
        parameters: Mapping[str, Any],
        device: Device,
    ) -> DeviceArray | None:
        """Eager primitives that fill or copy memory: they need no compiler."""
        if primitive.name == "full":
            dtype = parameters["dtype"]
            self._require_dtype(dtype, device)
            element = np.asarray(parameters["value"]).astype(dtype.numpy)
            return open_device(device).filled(parameters["shape"], dtype, element)
        if primitive.name == "constant":
            return self.put(parameters["value"].array, device)
        if primitive.name in ("reshape", "alias", "stop_gradient"):
            (array,) = arrays
            copied = array.runtime.copy(array)
            shape = parameters.get("shape", array.shape)
            if math.prod(shape) == math.prod(array.shape):
                return DeviceArray(copied.runtime, copied.allocation, shape, copied.dtype)
        return None

    def open_bundle(self, folder: str | Path, device: Device) -> None:
        """Take every kernel of a device from a bundle from now on; nothing is built from source.

        Args:
            folder: Written by ``python -m accelkit.opencl bundle``.
            device: An OpenCL device, of the kind that the bundle was made for.

        Raises:
            DataError, CorruptDataError: if the bundle is missing or damaged.
            DeviceError: if it was made for another device or driver.
        """
        provider = BundleProvider(Path(folder), open_device(device))
        with self._lock:
            self._providers[device] = provider
            self._profiles[device] = provider.profile
            self._eager = {key: p for key, p in self._eager.items() if key[1] is not device}

    def planned_bytes(
        self,
        graph: Graph,
        device: Device,
        donate: frozenset[int],
        options: CompileOptions | None = None,
    ) -> int:
        return self._plan(graph, device, donate, options or CompileOptions()).memory_bytes

    def has_own_memory(self, device: Device) -> bool:
        return not open_device(device).shares_host_memory

    def _plan(
        self, graph: Graph, device: Device, donate: frozenset[int], options: CompileOptions
    ) -> Plan:
        limit = open_device(device).handle.max_mem_alloc_size
        profile = self.profile(device)
        if not options.workspaces:
            profile = replace(profile, winograd=False)
        return make_plan(graph, donate, profile, limit_bytes=limit)

    def _program(
        self, graph: Graph, device: Device, donate: frozenset[int], options: CompileOptions
    ) -> Program:
        self._check_dtypes(graph, device)
        runtime = open_device(device)
        provider, planned = self._provider(runtime), self.profile(device)
        try:
            return Program(self._plan(graph, device, donate, options), runtime, provider)
        except GroupTooLargeError as error:
            if isinstance(provider, BundleProvider) or error.limit >= planned.max_group:
                raise
            with self._lock:  # smaller tiles from now on
                self.use_profile(device, replace(self.profile(device), max_group=error.limit))
        return self._program(graph, device, donate, options)

    def profile(self, device: Device) -> Profile:
        """What the choice of kernels on a device depends on, the tuner's results included."""
        with self._lock:
            if device not in self._profiles:
                self._profiles[device] = profile_of(open_device(device))
            return self._profiles[device]

    def use_choices(self, device: Device, choices: Mapping[str, Choice]) -> None:
        """Take these kernels for products that are compiled from now on.

        Args:
            device: An OpenCL device.
            choices: What the tuner found; empty for the defaults.
        """
        with self._lock:
            self.use_profile(device, replace(self.profile(device), choices=choices))

    def use_profile(self, device: Device, profile: Profile) -> None:
        """Choose kernels by this profile from now on.

        Args:
            device: An OpenCL device.
            profile: From :meth:`profile`, changed.
        """
        with self._lock:
            self._profiles[device] = profile

    def _provider(self, runtime: Runtime) -> Provider:
        with self._lock:
            if runtime.device not in self._providers:
                self._providers[runtime.device] = SourceProvider(runtime)
            return self._providers[runtime.device]

    def _check_dtypes(self, graph: Graph, device: Device) -> None:
        names = self.dtype_names(device)
        for node in graph.nodes:
            for value in node.outputs:
                if value.spec.dtype.name not in names:
                    raise CapabilityError(
                        f"{device} does not compute in {value.spec.dtype}, which "
                        f"{node.primitive.name}{f' in {node.scope}' if node.scope else ''} needs. "
                        f"It supports: {', '.join(sorted(names))}."
                    )


def profile_of(runtime: Runtime) -> Profile:
    """What the choice of kernels depends on, of an opened device."""
    handle = runtime.handle
    return Profile(
        cpu=runtime.is_cpu,
        vector_bytes=runtime.vector_bytes,
        registers=32 if runtime.vector_bytes >= 64 else 16,
        compute_units=handle.max_compute_units,
        max_group=handle.max_work_group_size,
        local_bytes=handle.local_mem_size,
        winograd=runtime.has_winograd,
        choices={}
        if os.environ.get("ACCELKIT_OPENCL_NO_TUNE", "0") != "0"
        else load_choices(runtime),
    )
