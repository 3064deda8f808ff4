"""What torch programs are predicted to take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import accelkit as ak
from accelkit import passes, registry
from accelkit.graph import Graph
from accelkit.primitives import get
from accelkit.tracing import trace_graph

pytest.importorskip("torch")

from accelkit_torch.memory import planned_bytes

X = ak.asarray(np.zeros((4, 16, 16, 8), np.float32)).spec
W = ak.asarray(np.zeros((3, 3, 8, 64), np.float32)).spec
GEOMETRY = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
KEPT = 96  # of everything, one part


def prepared(function: Callable[..., list[ak.Tensor]], *specs: object) -> Graph:
    """The prepared graph of a function that returns a list."""
    return passes.prepare(trace_graph(function, list(specs))[0], registry.backend("torch"))


def with_kept(arena_bytes: int, graph: Graph) -> int:
    return arena_bytes + (arena_bytes + graph.input_bytes) // KEPT


def test_a_convolution_needs_its_weights_once_more() -> None:
    graph = prepared(lambda x, w: [get("conv2d")(x, w, **GEOMETRY)], X, W)
    arena = graph.outputs[0].spec.memory_bytes + W.memory_bytes
    assert planned_bytes(graph, frozenset()) == with_kept(arena, graph)


def test_its_gradients_need_them_twice() -> None:
    def loss(x: ak.Tensor, w: ak.Tensor) -> ak.Tensor:
        y = get("conv2d")(x, w, **GEOMETRY)
        return ak.sum(y * y)

    graph = prepared(lambda x, w: list(ak.grad(loss, argnums=(0, 1))(x, w)), X, W)
    y = 4 * 16 * 16 * 64 * 4
    arena = y + X.memory_bytes + W.memory_bytes + 2 * W.memory_bytes  # y is its own cotangent
    found = planned_bytes(graph, frozenset())
    assert with_kept(arena, graph) <= found <= with_kept(arena + 2 * y, graph)


def test_results_over_operands_and_views_take_no_memory() -> None:
    def function(x: ak.Tensor) -> list[ak.Tensor]:
        y = ak.exp(x)  # new
        y = ak.tanh(y * 2.0) + 1.0  # each over the one before
        return [ak.sum(y[:2, :8] * 3.0)]  # a view, and its product

    graph = prepared(function, X)
    arena = X.memory_bytes + X.memory_bytes // 4
    found = planned_bytes(graph, frozenset())
    assert with_kept(X.memory_bytes, graph) <= found <= with_kept(arena + 1024, graph)


def test_a_cast_is_no_view() -> None:
    pixels = ak.asarray(np.zeros((4, 16, 16, 8), np.uint8)).spec
    graph = prepared(lambda x: [ak.exp(x[:2].astype("float32"))], pixels)
    half = 2 * pixels.memory_bytes  # of the pixels, at four bytes each: the cast, and exp of it
    assert planned_bytes(graph, frozenset()) == with_kept(2 * half, graph)
