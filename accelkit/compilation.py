"""Compiling graphs and functions: :func:`compile_graph` and :func:`jit`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from accelkit import registry, tree
from accelkit.arguments import as_positions, require_callable
from accelkit.backend import Backend, CompileOptions, Executable, translated
from accelkit.device import Device, current_device
from accelkit.errors import CompileError, DeviceMismatchError, OptionError, OutOfMemoryError
from accelkit.graph import Graph
from accelkit.ops.coercion import asarray
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace, leaked, trace_graph

__all__ = ["compile_graph", "jit", "run", "run_native", "trace"]


def compile_graph(
    graph: Graph,
    device: Device,
    *,
    donate: Iterable[int] = (),
    options: CompileOptions | None = None,
    finish: Callable[[Graph], Graph] | None = None,
    host: Mapping[int, int] | None = None,
) -> Executable:
    """Prepare a graph for a device's backend and compile it.

    Args:
        graph: Any graph.
        device: Where it will run.
        donate: Positions of inputs whose memory may be reused for outputs.
        options: Precision, determinism and workspaces; the defaults if None.
        finish: A last pass over the prepared graph.
        host: Positions of inputs that come as NumPy arrays and are on the device only while they
            are updated, each with that of the output that takes its place.

    Raises:
        CapabilityError: if the backend lacks a primitive that has no definition.
        OutOfMemoryError: with what the graph needs.
        CompileError: if the backend refuses the graph; its own error is the cause.
    """
    from accelkit import passes  # not before something is compiled

    backend = registry.backend(device.backend)
    prepared = passes.prepare(graph, backend)
    if finish is not None:
        prepared = passes.eliminate_dead_code(finish(prepared))

    def compile_part(part: Graph, donated: frozenset[int]) -> Executable:
        return backend.compile(part, device, donate=donated, options=options)

    positions = frozenset(donate)
    prepared, cuts = _cut(prepared, backend, device, host or {})
    try:
        with translated(backend):
            if not cuts:
                return compile_part(prepared, positions)
            from accelkit.partitioned import PartitionedExecutable

            return PartitionedExecutable(
                prepared,
                backend,
                device,
                cuts=cuts,
                donate=positions,
                compile_part=compile_part,
                host=host,
            )
    except OutOfMemoryError as error:
        raise describe_memory(error, prepared) from error
    except Exception as error:
        raise CompileError(
            f"Backend {backend.name!r} could not compile {graph.name!r} "
            f"({len(prepared)} primitives) for {device}: {error}"
        ) from error


def _cut(
    graph: Graph, backend: Backend, device: Device, host: Iterable[int]
) -> tuple[Graph, list[int]]:
    """A prepared graph, and before which of its nodes a new part begins."""
    from accelkit import passes

    cuts: list[int] = []
    if slots := [graph.inputs[i] for i in host]:
        graph, cuts = passes.cut_around_updates(graph, slots)
    if not backend.keeps_barriers(device):
        cuts += passes.cut_at_barriers(graph)
    return graph, cuts


def describe_memory(error: OutOfMemoryError, graph: Graph) -> OutOfMemoryError:
    """The error with what the graph needs, and its largest tensors."""
    from accelkit import passes

    return OutOfMemoryError(
        f"{error}\nThe program {graph.name!r} needs: {passes.plan_values(graph)}\n"
        f"Use a smaller batch."
    )


def run(executable: Executable, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Run an executable on tensors of its device.

    Args:
        executable: A compiled graph.
        tensors: One per input.

    Raises:
        OutOfMemoryError: with the program's largest tensors.
        BackendError: for any other failure; the framework's error is the cause.
    """
    arrays = run_native(executable, [t._native for t in tensors])
    return [Tensor._eager(array, executable.device) for array in arrays]


def run_native(executable: Executable, operands: list[Any]) -> list[Any]:
    """As :func:`run` on the framework's own arrays; the list of operands may be emptied."""
    try:
        with translated(registry.backend(executable.device.backend)):
            return executable(operands)
    except OutOfMemoryError as error:
        raise describe_memory(error, executable.graph) from error


