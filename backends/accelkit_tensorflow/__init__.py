"""The TensorFlow backend: functions compiled by XLA, state updated in place.

On CPUs large convolutions run on TensorFlow's own kernels, which are oneDNN's, or by Winograd's
transforms.

Requires tensorflow>=2.18 or tensorflow-cpu>=2.18.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from accelkit import host
from accelkit.backend import Backend, CompileOptions, Executable, MemoryStatistics
from accelkit.device import Device, DeviceInfo
from accelkit.dtypes import dtype
from accelkit.errors import AccelkitError, CapabilityError, OutOfMemoryError
from accelkit.graph import Graph, Node, TensorSpec, Value
from accelkit.primitives.primitive import Primitive
from accelkit_tensorflow import philox, runtime
from accelkit_tensorflow.arrays import VariableArray, as_tensor
from accelkit_tensorflow.compile import TensorflowExecutable
from accelkit_tensorflow.framework import has_xla, tf
from accelkit_tensorflow.placement import place
from accelkit_tensorflow.planned import kernel_bytes
from accelkit_tensorflow.table import TABLE, XLA_TABLE

__all__ = ["TensorflowBackend", "VariableArray"]

_COMPILED_CALLS = 1024  # of each primitive
_CONTROL = ("cond", "scan")
_DLPACK_CPU, _DLPACK_CUDA = 1, 2
# How TensorFlow says that an operation has no kernel for a dtype or an option.
_NO_KERNEL = (
    tf.errors.NotFoundError,
    tf.errors.UnimplementedError,
    tf.errors.InvalidArgumentError,
    TypeError,
)


class TensorflowBackend(Backend):
    """Compiles whole graphs with XLA; runs single primitives by TensorFlow's kernels.

    Native arrays are ``tf.Tensor`` objects, and :class:`VariableArray` for state that a compiled
    step updates in place.
    """

    name: ClassVar[str] = "tensorflow"
    table = TABLE

    def __init__(self) -> None:
        capabilities = {
            "float64",
            "float16",
            "bfloat16",
        }
        if has_xla():
            # without XLA there are no parts that TensorFlow's kernels run
            capabilities |= {"fusion", "workspaces", "xla"}
        self.capabilities = frozenset(capabilities)
        self._dtypes: dict[Any, Any] = {}
        self._programs: dict[Primitive, dict[Any, Executable]] = {}

    # --- devices --------------------------------------------------------------------------------

    def devices(self) -> list[DeviceInfo]:
        return [_describe(device) for device in runtime.discover()]

    def synchronize(self, device: Device) -> None:
        if device.kind != "cpu":  # calls on the CPU return when they are done
            tf.test.experimental.sync_devices()

    def memory(self, device: Device) -> MemoryStatistics:
        return runtime.memory(device)

    def reset_peak_memory(self, device: Device) -> None:
        runtime.reset_peak_memory(device)

    # --- arrays ---------------------------------------------------------------------------------

    def put(self, array: np.ndarray, device: Device) -> Any:
        with tf.device(runtime.native_name(device)):
            return tf.constant(array)

    def get(self, array: Any) -> np.ndarray:
        found: np.ndarray = np.array(as_tensor(array).numpy())
        return found

    def spec(self, array: Any) -> TensorSpec:
        found = self._dtypes.get(array.dtype)
        if found is None:
            found = self._dtypes[array.dtype] = dtype(array.dtype.name)
        return TensorSpec(tuple(array.shape), found)

    def copy(self, array: Any, device: Device) -> Any:
        # Tensors never change, and a reading of a variable is not touched by later steps.
        return as_tensor(array)

    def device_of(self, array: Any) -> Device:
        name = tf.DeviceSpec.from_string(array.device)
        return Device("tensorflow", name.device_type.lower(), name.device_index)

    def owns(self, array: object) -> bool:
        return isinstance(array, tf.Tensor | tf.Variable | VariableArray)

    def to_dlpack(self, array: Any, **options: Any) -> Any:
        return tf.experimental.dlpack.to_dlpack(as_tensor(array))

    def from_dlpack(self, source: Any, device: Device) -> Any:
        if source.__dlpack_device__()[0] == _DLPACK_CPU:
            return super().from_dlpack(source, device)
        imported = tf.experimental.dlpack.from_dlpack(source.__dlpack__())
        with tf.device(runtime.native_name(device)):
            return tf.identity(imported)

    def dlpack_device(self, array: Any) -> tuple[int, int]:
        device = self.device_of(array)
        return (_DLPACK_CUDA, device.index) if device.kind == "gpu" else (_DLPACK_CPU, 0)

    # --- programs -------------------------------------------------------------------------------

    def _node_implementation(self, device: Device) -> Callable[[Node], Callable[..., Any]]:
        """How the nodes of a compiled program are written."""
        philox.check_generator(runtime.native_name(device))
        better = XLA_TABLE if "xla" in self.capabilities else {}

        def find(node: Node) -> Callable[..., Any]:
            name = node.primitive.name
            if name in _CONTROL:
                return functools.partial(self.table[name], implementation=find)
            return better.get(name) or self.implementation(node.primitive, device)

        return find

    def keeps_barriers(self, device: Device) -> bool:
        return device.kind != "cpu"  # there XLA drops them before it merges equal expressions

    def workspace_bytes(self, graph: Graph, device: Device, options: CompileOptions) -> int:
        if device.kind != "cpu" or "xla" not in self.capabilities:
            return 0
        return kernel_bytes(place(graph), workspaces=options.workspaces)

    def compile(
        self,
        graph: Graph,
        device: Device,
        *,
        donate: frozenset[int] = frozenset(),
        options: CompileOptions | None = None,
    ) -> Executable:
        options = options or CompileOptions()
        if options.deterministic and device.kind != "cpu":
            raise CapabilityError(
                f"TensorFlow cannot be asked for deterministic programs on {device} without "
                f"changing the whole process. Use the CPU or another backend, or call "
                f"tf.config.experimental.enable_op_determinism() yourself and leave "
                f"deterministic=False."
            )
        return TensorflowExecutable(
            graph,
            device,
            self._node_implementation(device),
            donate,
            options,
            use_xla="xla" in self.capabilities,
        )

    def run(
        self,
        primitive: Primitive,
        arrays: Sequence[Any],
        parameters: Mapping[str, Any],
        device: Device,
    ) -> Any:
        tensors = [as_tensor(array) for array in arrays]
        programs = self._programs.get(primitive)
        if programs is not None:
            program = programs.get(_key(tensors, parameters, device))
            if program is not None:
                return _result(primitive, program(tensors))
        with runtime.on(device), runtime.tf32(False):
            if primitive.name in _CONTROL:
                return self._run_compiled(primitive, tensors, parameters, device)
            try:
                return self.implementation(primitive, device)(*tensors, **parameters)
            except _NO_KERNEL as missing:
                try:
                    return self._run_compiled(primitive, tensors, parameters, device)
                except tf.errors.OpError:
                    raise missing from None

    def _run_compiled(
        self,
        primitive: Primitive,
        tensors: Sequence[Any],
        parameters: Mapping[str, Any],
        device: Device,
    ) -> Any:
        """Run a primitive as a program of its own: XLA knows more dtypes than the kernels do."""
        from accelkit.passes import prepare

        inputs = [Value(self.spec(tensor), None, i) for i, tensor in enumerate(tensors)]
        specs = primitive.infer([value.spec for value in inputs], parameters)
        node = Node(primitive, inputs, parameters, specs)
        graph = Graph(inputs, [node], node.outputs, name=primitive.name)
        program = self.compile(prepare(graph, self), device)
        found = _result(primitive, program(tensors))
        programs = self._programs.setdefault(primitive, {})
        if len(programs) >= _COMPILED_CALLS:
            programs.clear()
        programs[_key(tensors, parameters, device)] = program
        return found

    def translate(self, error: BaseException) -> AccelkitError:
        if isinstance(error, tf.errors.ResourceExhaustedError):
            return OutOfMemoryError(
                f"TensorFlow ran out of memory. {type(error).__name__}: {str(error)[:2000]}"
            )
        return super().translate(error)


def _key(tensors: Sequence[Any], parameters: Mapping[str, Any], device: Device) -> Any:
    """Equal for calls of a primitive that one program serves."""
    return (
        device,
        *((tensor.dtype, tuple(tensor.shape)) for tensor in tensors),
        # 0.0 and -0.0 are equal, but not the same constant
        *((k, repr(v) if v.__class__ is float else v) for k, v in parameters.items()),
    )


def _result(primitive: Primitive, outputs: Sequence[Any]) -> Any:
    return tuple(outputs) if primitive.multiple_outputs else outputs[0]


def _describe(device: Device) -> DeviceInfo:
    version = f"tensorflow {tf.__version__}" + ("" if has_xla() else ", without XLA")
    if device.kind == "cpu":
        return DeviceInfo(device, host.processor_name(), host.memory_bytes(), version)
    physical = tf.config.list_physical_devices(device.kind.upper())
    details: Mapping[str, Any] = {}
    if device.index < len(physical):
        details = tf.config.experimental.get_device_details(physical[device.index])
    return DeviceInfo(device, details.get("device_name", device.kind.upper()), None, version)
