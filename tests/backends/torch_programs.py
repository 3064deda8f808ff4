"""Graphs for torch's compiled programs, and the check that a program keeps their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelkit_torch import TorchBackend
from accelkit_torch.compile import TorchExecutable
from backends.tiled_convolutions import CONV

from accelkit import autodiff, dtypes
from accelkit.backend import CompileOptions, Interpreter
from accelkit.graph import Graph, TensorSpec
from accelkit.passes import prepare
from accelkit.primitives import get
from accelkit.tracing import trace_graph

TORCH = TorchBackend()
DEVICE = TORCH.devices()[-1].device
POOL = {"window": (3, 3), "strides": (2, 2), "padding": ((0, 0), (0, 0))}
NO_TRANSPOSE = {"transpose_a": False, "transpose_b": False}
SGD = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": False}

conv2d, max_pool2d, relu, matmul = map(get, ("conv2d", "max_pool2d", "relu", "matmul"))
add, reshape, reduce_sum, multiply = map(get, ("add", "reshape", "reduce_sum", "multiply"))


def traced(function: Callable[..., Sequence[Any]], *shapes: tuple[int, ...]) -> Graph:
    specs = [TensorSpec(shape, dtypes.float64) for shape in shapes]
    graph, captured = trace_graph(function, specs)
    assert not captured
    return prepare(graph, TORCH)


def operands(graph: Graph) -> list[torch.Tensor]:
    random = np.random.default_rng(3)
    return [torch.from_numpy(random.normal(size=v.spec.shape)) for v in graph.inputs]


def compiled(graph: Graph, donate: Sequence[int] = ()) -> TorchExecutable:
    return TorchExecutable(TORCH, graph, DEVICE, frozenset(donate), CompileOptions())


def check(graph: Graph, donate: Sequence[int] = ()) -> TorchExecutable:
    """Compare with the program as it was, twice, and that nothing else was written to."""
    executable = compiled(graph, donate)
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    for _ in range(2):
        arrays = operands(graph)
        expected = plain([a.clone() for a in arrays])
        before = [a.clone() for a in arrays]
        found = executable(arrays)
        for a, b, value in zip(found, expected, graph.outputs, strict=True):
            assert TORCH.spec(a) == value.spec
            torch.testing.assert_close(a, b.reshape(a.shape), rtol=1e-11, atol=1e-12)
        for i, (array, old) in enumerate(zip(arrays, before, strict=True)):
            if i not in donate:
                assert torch.equal(array, old)
    return executable


def step(x: Any, w: Any, b: Any, d: Any, c: Any, *slots: Any) -> list[Any]:
    """A convolutional network's training step: its loss and updated parameters."""

    def loss(w: Any, b: Any, d: Any, c: Any) -> Any:
        y = max_pool2d(relu(add(conv2d(x, w, **CONV), b)), **POOL)
        flat = reshape(y, shape=(y.shape[0], y.size // y.shape[0]))
        z = add(matmul(flat, d, **NO_TRANSPOSE), c)
        return reduce_sum(multiply(z, z), axes=(0, 1))

    value, gradients = autodiff.value_and_grad(loss, (0, 1, 2, 3))(w, b, d, c)
    rate = slots[-1]
    outputs = [value]
    for p, g, v in zip((w, b, d, c), gradients, slots, strict=False):
        outputs += get("sgd_update")(p, g, v, rate, **SGD)
    return outputs


PARAMETERS = ((3, 3, 3, 4), (4,), (36, 5), (5,))
STEP_SHAPES = ((2, 7, 7, 3), *PARAMETERS, *PARAMETERS, ())
STEP_STATE = tuple(range(1, 9))
