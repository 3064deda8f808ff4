"""The graph: a list of primitives in static single assignment form.

Every program that accelkit compiles is one :class:`Graph`. Each :class:`Node` applies a
primitive to :class:`Value` objects and defines new ones; shapes and dtypes are known, nothing
is ever redefined, and nodes stand in the order in which they can run. A graph is data: passes
read one and build another, a backend reads one and compiles it, ``print(graph)`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from accelkit.dtypes import DType

if TYPE_CHECKING:
    from accelkit.primitives.primitive import Primitive

__all__ = ["Graph", "GraphBuilder", "Node", "TensorSpec", "Value"]


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor: all that is known of it while a program is traced."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def memory_bytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"


class Value:
    """One tensor of a graph: an input, or an output of a node.

    Attributes:
        spec: Its shape and dtype.
        node: The node that computes it, or None for a graph input.
        index: Its position among the node's outputs, or among the graph's inputs.
    """

    __slots__ = ("index", "node", "spec")

    def __init__(self, spec: TensorSpec, node: Node | None = None, index: int = 0) -> None:
        self.spec = spec
        self.node = node
        self.index = index

    def __repr__(self) -> str:
        origin = "input" if self.node is None else self.node.primitive.name
        return f"<Value {self.spec} of {origin}>"


class Node:
    """One application of a primitive.

    Attributes:
        primitive: What is computed.
        inputs: The operands.
        parameters: Static arguments: hashable, known when the graph is built.
        outputs: The values that this node defines.
        scope: Dotted path of the layer that asked for it, e.g. ``"features.3"``.
        phase: ``"forward"``, ``"backward"`` or ``"update"``.
    """

    __slots__ = ("inputs", "outputs", "parameters", "phase", "primitive", "scope")

    def __init__(
        self,
        primitive: Primitive,
        inputs: Sequence[Value],
        parameters: Mapping[str, Any],
        specs: Sequence[TensorSpec],
        *,
        scope: str = "",
        phase: str = "forward",
    ) -> None:
        self.primitive = primitive
        self.inputs = tuple(inputs)
        self.parameters = dict(parameters)
        self.outputs = tuple(Value(spec, self, i) for i, spec in enumerate(specs))
        self.scope = scope
        self.phase = phase

    def __repr__(self) -> str:
        specs = ", ".join(str(v.spec) for v in self.outputs)
        return f"<Node {self.primitive.name} -> {specs}>"


class Graph:
    """A program: inputs, nodes in executable order, outputs.

    Attributes:
        name: Shown when printed.
        inputs: The values a caller supplies, in order.
        nodes: The computation.
        outputs: The values a caller gets, in order; inputs may be returned directly.
        input_names: One label per input, for printing and error messages.
    """

    __slots__ = ("input_names", "inputs", "name", "nodes", "outputs")

    def __init__(
        self,
        inputs: Sequence[Value],
        nodes: Sequence[Node],
        outputs: Sequence[Value],
        *,
        name: str = "graph",
        input_names: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.nodes = tuple(nodes)
        self.outputs = tuple(outputs)
        self.input_names = tuple(input_names or [""] * len(self.inputs))

    def replace(
        self, nodes: Sequence[Node] | None = None, outputs: Sequence[Value] | None = None
    ) -> Graph:
        """The same graph interface with other nodes or outputs."""
        return Graph(
            self.inputs,
            self.nodes if nodes is None else nodes,
            self.outputs if outputs is None else outputs,
            name=self.name,
            input_names=self.input_names,
        )

    @property
    def input_bytes(self) -> int:
        """Size of all inputs."""
        return sum(v.spec.memory_bytes for v in self.inputs)

    def last_uses(self) -> dict[Value, int]:
        """Position of the last node that reads each value; ``len(nodes)`` for outputs.

        Values that nothing reads are absent.
        """
        last: dict[Value, int] = {}
        for position, node in enumerate(self.nodes):
            for value in node.inputs:
                last[value] = position
        for value in self.outputs:
            last[value] = len(self.nodes)
        return last

    def readers(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, in order; once for each operand that it is.

        Values that no node reads are absent.
        """
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(value, []).append(node)
        return found

    def counts(self) -> dict[str, int]:
        """Number of nodes per primitive name, most frequent first."""
        found: dict[str, int] = {}
        for node in self.nodes:
            found[node.primitive.name] = found.get(node.primitive.name, 0) + 1
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def flops(self) -> int:
        """Floating-point operations of one execution (a multiply-add counts as two)."""
        return sum(node_flops(node) for node in self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __str__(self) -> str:
        return "\n".join(_render(self))

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self.inputs)} inputs, {len(self.nodes)} nodes>"


def node_flops(node: Node) -> int:
    """Floating-point operations of one node, by its primitive's cost rule."""
    return node.primitive.flops(
        [v.spec for v in node.inputs], [v.spec for v in node.outputs], node.parameters
    )


