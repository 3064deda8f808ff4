"""Convolutions in tiles: the direct sum's results, in blocks of any size, and only where chosen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from accelkit_tensorflow import TensorflowBackend, planned, table, winograd
from accelkit_tensorflow.framework import tf
from accelkit_tensorflow.placement import place
from backends.tiled_convolutions import CONV, CONVOLUTIONS, TiledConvolution, direct
from hypothesis import given
from hypothesis import strategies as st

from accelkit import dtypes
from accelkit.backend import CompileOptions
from accelkit.graph import Graph, GraphBuilder, Node, TensorSpec, Value
from accelkit.parity.tolerances import deviation, tolerance
from accelkit.primitives import get

TENSORFLOW = TensorflowBackend()
CPU = TENSORFLOW.devices()[-1].device
LARGE = ((8, 24, 24, 192), (3, 3, 192, 192))


@given(case=CONVOLUTIONS, block_bytes=st.sampled_from([1, 40_000, 16 << 20]))
def test_tiles_give_the_direct_sum(case: TiledConvolution, block_bytes: int) -> None:
    x, w, g = map(tf.constant, (case.x, case.w, case.g))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "BLOCK_BYTES", block_bytes)
        y = winograd.conv2d(x, w, **case.tiling)
        dx = winograd.conv2d_input_grad(g, w, image_size=case.size, **case.tiling)
        dw = winograd.conv2d_weight_grad(x, g, kernel_size=case.w.shape[:2], **case.tiling)
    case.check(y.numpy(), dx.numpy(), dw.numpy())


def convolutions(
    x: tuple[int, ...], w: tuple[int, ...], dtype: dtypes.DType = dtypes.float32
) -> Graph:
    """A convolution, and the gradients for its own result as the cotangent."""
    builder = GraphBuilder()
    for position, shape in enumerate((x, w)):
        builder.inputs.append(Value(TensorSpec(shape, dtype), None, position))
    vx, vw = builder.inputs
    (y,) = builder.add(get("conv2d"), [vx, vw], CONV)
    (dx,) = builder.add(get("conv2d_input_grad"), [y, vw], {**CONV, "image_size": x[1:3]})
    (dw,) = builder.add(get("conv2d_weight_grad"), [vx, y], {**CONV, "kernel_size": w[:2]})
    return Graph(builder.inputs, builder.nodes, [y, dx, dw], name="convolutions")


def on_kernels(graph: Graph) -> list[Node]:
    return [n for p in place(graph) if p.on_kernels for n in p.part.graph.nodes]


@pytest.mark.parametrize("workspaces", [True, False])
def test_a_large_convolution_and_its_gradients_are_transformed(
    workspaces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for programs without workspaces."""
    chosen: list[str] = []
    find = winograd.transformed

    def watched(node: Node) -> Any:
        chosen.append(node.primitive.name)
        return find(node)

    monkeypatch.setattr(table, "transformed", watched)
    graph = convolutions(*LARGE)
    assert all(map(winograd.transformed, on_kernels(graph)))
    options = CompileOptions(workspaces=workspaces)
    executable = TENSORFLOW.compile(graph, CPU, options=options)
    every = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"]
    assert sorted(chosen) == (every if workspaces else [])
    random = np.random.default_rng(0)
    x, w = (random.normal(size=shape).astype(np.float32) for shape in LARGE)
    found = [TENSORFLOW.get(a) for a in executable([TENSORFLOW.put(a, CPU) for a in (x, w)])]
    y = direct("conv2d", x, w, **CONV)
    wanted = [
        y,
        direct("conv2d_input_grad", y, w, image_size=x.shape[1:3], **CONV),
        direct("conv2d_weight_grad", x, y, kernel_size=w.shape[:2], **CONV),
    ]
    for a, expected in zip(found, wanted, strict=True):
        bound = tolerance(dtypes.float32, gradient=True, length=9 * 192)
        assert deviation(a, expected) < bound


def test_weights_that_take_longer_than_images_are_left_to_onednn() -> None:
    """AlexNet's last ones: only their gradients by weights, in which nothing is float64."""
    last = on_kernels(convolutions((32, 13, 13, 256), (3, 3, 256, 256)))
    found = [n.primitive.name for n in last if winograd.transformed(n)]
    assert found == ["conv2d_weight_grad"]


def test_other_convolutions_stay_what_they_are() -> None:
    few = convolutions((32, 56, 56, 16), (3, 3, 16, 16))
    assert len(on_kernels(few)) == 3
    assert not any(map(winograd.transformed, on_kernels(few)))
    exact = convolutions(*LARGE, dtype=dtypes.float64)
    assert not any(map(winograd.transformed, exact.nodes))


def test_what_is_not_finite_spoils_its_own_tiles_only() -> None:
    x = np.ones((2, 8, 8, 1), np.float32)
    x[0, 1, 1] = math.inf
    w = tf.ones((3, 3, 1, 1))
    y = winograd.conv2d(tf.constant(x), w, tile=4, padding=((1, 1), (1, 1))).numpy()
    assert np.isnan(y[0, :3, :3]).all()
    assert np.isfinite(y[0, 4:, 4:]).all()
    assert np.isfinite(y[1]).all()


def test_a_plan_counts_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a block has; without workspaces, only the weights in oneDNN's order."""
    graph = convolutions(*LARGE)
    sizes = {n.primitive.name: winograd.workspace_bytes(n) for n in on_kernels(graph)}
    tiles = 4 * 36 * 288 * 192  # 8 images of 36 tiles, 36 positions, 192 channels
    weights = 4 * 36 * 192 * 192
    y = 4 * 8 * 24 * 24 * 192
    assert sizes["conv2d"] == sizes["conv2d_input_grad"] == weights * 7 // 2 + 2 * tiles + y
    assert sizes["conv2d_weight_grad"] == 3 * tiles + tiles * 16 // 36 + 2 * weights
    kept = {
        workspaces: TENSORFLOW.compile(
            graph, CPU, options=CompileOptions(workspaces=workspaces)
        ).temporary_memory_bytes()
        for workspaces in (True, False)
    }
    assert kept[True] is not None
    assert kept[False] is not None
    both = sizes["conv2d_input_grad"] + sizes["conv2d_weight_grad"]  # at the same time
    assert kept[True] - kept[False] == both - 2 * 4 * 9 * 192 * 192
    monkeypatch.setattr(winograd, "BLOCK_BYTES", 1)
    for node in on_kernels(graph):
        assert planned._workspace_bytes(node, workspaces=True) < sizes[node.primitive.name]
