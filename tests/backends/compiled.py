"""Many cases as one compiled graph: what a backend with a compiler is really used for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from backends.primitive_cases import Case

from accelkit import dtypes
from accelkit.backend import Backend
from accelkit.graph import Graph, Node, TensorSpec, Value
from accelkit.passes import prepare
from accelkit.primitives import get


def graph_of(cases: Sequence[Case]) -> Graph:
    """One graph of all cases; its inputs are their arrays, its outputs their results, in order."""
    inputs: list[Value] = []
    nodes: list[Node] = []
    for case in cases:
        operands = []
        for array in case.arrays:
            spec = TensorSpec(array.shape, dtypes.dtype(array.dtype))
            operands.append(Value(spec, None, len(inputs)))
            inputs.append(operands[-1])
        primitive = get(case.primitive)
        specs = primitive.infer([v.spec for v in operands], case.parameters)
        nodes.append(Node(primitive, operands, case.parameters, specs))
    return Graph(inputs, nodes, [v for node in nodes for v in node.outputs], name="cases")


def run_compiled(backend: Backend, cases: Sequence[Case]) -> list[list[np.ndarray]]:
    """The results of each case on the backend's last device, computed by one executable."""
    device = backend.devices()[-1].device
    graph = graph_of(cases)
    executable = backend.compile(prepare(graph, backend), device)
    arrays = [backend.put(array, device) for case in cases for array in case.arrays]
    outputs = executable(arrays)
    for value, array in zip(graph.outputs, outputs, strict=True):
        assert backend.spec(array) == value.spec
    found = iter(outputs)
    return [[backend.get(next(found)) for _ in node.outputs] for node in graph.nodes]