class _Static(NamedTuple):
    """A leaf that is part of the program: 1, 1.0 and True differ, and so do 0.0 and -0.0."""

    kind: type
    value: Any

    @classmethod
    def of(cls, leaf: Any) -> _Static:
        """The key of a leaf; a NaN equals itself."""
        return cls(type(leaf), leaf.hex() if isinstance(leaf, float) else leaf)


class _Call(NamedTuple):
    """The arguments of one call, taken apart.

    Attributes:
        key: Equal for calls of one program.
        tensors: Arrays among them included.
        rest: Everything else.
        donate: Positions of the tensors whose memory may be reused.
    """

    key: Any
    tensors: list[Tensor]
    rest: tree.Skeleton
    donate: list[int]


class _Program(NamedTuple):
    executable: Executable
    captured: list[Tensor]
    rest: tree.Skeleton


class Jitted:
    """A function compiled per structure, shapes and dtypes of its arguments. See :func:`jit`."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        donate_argnums: Sequence[int],
        options: CompileOptions,
    ) -> None:
        self.function = function
        self.donate_argnums = tuple(donate_argnums)
        self.options = options
        self._programs: dict[Any, _Program] = {}
        self._reused: dict[Any, set[int]] = {}  # leaves that are donated, by structure
        # Names and documentation only: what a callable object holds stays its own.
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if active_trace() is not None:
            return self.function(*args, **kwargs)
        call = self._take_apart(args, kwargs)
        device = self._device(call.tensors)
        key = (call.key, device)
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = self._compile(call, device)
        operands = [*call.tensors, *program.captured]
        if call.donate:
            operands = _unshared(operands, call.donate)
        return program.rest.fill(run(program.executable, operands))

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]:
        """A method: the object is a static argument, so it must be hashable or a pytree."""
        return self if instance is None else functools.partial(self, instance)

    def lower(self, *args: Any, **kwargs: Any) -> Graph:
        """The graph for these arguments, before any pass: ``print`` it."""
        call = self._take_apart(args, kwargs)
        return self._trace(call, self._device(call.tensors))[0]

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", repr(self.function))
        return f"<jit {name}, {self.cache_size} programs compiled>"

    @property
    def cache_size(self) -> int:
        """How many programs were compiled so far."""
        return len(self._programs)

    def _take_apart(self, args: Any, kwargs: Any) -> _Call:
        given, rest = tree.split((args, kwargs), (Tensor, np.ndarray))
        device = next((x.device for x in given if isinstance(x, Tensor)), None)
        tensors = [x if isinstance(x, Tensor) else asarray(x, device=device) for x in given]
        for tensor in tensors:
            if tensor._trace is not None:
                raise leaked(tensor)
        donate = self._donated(rest, len(args)) if self.donate_argnums else []
        statics = [_Static.of(leaf) for leaf in rest.leaves if leaf is not None]
        key = (rest.structure, *rest.positions, *(t.spec for t in tensors), *statics)
        try:
            hash(key)
        except TypeError:
            unhashable = next(leaf for leaf in rest.leaves if not _hashable(leaf))
            raise OptionError(
                f"jit got an argument of type {type(unhashable).__name__} that is neither a tensor "
                f"nor hashable. Pass numbers that change as tensors, fixed ones as hashable values."
            ) from None
        return _Call(key, tensors, rest, donate)

    def _donated(self, rest: tree.Skeleton, count: int) -> list[int]:
        """Which of the tensors stand in donated arguments, of ``count`` positional ones."""
        reused = self._reused.get(rest.structure)
        if reused is None:
            for position in self.donate_argnums:
                if not -count <= position < count:
                    raise OptionError(
                        f"donate_argnums={position} names no positional argument: the function "
                        f"was called with {count}."
                    )
            donated = {(0, position % count) for position in self.donate_argnums}
            paths = tree.paths(rest.structure)
            reused = {leaf for leaf, path in enumerate(paths) if path[:2] in donated}
            self._reused[rest.structure] = reused
        return [number for number, leaf in enumerate(rest.positions) if leaf in reused]

    @staticmethod
    def _device(tensors: Sequence[Tensor]) -> Device:
        found = list(dict.fromkeys(t.device for t in tensors))
        if len(found) > 1:
            raise DeviceMismatchError(
                f"A compiled function got tensors on {' and '.join(map(str, found))}. Move them to "
                f"one device with `.to(device)`."
            )
        return found[0] if found else current_device()

    def _trace(self, call: _Call, device: Device) -> tuple[Graph, list[Tensor], tree.Skeleton]:
        result: list[tree.Skeleton] = []

        def flat(*tensors: Tensor) -> list[Tensor]:
            args, kwargs = call.rest.fill(tensors)
            found, rest = tree.split(self.function(*args, **kwargs), Tensor)
            result.append(rest)
            return found

        paths = tree.paths(call.rest.structure)
        names = [".".join(map(str, paths[leaf][1:])) for leaf in call.rest.positions]
        graph, captured = trace_graph(
            flat,
            [t.spec for t in call.tensors],
            name=getattr(self.function, "__name__", "function"),
            input_names=names,
            device=device,
        )
        return graph, captured, result[0]

    def _compile(self, call: _Call, device: Device) -> _Program:
        graph, captured, rest = self._trace(call, device)
        executable = compile_graph(graph, device, donate=call.donate, options=self.options)
        return _Program(executable, captured, rest)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _unshared(tensors: Sequence[Tensor], donate: Sequence[int]) -> list[Tensor]:
    """The operands, with a copy of each donated one that stands among them twice."""
    counts: dict[int, int] = {}
    for tensor in tensors:
        counts[id(tensor._native)] = counts.get(id(tensor._native), 0) + 1
    result = list(tensors)
    for position in donate:
        tensor = tensors[position]
        if counts[id(tensor._native)] > 1:
            result[position] = tensor.to(tensor.device, copy=True)
    return result


def jit(
    function: Callable[..., Any] | None = None,
    *,
    donate_argnums: int | Sequence[int] = (),
    precision: str = "float32",
    deterministic: bool = False,
) -> Any:
    """Compile a function for the device of its arguments; usable as a decorator.

    It is traced once for each combination of argument structure, shapes and dtypes. Arguments are
    pytrees: tensors and NumPy arrays are inputs; everything else (numbers, strings, None) is part
    of the program, so that another value compiles again.

    Args:
        function: From pytrees to a pytree. It must be pure: what it does beside computing tensors
            happens while tracing only.
        donate_argnums: Positional arguments whose memory may be reused for the results; they must
            not be used afterwards.
        precision: ``"float32"``, or ``"tf32"`` to allow reduced-precision matrix units for
            float32 products.
        deterministic: Ask for algorithms that give the same bits every time.

    Example:
        >>> import accelkit as ak
        >>> @ak.jit
        ... def length(x):
        ...     return ak.sqrt((x * x).sum())
        >>> float(length(ak.asarray([3.0, 4.0])))
        5.0
    """
    if function is None:
        return functools.partial(
            jit, donate_argnums=donate_argnums, precision=precision, deterministic=deterministic
        )
    require_callable("function", function, "jit takes it uncalled: jit(f)(x), not jit(f(x)).")
    positions = as_positions("donate_argnums", donate_argnums)
    options = CompileOptions(check_precision(precision), deterministic)
    return Jitted(function, donate_argnums=positions, options=options)


def check_precision(precision: str) -> str:
    """The matmul precision, checked.

    Raises:
        OptionError: if there is no such policy.
    """
    known = ("float32", "tf32")
    if precision not in known:
        raise OptionError(f"precision must be one of {', '.join(known)}, got {precision!r}.")
    return precision


def trace(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Graph:
    """The graph of a function for these arguments (tensors stand for their shape and dtype).

    Example:
        >>> import accelkit as ak
        >>> print(ak.trace(lambda x: x + 1.0, ak.zeros((2,))))
        graph <lambda>(
            %0: float32[2] 0,
        ):
          %1: float32[] = full(shape=(), value=1.0, dtype=float32)
          %2: float32[2] = add(%0, %1)
          return %2
    """
    return Jitted(function, donate_argnums=(), options=CompileOptions()).lower(*args, **kwargs)
