"""The torch backend: CPU, CUDA, ROCm (as ``cuda``), Intel XPU and Apple MPS.

Requires torch. Primitives are functions of :mod:`accelkit_torch.table`; a compiled graph is
rewritten (:mod:`accelkit_torch.rewrites`) and run as straight-line Python.

The tests run on the CPU. What only accelerators do (device listing, memory statistics, TF32
switches, Philox in int64, clamped indices, ordered pooling gradients) is kept in functions of
their own, of which those that compute are tested on the CPU as well; nothing has run on a GPU yet.
On CUDA, ``deterministic`` needs the environment variable ``CUBLAS_WORKSPACE_CONFIG=:4096:8``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from accelkit.backend import Backend, CompileOptions, Executable, MemoryStatistics
from accelkit.device import Device, DeviceInfo
from accelkit.errors import AccelkitError, DTypeError, OutOfMemoryError
from accelkit.graph import Graph, TensorSpec
from accelkit.primitives.primitive import Primitive
from accelkit_torch import devices as torch_devices
from accelkit_torch import shaping
from accelkit_torch.control import CONTROL_FLOW, control_flow
from accelkit_torch.dtypes import FROM_TORCH
from accelkit_torch.precision import FULL, matmul_precision
from accelkit_torch.table import TABLE
from accelkit_torch.transfers import CopyStream, Driver

__all__ = ["TorchBackend"]

_NO_FLOAT64 = frozenset({"mps"})
_WITH_STREAMS = frozenset({"cuda", "xpu"})
_PRODUCTS = ("matmul", "conv2d", "conv2d_input_grad", "conv2d_weight_grad", "depthwise_conv2d")


class TorchBackend(Backend):
    """Computes with torch on whatever devices it finds."""

    name: ClassVar[str] = "torch"
    table = TABLE
    capabilities = frozenset(
        {
            "float64",
            "float16",
            "bfloat16",
            "fast_grouped_convolution",
            "workspaces",
        }
    )

    def __init__(self) -> None:
        self._functions: dict[Device, dict[str, Callable[..., Any]]] = {}
        self._copy_streams: dict[Device, CopyStream] = {}
        self._lock = threading.Lock()

    def devices(self) -> list[DeviceInfo]:
        return torch_devices.list_devices()

    def put(self, array: np.ndarray, device: Device) -> Any:
        return shaping.from_numpy(array).to(torch_devices.native_device(device))

    def upload(self, array: np.ndarray, device: Device) -> Callable[[], Any]:
        if device.kind not in _WITH_STREAMS or not array.nbytes:
            return super().upload(array, device)
        with self._lock:
            stream = self._copy_streams.get(device)
            if stream is None:
                driver = Driver(torch_devices.native_device(device))
                stream = self._copy_streams[device] = CopyStream(driver)
        return stream.upload(array)

    def stage(self, array: np.ndarray, device: Device) -> Any:
        # Shares the memory, which programs do not write to: it is never donated.
        staged = torch.from_numpy(array)
        return staged if device.kind == "cpu" else staged.to(torch_devices.native_device(device))

    def get(self, array: Any) -> np.ndarray:
        return shaping.to_numpy(array)

    def spec(self, array: Any) -> TensorSpec:
        dtype = FROM_TORCH.get(array.dtype)
        if dtype is None:
            names = ", ".join(own.name for own in FROM_TORCH.values())
            raise DTypeError(f"A tensor has dtype {array.dtype}. Supported: {names}.")
        return TensorSpec(tuple(array.shape), dtype)

    def run(
        self,
        primitive: Primitive,
        arrays: Sequence[Any],
        parameters: Mapping[str, Any],
        device: Device,
    ) -> Any:
        try:
            function = self._functions[device][primitive.name]
        except KeyError:
            function = self.implementation(primitive, device)
        return function(*arrays, **parameters)

    def implementation(self, primitive: Primitive, device: Device) -> Callable[..., Any]:
        functions = self._functions.get(device)
        if functions is None:
            functions = self._functions[device] = _functions_on(device)
            functions.update(control_flow(self, device))
        found = functions.get(primitive.name)
        return found if found is not None else primitive.lowerings[self.name]

    def supports(self, primitive: Primitive, parameters: Mapping[str, Any]) -> bool:
        return primitive.name in CONTROL_FLOW or super().supports(primitive, parameters)

    def dtype_names(self, device: Device) -> frozenset[str]:
        names = super().dtype_names(device)
        return names - {"float64"} if device.kind in _NO_FLOAT64 else names

    def compile(
        self,
        graph: Graph,
        device: Device,
        *,
        donate: frozenset[int] = frozenset(),
        options: CompileOptions | None = None,
    ) -> Executable:
        from accelkit_torch.compile import TorchExecutable

        return TorchExecutable(self, graph, device, donate, options or CompileOptions())

    def planned_bytes(
        self,
        graph: Graph,
        device: Device,
        donate: frozenset[int],
        options: CompileOptions | None = None,
    ) -> int:
        from accelkit_torch.memory import planned_bytes

        return planned_bytes(graph, donate, options or CompileOptions())

    def synchronize(self, device: Device) -> None:
        torch_devices.synchronize(device)

    def memory(self, device: Device) -> MemoryStatistics:
        return torch_devices.memory(device)

    def reset_peak_memory(self, device: Device) -> None:
        torch_devices.reset_peak_memory(device)

    def copy(self, array: Any, device: Device) -> Any:
        return array.detach().clone(memory_format=torch.contiguous_format)

    def to_dlpack(self, array: Any, **options: Any) -> Any:
        return array.detach().__dlpack__(**options)

    def dlpack_device(self, array: Any) -> tuple[int, int]:
        kind, index = array.__dlpack_device__()
        return int(kind), int(index)

    def from_dlpack(self, source: Any, device: Device) -> Any:
        # Shares the memory where it can. A program never writes to it: see `compile._is_shared`.
        try:
            return torch.from_dlpack(source).to(torch_devices.native_device(device))
        except BufferError:  # memory that must not be written to, which torch does not know
            return self.put(np.from_dlpack(source), device)

    def device_of(self, array: Any) -> Device:
        return torch_devices.from_native(array.device)

    def owns(self, array: object) -> bool:
        return isinstance(array, torch.Tensor)

    def translate(self, error: BaseException) -> AccelkitError:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in text
        ):
            translated = OutOfMemoryError(f"torch ran out of memory: {text[:2000]}")
            translated.__cause__ = error
            return translated
        return super().translate(error)


def _functions_on(device: Device) -> dict[str, Callable[..., Any]]:
    """The table for eager use on one device."""
    functions = dict(TABLE)
    native = torch_devices.native_device(device)
    for name in shaping.CREATION:
        functions[name] = functools.partial(TABLE[name], device=native)
    if device.kind != "cpu":
        for name in _PRODUCTS:
            functions[name] = _in_full_precision(TABLE[name], device)
    return functions


def _in_full_precision(function: Callable[..., Any], device: Device) -> Callable[..., Any]:
    """torch lets cuDNN use TF32 unless told otherwise."""

    @functools.wraps(function)
    def run(*arrays: Any, **parameters: Any) -> Any:
        with matmul_precision(device, FULL):
            return function(*arrays, **parameters)

    return run
