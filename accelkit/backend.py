"""What a backend is: a table of primitives, and a handful of methods.

To write one, subclass :class:`Backend`, fill ``table`` with one function per primitive
(``f(*arrays, **parameters)`` on the framework's own arrays; see :mod:`accelkit.primitives` for
their meaning) and say how arrays get in and out. Composite primitives may be left out: their
definition is used instead. Prove it with the kit in :mod:`accelkit.parity`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from accelkit import dtypes
from accelkit.device import Device, DeviceInfo
from accelkit.dtypes import DType
from accelkit.errors import AccelkitError, BackendError, OptionError, OutOfMemoryError
from accelkit.graph import Graph, TensorSpec
from accelkit.primitives.primitive import Primitive

__all__ = [
    "Backend",
    "CompileOptions",
    "Executable",
    "Interpreter",
    "MemoryStatistics",
]


class MemoryStatistics(NamedTuple):
    """Device memory in use.

    Attributes:
        in_use_bytes: Now; None where unknown.
        peak_bytes: The most since the process or the last reset began; None where unknown.
        method: How the figures were read, for reports.
        file_bytes: How much of both now is files mapped into memory, above all the code of
            libraries, which comes in as it is first run. It holds no arrays.
        noise_bytes: What else in the process may come and go unseen; 0 where only arrays count.
    """

    in_use_bytes: int | None
    peak_bytes: int | None
    method: str
    file_bytes: int = 0
    noise_bytes: int = 0


class CompileOptions(NamedTuple):
    """How a graph is to be compiled.

    Attributes:
        matmul_precision: ``"float32"`` (full, the default) or ``"tf32"``: how float32 matrix
            products and convolutions may be computed on devices with reduced-precision units.
        deterministic: Ask for algorithms that give the same bits every time.
        workspaces: Whether kernels may take memory of their own to be faster, as Winograd's
            transforms do. Backends with the capability of this name heed it.
    """

    matmul_precision: str = "float32"
    deterministic: bool = False
    workspaces: bool = True


class Executable(ABC):
    """A compiled graph.

    Attributes:
        graph: What was compiled.
        device: Where it runs.
        compile_time_s: How long compilation took, in seconds.
        compiles_in_first_call: Whether a part of it is left to the first call.
    """

    graph: Graph
    device: Device
    compile_time_s: float = 0.0
    compiles_in_first_call: bool = False

    @abstractmethod
    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """Run on native arrays, one per graph input; returns one per graph output.

        Does not wait for the device. Donated inputs must not be used afterwards; a list of them
        may be emptied, so that it does not keep what the program replaces.
        """

    def temporary_memory_bytes(self) -> int | None:
        """Memory for intermediates as planned by the compiler, None where unknown."""
        return None


class Backend(ABC):
    """Base class of all backends.

    ``devices``, ``put``, ``get``, ``spec`` and ``compile`` must be written. Everything else has a
    default that is right for arrays in host memory and computed at once; what a backend overrides
    says what is special about it: how it runs one primitive (``run``, ``implementation``,
    ``supports``, ``dtype_names``), where arrays are and how they travel (``device_of``, ``owns``,
    ``copy`` and DLPack), when they are ready (``synchronize``), what they take (``memory``) and
    what its failures mean (``translate``).

    Attributes:
        name: Its name in the registry and in device names.
        table: Native implementations by primitive name.
        capabilities: What it can do beyond the table; the core asks for these by name:

            - ``"fast_grouped_convolution"``: grouped convolutions need not be split,
            - ``"float64"``, ``"bfloat16"``, ``"float16"``: dtypes it computes in,
            - ``"fusion"``: chains of elementwise primitives become one kernel, and what is
              between them takes no memory,
            - ``"workspaces"``: kernels that take memory to be faster can be left out.
    """

    name: ClassVar[str]
    table: Mapping[str, Callable[..., Any]]
    capabilities: frozenset[str] = frozenset()

    @abstractmethod
    def devices(self) -> list[DeviceInfo]:
        """Usable devices, the preferred one first."""

    @abstractmethod
    def put(self, array: np.ndarray, device: Device) -> Any:
        """Copy a NumPy array to the device; later changes of ``array`` have no effect."""

    def upload(self, array: np.ndarray, device: Device) -> Callable[[], Any]:
        """Start to copy a NumPy array to the device, beside what the device computes.

        Called in a thread that prepares batches. ``array`` may be changed when it returns.

        Returns:
            Gives the native array; called once, in the thread that uses it. What that thread
            computes afterwards comes after the copy. By default ``put`` has done everything,
            which is right where ``put`` itself does not wait for the device.
        """
        native = self.put(array, device)
        return lambda: native

    def stage(self, array: np.ndarray, device: Device) -> Any:
        """An operand of compiled programs from a small host array that nobody changes any more.

        By default a copy as by :meth:`put`. A backend whose programs take host memory saves it.
        """
        return self.put(array, device)

    @abstractmethod
    def get(self, array: Any) -> np.ndarray:
        """Copy a native array to the host, waiting for it."""

    @abstractmethod
    def spec(self, array: Any) -> TensorSpec:
        """Shape and dtype of a native array."""

    @abstractmethod
    def compile(
        self,
        graph: Graph,
        device: Device,
        *,
        donate: frozenset[int] = frozenset(),
        options: CompileOptions | None = None,
    ) -> Executable:
        """Compile a prepared graph (see :func:`accelkit.passes.prepare`).

        Args:
            graph: Only primitives that this backend supports.
            device: Where it will run.
            donate: Positions of inputs whose memory may be reused for outputs.
            options: Precision, determinism and workspaces; the defaults if None.
        """

    def workspace_bytes(self, graph: Graph, device: Device, options: CompileOptions) -> int:
        """Most that kernels take at a time beside what goes in and comes out, as far as is known.

        Added to what liveness tells where :meth:`planned_bytes` is None.

        Args:
            graph: A prepared graph.
            device: Where it would run.
            options: Of the program.
        """
        return 0

    def planned_bytes(
        self,
        graph: Graph,
        device: Device,
        donate: frozenset[int],
        options: CompileOptions | None = None,
    ) -> int | None:
        """Memory that a prepared graph would take beyond its inputs, if this backend plans it
        itself and can tell without compiling; None otherwise."""
        return None

    def keeps_barriers(self, device: Device) -> bool:
        """Whether compiled programs honour the primitive ``barrier``, by it or by their order.

        Otherwise programs are cut there, and compiled in parts.
        """
        return True

    def has_own_memory(self, device: Device) -> bool:
        """Whether the device's memory is another than the host's."""
        return device.kind != "cpu"

    def run(
        self,
        primitive: Primitive,
        arrays: Sequence[Any],
        parameters: Mapping[str, Any],
        device: Device,
    ) -> Any:
        """Run one primitive now; a tuple of arrays if it has several outputs."""
        return self.implementation(primitive, device)(*arrays, **parameters)

    def implementation(self, primitive: Primitive, device: Device) -> Callable[..., Any]:
        """The native function for a supported primitive."""
        found = self.table.get(primitive.name)
        return found if found is not None else primitive.lowerings[self.name]

    def supports(self, primitive: Primitive, parameters: Mapping[str, Any]) -> bool:
        """Whether the primitive runs natively; otherwise its definition is inlined."""
        return primitive.name in self.table or self.name in primitive.lowerings

    def dtype_names(self, device: Device) -> frozenset[str]:
        """Names of the dtypes that arrays on this device can have."""
        optional = ("float64", "float16", "bfloat16")
        missing = {name for name in optional if name not in self.capabilities}
        return frozenset(d.name for d in dtypes.ALL) - missing

    def synchronize(self, device: Device) -> None:  # noqa: B027 - synchronous by default
        """Wait until everything queued on the device is done."""

    def memory(self, device: Device) -> MemoryStatistics:
        """Memory in use on the device."""
        return MemoryStatistics(None, None, "unknown")

    def reset_peak_memory(self, device: Device) -> None:  # noqa: B027 - nothing kept by default
        """Start a new peak measurement, where the backend keeps one."""

    def copy(self, array: Any, device: Device) -> Any:
        """A copy of a native array on its own device."""
        return self.put(self.get(array), device)

    def to_dlpack(self, array: Any, **options: Any) -> Any:
        """A DLPack capsule; by default of a host copy."""
        return self.get(array).__dlpack__(**options)

    def dlpack_device(self, array: Any) -> tuple[int, int]:
        """DLPack's (device type, index) of the exported memory; by default the host's."""
        return (1, 0)

    def from_dlpack(self, source: Any, device: Device) -> Any:
        """Import an object with ``__dlpack__``; by default through host memory."""
        return self.put(np.from_dlpack(source), device)

    def share_dlpack(self, source: Any, device: Device) -> Any:
        """Import an object with ``__dlpack__`` without a copy.

        Raises:
            OptionError: if that is impossible.
        """
        if type(self).from_dlpack is Backend.from_dlpack:
            raise OptionError(f"{device} imports DLPack by a copy, which copy=False refuses.")
        return self.from_dlpack(source, device)

    def device_of(self, array: Any) -> Device:
        """The device that holds a native array."""
        return self.devices()[0].device

    def owns(self, array: object) -> bool:
        """Whether ``array`` is a native array of this backend."""
        return False

    def translate(self, error: BaseException) -> AccelkitError:
        """The accelkit error for a framework's exception, which becomes its cause."""
        if isinstance(error, AccelkitError):
            return error
        summary = f"{type(error).__name__}: {str(error)[:2000]}"
        if isinstance(error, MemoryError):
            return OutOfMemoryError(f"Backend {self.name!r} ran out of memory. {summary}")
        return BackendError(f"Backend {self.name!r} failed: {summary}")


