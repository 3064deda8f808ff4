"""Tracing: running a Python function on shapes to get its graph.

While a trace is active every operation is recorded instead of run. Tensors from outside that
the function uses are *captured*: they become extra inputs of the graph. Traces nest: the body
of a ``scan`` is traced inside the trace of the function around it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from accelkit.errors import DeviceMismatchError, TraceError
from accelkit.graph import Graph, Node, TensorSpec, Value
from accelkit.primitives.primitive import Primitive

if TYPE_CHECKING:
    from accelkit.device import Device
    from accelkit.tensor import Tensor

__all__ = ["Trace", "active_trace", "trace_graph"]

_active: ContextVar[Trace | None] = ContextVar("accelkit_trace", default=None)
active_trace = _active.get


class Trace:
    """A graph being recorded.

    Attributes:
        device: Where the graph will run, None while unknown.
        nodes: What was recorded so far.
        closed: True once the traced function has returned.
    """

    def __init__(self, name: str, device: Device | None, parent: Trace | None = None) -> None:
        self.name = name
        self.device: Device | None = (
            device if device is not None or parent is None else parent.device
        )
        self.parent = parent
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.input_names: list[str] = []
        self.captured: list[Tensor] = []
        self._capture_values: dict[int, Value] = {}
        self.scope: str = parent.scope if parent else ""
        self.phase: str = parent.phase if parent else "forward"
        self.closed = False

    def add_input(self, spec: TensorSpec, name: str = "") -> Tensor:
        """Declare a graph input and return the tensor that stands for it."""
        from accelkit.tensor import Tensor

        value = Value(spec, None, len(self.inputs))
        self.inputs.append(value)
        self.input_names.append(name)
        return Tensor._traced(value, self)

    def value_of(self, tensor: Tensor) -> Value:
        """The graph value of a tensor, captured if it comes from outside.

        Raises:
            TraceError: if it belongs to a trace that has ended.
            DeviceMismatchError: if it lives on another device than the traced program.
        """
        if tensor._trace is self:
            assert tensor._value is not None
            return tensor._value
        if tensor._trace is not None:
            self._require_enclosing(tensor)
        key = id(tensor._value) if tensor._trace is not None else id(tensor._native)
        found = self._capture_values.get(key)
        if found is not None:
            return found
        if tensor._trace is None:
            self._check_device(tensor)
        value = Value(TensorSpec(tensor.shape, tensor.dtype), None, len(self.captured))
        self._capture_values[key] = value
        self.captured.append(tensor)
        return value

    def _check_device(self, tensor: Tensor) -> None:
        if self.device is None:
            self.device = tensor.device
        elif tensor.device is not self.device:
            raise DeviceMismatchError(
                f"The traced program {self.name!r} runs on {self.device}, but uses a tensor on "
                f"{tensor.device}. Move it with `.to({str(self.device)!r})`."
            )

    def require_device(self, device: Device) -> None:
        """Refuse to create a tensor elsewhere than on the traced program's device.

        Raises:
            DeviceMismatchError: naming both devices.
        """
        if self.device is None:
            self.device = device
        elif device is not self.device:
            raise DeviceMismatchError(
                f"The traced program {self.name!r} runs on {self.device}, but asks for a tensor "
                f"on {device}. Leave `device=` out inside of a traced function."
            )

    def _require_enclosing(self, tensor: Tensor) -> None:
        enclosing = self.parent
        while enclosing is not None:
            if tensor._trace is enclosing and not enclosing.closed:
                return
            enclosing = enclosing.parent
        raise leaked(tensor)

    def record(
        self, primitive: Primitive, inputs: Sequence[Tensor], parameters: Mapping[str, Any]
    ) -> Any:
        """Append a node; returns its output tensor, or a tuple of them."""
        from accelkit.tensor import Tensor

        values = [self.value_of(t) for t in inputs]
        specs = primitive.infer([v.spec for v in values], parameters)
        node = Node(primitive, values, parameters, specs, scope=self.scope, phase=self.phase)
        self.nodes.append(node)
        if primitive.multiple_outputs:
            return tuple(Tensor._traced(value, self) for value in node.outputs)
        return Tensor._traced(node.outputs[0], self)

    @contextlib.contextmanager
    def labelled(self, *, scope: str | None = None, phase: str | None = None) -> Iterator[None]:
        """Give the nodes recorded inside the block a layer path or a phase."""
        before = self.scope, self.phase
        if scope is not None:
            self.scope = scope
        if phase is not None:
            self.phase = phase
        try:
            yield
        finally:
            self.scope, self.phase = before

    def finish(self, outputs: Sequence[Tensor]) -> Graph:
        """Close the trace. The graph's inputs are the declared ones, then the captured ones."""
        results = [self.value_of(t) for t in outputs]
        captured = list(self._capture_values.values())
        names = [*self.input_names, *("captured" for _ in captured)]
        self.closed = True
        return Graph(
            [*self.inputs, *captured], self.nodes, results, name=self.name, input_names=names
        )


def leaked(tensor: Tensor) -> TraceError:
    """The error for a traced tensor used outside of its trace."""
    assert tensor._trace is not None
    assert tensor._value is not None
    return TraceError(
        f"A tensor {tensor._value.spec} traced by {tensor._trace.name!r} is used outside of that "
        f"trace. It has no data there. Return it from the traced function instead of storing it."
    )


@contextlib.contextmanager
def activate(trace: Trace | None) -> Iterator[None]:
    """Record into ``trace`` inside the block; None runs operations eagerly."""
    token = _active.set(trace)
    try:
        yield
    finally:
        _active.reset(token)


def trace_graph(
    function: Callable[..., Sequence[Tensor]],
    specs: Sequence[TensorSpec],
    *,
    name: str = "graph",
    input_names: Sequence[str] | None = None,
    device: Device | None = None,
) -> tuple[Graph, list[Tensor]]:
    """Trace a function of tensors that returns a sequence of tensors.

    Args:
        function: Called once, with one traced tensor per spec.
        specs: Shapes and dtypes of the inputs.
        name: The graph's name.
        input_names: Labels of the inputs.
        device: Where the graph will run.

    Returns:
        The graph, and the tensors it captured: its inputs after the declared ones.
    """
    trace = Trace(name, device, parent=_active.get())
    names = input_names or [""] * len(specs)
    inputs = [trace.add_input(spec, label) for spec, label in zip(specs, names, strict=True)]
    try:
        with activate(trace):
            outputs = function(*inputs)
            graph = trace.finish(outputs)
    finally:
        trace.closed = True
    return graph, trace.captured
