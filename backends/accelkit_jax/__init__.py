"""The JAX backend: XLA programs on CPUs, GPUs and TPUs.

Requires jax>=0.5, with the plugin of the device at hand (``jax[cuda12]``, ``jax[tpu]``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from accelkit import host
from accelkit.backend import Backend, CompileOptions, Executable, MemoryStatistics
from accelkit.device import Device, DeviceInfo
from accelkit.dtypes import dtype
from accelkit.errors import AccelkitError, OutOfMemoryError
from accelkit.graph import Graph, Node, TensorSpec
from accelkit.primitives.primitive import Primitive
from accelkit_jax import philox, runtime
from accelkit_jax.compile import compile_graph, precision, preferred_options
from accelkit_jax.runtime import wide_types
from accelkit_jax.table import PRECISE, TABLE

__all__ = ["JaxBackend"]

_EAGER_PROGRAMS = 4096
_SMALL_BYTES = 1 << 16
_USUAL = 3  # transfers of one shape before a program is compiled for it
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
_NOT_ON_TPU = frozenset({"float64"})  # emulated there, and only by some operations


class JaxBackend(Backend):
    """Compiles whole graphs with XLA, and single primitives where none is at hand."""

    name: ClassVar[str] = "jax"
    table = TABLE
    capabilities = frozenset(
        {
            "float64",
            "float16",
            "bfloat16",
            "fusion",
        }
    )

    def __init__(self) -> None:
        self._dtypes: dict[Any, Any] = {}
        self._eager: dict[Any, Callable[..., Any]] = {}
        self._transfers: dict[Any, int] = {}

    # --- devices --------------------------------------------------------------------------------

    def devices(self) -> list[DeviceInfo]:
        return [_describe(native, name) for native, name in runtime.platform_devices().items()]

    def dtype_names(self, device: Device) -> frozenset[str]:
        names = super().dtype_names(device)
        return names - _NOT_ON_TPU if device.kind == "tpu" else names

    def synchronize(self, device: Device) -> None:
        with wide_types():
            native = runtime.jax_device(device)
            jax.block_until_ready(native.client.live_arrays())

    def memory(self, device: Device) -> MemoryStatistics:
        statistics = runtime.jax_device(device).memory_stats()
        if not statistics:
            return host.process_memory()
        return MemoryStatistics(
            statistics.get("bytes_in_use"),
            statistics.get("peak_bytes_in_use"),
            "device allocator (jax.Device.memory_stats)",
        )

    def reset_peak_memory(self, device: Device) -> None:
        if device.kind == "cpu":
            host.reset_peak_memory()

    # --- arrays ---------------------------------------------------------------------------------

    def put(self, array: np.ndarray, device: Device) -> Any:
        # JAX may alias a NumPy array for good, whatever it was asked for: give it a copy.
        private = np.array(array, order="C")
        with wide_types():
            if private.nbytes <= _SMALL_BYTES and self._is_usual(private, device):
                return _transfer(runtime.jax_device(device))(private)
            return jax.device_put(private, runtime.jax_device(device))

    def stage(self, array: np.ndarray, device: Device) -> Any:
        return array  # a compiled program transfers it itself, in a tenth of `device_put`'s time

    def _is_usual(self, array: np.ndarray, device: Device) -> bool:
        """Whether arrays of this shape and dtype go to the device again and again.

        A step's scalars do. For them a compiled identity pays, which JAX calls in a fifth of
        the time that `device_put` takes.
        """
        kind = (array.shape, array.dtype, device)
        count = self._transfers.get(kind, 0)
        if count < _USUAL:
            if len(self._transfers) >= _EAGER_PROGRAMS:
                self._transfers.clear()
            self._transfers[kind] = count + 1
        return count >= _USUAL

    def get(self, array: Any) -> np.ndarray:
        with wide_types():
            return np.array(array)

    def spec(self, array: Any) -> TensorSpec:
        found = self._dtypes.get(array.dtype)
        if found is None:
            found = self._dtypes[array.dtype] = dtype(array.dtype)
        return TensorSpec(array.shape, found)

    def copy(self, array: Any, device: Device) -> Any:
        with wide_types():
            return jax.numpy.array(array, copy=True, device=runtime.jax_device(device))

    def device_of(self, array: Any) -> Device:
        (native,) = array.devices()
        return runtime.device_name(native)

    def owns(self, array: object) -> bool:
        return isinstance(array, jax.Array)

    def to_dlpack(self, array: Any, **options: Any) -> Any:
        with wide_types():
            return array.__dlpack__(**options)

    def dlpack_device(self, array: Any) -> tuple[int, int]:
        with wide_types():
            kind, index = array.__dlpack_device__()
        return int(kind), int(index)

    def from_dlpack(self, source: Any, device: Device) -> Any:
        with wide_types():
            # Shared where possible. XLA never writes to memory that it does not own, so a
            # donated import is copied.
            return jax.device_put(jax.numpy.from_dlpack(source), runtime.jax_device(device))

    # --- programs -------------------------------------------------------------------------------

    def implementation(self, primitive: Primitive, device: Device) -> Callable[..., Any]:
        function = super().implementation(primitive, device)
        if primitive.name == "random_uniform":
            blocks = philox.generator(runtime.jax_device(device))
            return functools.partial(function, blocks=blocks)
        if primitive.name in ("cond", "scan"):
            return functools.partial(function, implementation=self._node_implementation(device))
        return function

    def _node_implementation(
        self, device: Device, options: CompileOptions | None = None
    ) -> Callable[[Node], Callable[..., Any]]:
        level = precision(options or CompileOptions())
        philox.generator(runtime.jax_device(device))  # checked now: a trace has no values

        def find(node: Node) -> Callable[..., Any]:
            name = node.primitive.name
            if name in PRECISE and name in self.table:
                return functools.partial(self.table[name], precision=level)
            if name in ("cond", "scan"):
                return functools.partial(self.table[name], implementation=find)
            return self.implementation(node.primitive, device)

        return find

    def run(
        self,
        primitive: Primitive,
        arrays: Sequence[Any],
        parameters: Mapping[str, Any],
        device: Device,
    ) -> Any:
        key = (
            primitive,
            primitive.lowerings.get(self.name),
            device,
            # 0.0 and -0.0 are equal, but not the same constant
            *((k, repr(v) if v.__class__ is float else v) for k, v in parameters.items()),
        )
        with wide_types():
            program = self._eager.get(key)
            if program is None:
                if len(self._eager) >= _EAGER_PROGRAMS:
                    self._eager.clear()
                program = self._eager[key] = self._eager_program(primitive, parameters, device)
            return program(*arrays)

    def _eager_program(
        self, primitive: Primitive, parameters: Mapping[str, Any], device: Device
    ) -> Callable[..., Any]:
        """One primitive with fixed parameters, compiled by JAX for each shape that it meets."""
        function = functools.partial(
            self.implementation(primitive, device),
            **{k: self._prepared(v) for k, v in parameters.items()},
        )
        # Without operands nothing else says where the result is to be.
        native = runtime.jax_device(device)
        program: Callable[..., Any] = jax.jit(
            function,
            out_shardings=SingleDeviceSharding(native),
            compiler_options=preferred_options(native) or None,
        )
        return program

    def _prepared(self, parameter: Any) -> Any:
        """A body of control flow as this backend runs it; other parameters as they are."""
        if not isinstance(parameter, Graph):
            return parameter
        from accelkit.passes import prepare

        return prepare(parameter, self)

    def keeps_barriers(self, device: Device) -> bool:
        return device.kind != "cpu"  # there XLA drops them before it merges equal expressions

    def compile(
        self,
        graph: Graph,
        device: Device,
        *,
        donate: frozenset[int] = frozenset(),
        options: CompileOptions | None = None,
    ) -> Executable:
        options = options or CompileOptions()
        with wide_types():
            return compile_graph(
                graph,
                device,
                runtime.jax_device(device),
                self._node_implementation(device, options),
                donate,
                options,
            )

    def translate(self, error: BaseException) -> AccelkitError:
        text = str(error)
        if not isinstance(error, AccelkitError) and any(sign in text for sign in _OUT_OF_MEMORY):
            return OutOfMemoryError(
                f"JAX ran out of device memory. {type(error).__name__}: {text[:2000]}"
            )
        return super().translate(error)


@functools.cache
def _transfer(native: jax.Device) -> Callable[[np.ndarray], Any]:
    """The identity as a program, whose operand is copied to the device."""
    program: Callable[[np.ndarray], Any] = jax.jit(
        lambda x: x, out_shardings=SingleDeviceSharding(native)
    )
    return program


def _describe(native: jax.Device, name: Device) -> DeviceInfo:
    version = f"jax {jax.__version__}, {native.client.platform_version.splitlines()[0]}"
    if name.kind == "cpu":
        return DeviceInfo(name, host.processor_name(), host.memory_bytes(), version)
    limit = (native.memory_stats() or {}).get("bytes_limit")
    return DeviceInfo(name, native.device_kind, limit, version)
