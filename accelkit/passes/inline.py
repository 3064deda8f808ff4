"""Replacing composite primitives by their definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelkit.errors import CapabilityError
from accelkit.graph import Graph, GraphBuilder, Node, TensorSpec, Value
from accelkit.primitives.primitive import Primitive
from accelkit.tracing import trace_graph

if TYPE_CHECKING:
    from accelkit.backend import Backend

__all__ = ["definition_graph", "inline_composites"]


def definition_graph(
    primitive: Primitive, specs: Sequence[TensorSpec], parameters: Mapping[str, Any]
) -> Graph:
    """The graph of a composite's definition for operands of these shapes and dtypes."""
    definition = primitive.definition
    assert definition is not None

    def function(*operands: Any) -> Sequence[Any]:
        result = definition(*operands, **parameters)
        return result if primitive.multiple_outputs else (result,)

    graph, captured = trace_graph(function, specs, name=primitive.name)
    assert not captured, f"the definition of {primitive.name} uses tensors from outside"
    expected = primitive.infer(specs, parameters)
    primitive.require_specs("definition", [v.spec for v in graph.outputs], expected)
    return graph


def inline_composites(graph: Graph, backend: Backend) -> Graph:
    """Inline, recursively, every composite that ``backend`` does not support natively.

    Raises:
        CapabilityError: if a primitive has neither a native form nor a definition.
    """
    builder = GraphBuilder(graph)
    definitions: dict[Any, Graph] = {}
    for node in graph.nodes:
        inputs = [builder[v] for v in node.inputs]
        outputs = _emit(builder, node, inputs, backend, definitions, node.scope, node.phase)
        for old, new in zip(node.outputs, outputs, strict=True):
            builder[old] = new
    return builder.finish(graph)


def _emit(
    builder: GraphBuilder,
    node: Node,
    inputs: Sequence[Value],
    backend: Backend,
    definitions: dict[Any, Graph],
    scope: str,
    phase: str,
) -> Sequence[Value]:
    primitive = node.primitive
    if backend.supports(primitive, node.parameters):
        parameters = {key: _nested(value, backend) for key, value in node.parameters.items()}
        return builder.add(primitive, inputs, parameters, scope=scope, phase=phase)
    if primitive.definition is None:
        raise CapabilityError(
            f"Backend {backend.name!r} does not implement the primitive {primitive.name!r}"
            + (f" (used in {scope})" if scope else "")
            + ", and it has no definition in terms of others. Add a native one with "
            f"`accelkit.primitives.get({primitive.name!r}).lowering({backend.name!r})`."
        )
    specs = tuple(v.spec for v in inputs)
    key = (primitive.name, specs, *sorted((k, repr(v)) for k, v in node.parameters.items()))
    body = definitions.get(key) if not _holds_identity(node) else None
    if body is None:
        body = definitions[key] = definition_graph(primitive, specs, node.parameters)
    environment = dict(zip(body.inputs, inputs, strict=True))
    for inner in body.nodes:
        operands = [environment[v] for v in inner.inputs]
        results = _emit(builder, inner, operands, backend, definitions, scope, phase)
        environment.update(zip(inner.outputs, results, strict=True))
    return [environment[v] for v in body.outputs]


def _holds_identity(node: Node) -> bool:
    """Whether a parameter (a body, a rule) is compared by identity: its text is no key."""
    plain = (bool, int, float, str, tuple)
    return any(
        not isinstance(v, plain) and not hasattr(v, "itemsize") for v in node.parameters.values()
    )


def _nested(value: Any, backend: Backend) -> Any:
    """A subgraph among the parameters is prepared for the backend too."""
    if isinstance(value, Graph):
        from accelkit.passes import prepare

        return prepare(value, backend)
    return value