def _render(graph: Graph, indent: str = "") -> Iterator[str]:
    names: dict[Value, str] = {}

    def name(value: Value) -> str:
        return names.setdefault(value, f"%{len(names)}")

    arguments = []
    for value, label in zip(graph.inputs, graph.input_names, strict=True):
        arguments.append(f"{name(value)}: {value.spec}" + (f" {label}" if label else ""))
    yield f"{indent}graph {graph.name}("
    for argument in arguments:
        yield f"{indent}    {argument},"
    yield f"{indent}):"
    for node in graph.nodes:
        left = ", ".join(f"{name(v)}: {v.spec}" for v in node.outputs)
        operands = [name(v) for v in node.inputs]
        nested: list[Graph] = []
        for key, value in node.parameters.items():
            if isinstance(value, Graph):
                nested.append(value)
                operands.append(f"{key}=<{value.name}>")
            else:
                operands.append(f"{key}={value}")
        comment = "  # " + " ".join(
            part for part in (node.scope, "" if node.phase == "forward" else node.phase) if part
        )
        line = f"{indent}  {left} = {node.primitive.name}({', '.join(operands)})"
        yield line + (comment if len(comment) > 4 else "")
        for subgraph in nested:
            yield from _render(subgraph, indent + "    ")
    yield f"{indent}  return {', '.join(name(v) for v in graph.outputs)}"


class GraphBuilder:
    """Builds a graph from another one, value by value: the tool that passes are written with.

    ``builder[old]`` is the new value that stands for ``old``; ``builder.copy(node)`` repeats a
    node on mapped operands; ``builder.add(...)`` appends a new one.
    """

    def __init__(self, source: Graph | None = None, *, merge_equal: bool = False) -> None:
        self.nodes: list[Node] = []
        self._map: dict[Value, Value] = {}
        self._seen: dict[tuple[Any, ...], Node] | None = {} if merge_equal else None
        self.inputs: list[Value] = []
        if source is not None:
            for position, value in enumerate(source.inputs):
                fresh = Value(value.spec, None, position)
                self._map[value] = fresh
                self.inputs.append(fresh)

    def __getitem__(self, old: Value) -> Value:
        return self._map[old]

    def __setitem__(self, old: Value, new: Value) -> None:
        self._map[old] = new

    def __contains__(self, old: Value) -> bool:
        return old in self._map

    def add(
        self,
        primitive: Primitive,
        inputs: Sequence[Value],
        parameters: Mapping[str, Any],
        *,
        scope: str = "",
        phase: str = "forward",
    ) -> tuple[Value, ...]:
        """Append a node on new values and return its outputs.

        With ``merge_equal`` an equal earlier node is returned instead of a second one.
        """
        return self._add(primitive, inputs, parameters, None, scope, phase)

    def _add(
        self,
        primitive: Primitive,
        inputs: Sequence[Value],
        parameters: Mapping[str, Any],
        specs: Sequence[TensorSpec] | None,
        scope: str,
        phase: str,
    ) -> tuple[Value, ...]:
        """As :meth:`add`; the specs of the outputs are inferred unless they are known."""
        key: tuple[Any, ...] | None = None
        if self._seen is not None and not primitive.has_side_effect:
            statics = tuple((name, _exact(parameters[name])) for name in sorted(parameters))
            key = (primitive.name, *map(id, inputs), *statics)
            try:
                found = self._seen.get(key)
            except TypeError:  # a user's parameter without a hash: such nodes are not compared
                key = found = None
            if found is not None:
                return found.outputs
        if specs is None:
            specs = primitive.infer([v.spec for v in inputs], parameters)
        node = Node(primitive, inputs, parameters, specs, scope=scope, phase=phase)
        self.nodes.append(node)
        if key is not None and self._seen is not None:
            self._seen[key] = node
        return node.outputs

    def copy(self, node: Node) -> tuple[Value, ...]:
        """Repeat ``node`` on the mapped operands, and map its outputs to the new ones."""
        inputs = [self._map[v] for v in node.inputs]
        same = all(new.spec == old.spec for new, old in zip(inputs, node.inputs, strict=True))
        specs = [v.spec for v in node.outputs] if same else None
        outputs = self._add(node.primitive, inputs, node.parameters, specs, node.scope, node.phase)
        for old, new in zip(node.outputs, outputs, strict=True):
            self._map[old] = new
        return outputs

    def inline(self, graph: Graph, inputs: Iterable[Value]) -> list[Value]:
        """Append all nodes of ``graph`` on ``inputs`` and return its outputs."""
        for old, new in zip(graph.inputs, inputs, strict=True):
            self._map[old] = new
        for node in graph.nodes:
            self.copy(node)
        return [self._map[v] for v in graph.outputs]

    def finish(self, source: Graph) -> Graph:
        """The built graph, with the interface of ``source``."""
        return Graph(
            self.inputs,
            self.nodes,
            [self._map[v] for v in source.outputs],
            name=source.name,
            input_names=source.input_names,
        )


def _exact(value: Any) -> Any:
    """A key under which -0.0 and 0.0 differ, 1 and True too, and NaN equals itself."""
    if isinstance(value, tuple):
        return tuple(map(_exact, value))
    return type(value), value.hex() if isinstance(value, float) else value


def rewrite(
    graph: Graph, visit: Callable[[GraphBuilder, Node], bool], *, merge_equal: bool = False
) -> Graph:
    """Rebuild ``graph``; ``visit`` maps a node's outputs itself, or returns False to copy it."""
    builder = GraphBuilder(graph, merge_equal=merge_equal)
    for node in graph.nodes:
        if not visit(builder, node):
            builder.copy(node)
    return builder.finish(graph)
