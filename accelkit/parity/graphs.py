"""Graphs of test cases: one case, its derivative, many joined in one, and all in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.graph import Graph, GraphBuilder, Value
from accelkit.parity.cases import Case
from accelkit.passes.inline import definition_graph
from accelkit.primitives import PRIMITIVES
from accelkit.primitives.control import graph_vjp
from accelkit.primitives.shaping import ConstantArray
from accelkit.tracing import trace_graph

__all__ = ["defined_graph", "gradient_graph", "join", "second_order_graph", "value_graph", "wide"]


def value_graph(case: Case) -> Graph:
    """The case's operands to its results."""
    primitive = PRIMITIVES[case.primitive]

    def function(*tensors: Any) -> Sequence[Any]:
        result = primitive(*tensors, **case.parameters)
        return result if primitive.multiple_outputs else (result,)

    graph, captured = trace_graph(function, case.specs, name=case.primitive)
    assert not captured
    return graph


def gradient_graph(case: Case) -> Graph:
    """The case's operands and its results' cotangents to the operands' cotangents."""
    wanted = [position in case.gradients for position in range(len(case.arrays))]
    return graph_vjp(value_graph(case), wanted)


def second_order_graph(case: Case) -> Graph:
    """The derivative of the case's derivative, by its operands and cotangents."""
    first = gradient_graph(case)
    operands = len(case.arrays)
    wanted = [
        (position in case.gradients if position < operands else value.spec.dtype.is_floating)
        for position, value in enumerate(first.inputs)
    ]
    return graph_vjp(first, wanted)


def defined_graph(case: Case) -> Graph:
    """The case by the composite's definition instead of its native form."""
    return definition_graph(PRIMITIVES[case.primitive], case.specs, case.parameters)


def join(graphs: Sequence[Graph]) -> Graph:
    """One graph that holds all of them, with their inputs and outputs in order."""
    builder = GraphBuilder()
    inputs: list[Value] = []
    outputs: list[Value] = []
    for graph in graphs:
        own = [Value(v.spec, None, len(inputs) + i) for i, v in enumerate(graph.inputs)]
        inputs += own
        outputs += builder.inline(graph, own)
    return Graph(inputs, builder.nodes, outputs, name="cases")


def wide(graph: Graph) -> Graph:
    """The same program with every floating dtype replaced by float64: the oracle's form."""
    builder = GraphBuilder()
    inputs = []
    for position, value in enumerate(graph.inputs):
        spec = value.spec._replace(dtype=_wide_dtype(value.spec.dtype))
        inputs.append(Value(spec, None, position))
        builder[value] = inputs[-1]
    for node in graph.nodes:
        operands = [builder[v] for v in node.inputs]
        parameters = {key: _wide_parameter(value) for key, value in node.parameters.items()}
        outputs = builder.add(
            node.primitive, operands, parameters, scope=node.scope, phase=node.phase
        )
        for old, new in zip(node.outputs, outputs, strict=True):
            builder[old] = new
    outputs_of = [builder[v] for v in graph.outputs]
    return Graph(inputs, builder.nodes, outputs_of, name=graph.name, input_names=graph.input_names)


def _wide_dtype(dtype: DType) -> DType:
    return dtypes.float64 if dtype.is_floating else dtype


def _wide_parameter(value: Any) -> Any:
    if isinstance(value, DType):
        return _wide_dtype(value)
    if isinstance(value, Graph):
        return wide(value)
    if isinstance(value, ConstantArray) and dtypes.dtype(value.array.dtype).is_floating:
        return ConstantArray(value.array.astype(np.float64))
    return value