class translated:  # named for what its blocks are
    """The context that turns a framework's exception into accelkit's, with it as the cause."""

    __slots__ = ("_backend",)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        """Nothing to prepare: a generator would cost a small step several microseconds."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, AccelkitError):
            raise self._backend.translate(error) from error


class Interpreter(Executable):
    """Runs a graph node by node through straight-line Python, freeing values when last used.

    The generated function holds one statement per node, so that nothing but the native calls
    costs time. Backends without a compiler of their own build on it.

    Args:
        graph: A prepared graph.
        device: Where it runs.
        implementation: Gives the native function of a node.
    """

    def __init__(
        self, graph: Graph, device: Device, implementation: Callable[[Any], Callable[..., Any]]
    ) -> None:
        start = time.perf_counter()
        self.graph = graph
        self.device = device
        self._run = generate(graph, implementation)
        self.compile_time_s = time.perf_counter() - start

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        return self._run(*arrays)


def generate(
    graph: Graph, implementation: Callable[[Any], Callable[..., Any]]
) -> Callable[..., list[Any]]:
    """A Python function that runs ``graph`` on native arrays, one statement per node."""
    names: dict[Any, str] = {}
    namespace: dict[str, Any] = {}
    last = graph.last_uses()

    def name(value: Any) -> str:
        return names.setdefault(value, f"v{len(names)}")

    arguments = ", ".join(name(v) for v in graph.inputs)
    lines = [f"def run({arguments}):"]
    for position, node in enumerate(graph.nodes):
        namespace[f"f{position}"] = implementation(node)
        keywords = []
        for key, value in node.parameters.items():
            namespace[f"p{position}_{key}"] = value
            keywords.append(f"{key}=p{position}_{key}")
        call = ", ".join([*(name(v) for v in node.inputs), *keywords])
        left = ", ".join(name(v) for v in node.outputs)
        if node.primitive.multiple_outputs:
            left = f"{left},"
        lines.append(f"    {left} = f{position}({call})")
        dead = dict.fromkeys(v for v in node.inputs if last[v] == position)
        unused = [v for v in node.outputs if v not in last]
        if dead or unused:
            lines.append(f"    del {', '.join(name(v) for v in [*dead, *unused])}")
    lines.append(f"    return [{', '.join(name(v) for v in graph.outputs)}]")
    source = "\n".join(lines)
    exec(compile(source, f"<accelkit {graph.name}>", "exec"), namespace)
    run: Callable[..., list[Any]] = namespace["run"]
    return run


def evaluate(
    graph: Graph, arrays: Sequence[Any], implementation: Callable[[Any], Callable[..., Any]]
) -> list[Any]:
    """Run ``graph`` once, node by node: how tracing compilers see a graph."""
    environment: dict[Any, Any] = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        result = implementation(node)(*(environment[v] for v in node.inputs), **node.parameters)
        results = result if node.primitive.multiple_outputs else (result,)
        environment.update(zip(node.outputs, results, strict=True))
    return [environment[v] for v in graph.outputs]


def supports_dtype(backend: Backend, device: Device, dtype: DType) -> bool:
    """Whether tensors of this dtype can live on the device."""
    return dtype.name in backend.dtype_names(device)
