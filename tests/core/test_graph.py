"""Graphs as data: printing, liveness, costs, and the builder that passes are written with."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit import dtypes
from accelkit.graph import Graph, GraphBuilder, TensorSpec, Value, node_flops, rewrite
from accelkit.primitives import elementwise, shaping
from accelkit.tracing import active_trace


def test_a_graph_prints_as_a_program() -> None:
    weight = ak.ones((3,))

    def model(x: ak.Tensor, options: Any) -> Any:
        trace = active_trace()
        assert trace is not None
        with trace.labelled(scope="encoder.0"):
            h = ak.relu(x * weight)
        with trace.labelled(scope="head", phase="update"):
            total = h.sum(axis=1) * -0.0
        final, _ = ak.scan(lambda c, v: (c + v, None), ak.asarray(0.0), total)
        return final, ak.top_k(h, 1)[1].astype("int32"), options["k"]

    expected = """
        graph model(
            %0: float32[2,3] 0,
            %1: int64[] 1.k,
            %2: float32[3] captured,
        ):
          %3: float32[2,3] = multiply(%0, %2)  # encoder.0
          %4: float32[2,3] = relu(%3)  # encoder.0
          %5: float32[2] = reduce_sum(%4, axes=(1,))  # head update
          %6: float32[] = full(shape=(), value=-0.0, dtype=float32)  # head update
          %7: float32[2] = multiply(%5, %6)  # head update
          %8: float32[] = constant(value=[0.])
          %9: float32[] = scan(%8, %7, body=<scan_body>, SETTINGS)
            graph scan_body(
                %0: float32[],
                %1: float32[],
            ):
              %2: float32[] = add(%0, %1)
              return %2
          %10: int64[2,3] = argsort(%4, axis=1, descending=True)
          %11: int64[2,1] = slice(%10, start=(0, 0), stop=(2, 1), step=(1, 1))
          %12: float32[2,1] = take_along_axis(%4, %11, axis=1)
          %13: int32[2,1] = cast(%11, dtype=int32)
          return %9, %13, %1
    """
    graph = ak.trace(model, ak.zeros((2, 3)), {"k": ak.asarray(3)})
    settings = "carry_count=1, constant_count=0, length=2, reverse=False"
    expected = textwrap.dedent(expected).strip().replace("SETTINGS", settings)
    assert str(graph) == expected
    assert repr(graph) == "<Graph model: 3 inputs, 11 nodes>"
    assert repr(graph.nodes[0]) == "<Node multiply -> float32[2,3]>"
    assert repr(graph.nodes[0].outputs[0]) == "<Value float32[2,3] of multiply>"
    assert repr(graph.inputs[0]) == "<Value float32[2,3] of input>"


def test_an_empty_graph_prints() -> None:
    assert str(ak.trace(lambda: ())) == "graph <lambda>(\n):\n  return "


def test_counts_length_and_iteration() -> None:
    graph = ak.trace(lambda x: (x + x) * (x + x), ak.zeros(2))
    assert graph.counts() == {"add": 2, "multiply": 1}
    assert len(graph) == 3
    assert [node.primitive.name for node in graph] == ["add", "add", "multiply"]


def test_last_uses() -> None:
    def program(x: ak.Tensor, y: ak.Tensor, unused: ak.Tensor) -> Any:
        a = x + y  # node 0
        b = a * x  # node 1
        ak.exp(a)  # node 2, its result is dead
        return b, y

    graph = ak.trace(program, *[ak.zeros(2)] * 3)
    x, y, unused = graph.inputs
    a, b, dead = (node.outputs[0] for node in graph.nodes)
    assert graph.last_uses() == {x: 1, y: 3, a: 2, b: 3}
    assert unused not in graph.last_uses()
    assert dead not in graph.last_uses()


@pytest.mark.parametrize(
    ("image", "kernel", "channels", "outputs", "strides", "padding", "groups"),
    [
        (227, 11, 3, 96, 4, 0, 1),  # AlexNet's first layers
        (27, 5, 96, 256, 1, 2, 2),
        (13, 3, 384, 384, 1, 1, 2),
    ],
)
def test_a_convolution_and_its_gradients_cost_the_same(
    image: int, kernel: int, channels: int, outputs: int, strides: int, padding: int, groups: int
) -> None:
    def loss(x: ak.Tensor, w: ak.Tensor) -> ak.Tensor:
        return ak.conv2d(x, w, strides=strides, padding=padding, groups=groups).sum()

    x = ak.zeros((2, image, image, channels))
    w = ak.zeros((kernel, kernel, channels // groups, outputs))
    graph = ak.trace(ak.grad(loss, argnums=(0, 1)), x, w)
    size = (image + 2 * padding - kernel) // strides + 1
    multiply_adds = 2 * size * size * outputs * kernel * kernel * channels // groups
    costs = {n.primitive.name: node_flops(n) for n in graph if "conv2d" in n.primitive.name}
    assert costs == dict.fromkeys(
        ("conv2d", "conv2d_input_grad", "conv2d_weight_grad"), 2 * multiply_adds
    )
    # Beside them there are the sum and the broadcasting of its cotangent.
    assert graph.flops() - sum(costs.values()) <= 4 * 2 * size * size * outputs


def test_costs_of_products_and_movement() -> None:
    graph = ak.trace(lambda a, b: (a @ b).T.reshape(-1), ak.zeros((3, 4)), ak.zeros((4, 5)))
    assert graph.flops() == 2 * 3 * 4 * 5
    loop = ak.trace(lambda x: ak.scan(lambda c, v: (c + v, None), x[0], x)[0], ak.zeros((7, 5)))
    assert loop.flops() == 7 * 5


def test_specs() -> None:
    spec = TensorSpec((2, 3), dtypes.bfloat16)
    assert (spec.ndim, spec.size, spec.memory_bytes) == (2, 6, 12)
    assert str(spec) == "bfloat16[2,3]"
    assert TensorSpec((), dtypes.float32).size == 1


def test_the_builder_copies_inlines_and_merges() -> None:
    source = ak.trace(lambda x, y: x * y + x * y, ak.zeros(2), ak.zeros(2))
    copied = rewrite(source, lambda builder, node: False)
    assert str(copied) == str(source)
    assert not set(copied.nodes) & set(source.nodes)
    merged = rewrite(source, lambda builder, node: False, merge_equal=True)
    assert merged.counts() == {"multiply": 1, "add": 1}

    builder = GraphBuilder(source)
    x = builder[source.inputs[0]]
    assert source.inputs[0] in builder
    assert source.outputs[0] not in builder
    (square,) = builder.inline(source, [x, x])
    (negative,) = builder.add(elementwise.negative, [square], {}, scope="here", phase="update")
    builder[source.outputs[0]] = negative
    graph = builder.finish(source)
    assert graph.counts() == {"multiply": 2, "add": 1, "negative": 1}
    assert (graph.nodes[-1].scope, graph.nodes[-1].phase) == ("here", "update")


def test_merging_keeps_apart_what_differs() -> None:
    def full(value: Any, dtype: dtypes.DType) -> Value:
        return builder.add(shaping.full, [], {"shape": (), "value": value, "dtype": dtype})[0]

    builder = GraphBuilder(merge_equal=True)
    f32, i32 = dtypes.float32, dtypes.int32
    nan = float("nan")
    values = [full(v, f32) for v in (0.0, -0.0, 1.0, nan)] + [
        full(1, i32),
        full(1.0, dtypes.float64),
    ]
    assert len(set(values)) == 6
    assert full(-0.0, f32) is values[1]
    assert full(float("nan"), f32) is values[3]
    (a,) = builder.add(elementwise.subtract, values[:2], {})
    (b,) = builder.add(elementwise.subtract, values[1::-1], {})
    assert a is not b


def test_replacing_keeps_the_interface() -> None:
    graph = ak.trace(lambda x: x + 1.0, ak.zeros(2))
    shorter = graph.replace(nodes=[], outputs=graph.inputs)
    assert isinstance(shorter, Graph)
    assert (shorter.name, shorter.input_names) == (graph.name, graph.input_names)
    assert shorter.outputs == graph.inputs
    assert np.prod([len(shorter), 1]) == 0
