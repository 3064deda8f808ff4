"""Convolutions in tiles: the direct sum's results, in blocks of any size, and only where chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from accelkit_torch import fused, winograd
from accelkit_torch.memory import planned_bytes
from backends.tiled_convolutions import CONV, CONVOLUTIONS, TiledConvolution
from backends.torch_programs import TORCH, add, compiled, conv2d
from hypothesis import given
from hypothesis import strategies as st

from accelkit import autodiff, dtypes, host
from accelkit.graph import Graph, TensorSpec
from accelkit.parity.tolerances import deviation, tolerance
from accelkit.passes import prepare
from accelkit.primitives import get
from accelkit.tracing import trace_graph


@pytest.fixture(autouse=True, scope="module")
def _intel() -> Iterator[None]:
    """On every machine the programs of one where transforms pay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "has_intel_processor", lambda: True)
        yield


@given(case=CONVOLUTIONS, block_bytes=st.sampled_from([1, 40_000, 6 << 20]))
def test_tiles_give_the_direct_sum(case: TiledConvolution, block_bytes: int) -> None:
    workspace = winograd.Workspace(block_bytes)
    x, w, bias, g = map(torch.from_numpy, (case.x, case.w, case.bias, case.g))
    y = winograd.conv2d(workspace, x, w, **case.tiling)
    shifted = winograd.conv2d(workspace, x, w, bias, **case.tiling)
    dx = winograd.conv2d_input_grad(workspace, g, w, image_size=case.size, **case.tiling)
    kernel_size = (case.window, case.window)
    dw = winograd.conv2d_weight_grad(workspace, x, g, kernel_size=kernel_size, **case.tiling)
    assert all(a.is_contiguous() for a in (y, shifted, dx, dw))
    case.check(y.numpy(), dx.numpy(), dw.numpy())
    case.check(shifted.numpy(), dx.numpy(), dw.numpy(), bias=case.bias)


def program(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Graph:
    specs = [TensorSpec(shape, dtypes.float32) for shape in shapes]
    return prepare(trace_graph(function, specs)[0], TORCH)


def training(x: Any, w: Any, b: Any) -> list[Any]:
    def loss(x: Any, w: Any, b: Any) -> Any:
        y = add(conv2d(x, w, **CONV), b)
        return get("reduce_sum")(get("multiply")(y, y), axes=(0, 1, 2, 3))

    value, gradients = autodiff.value_and_grad(loss, (0, 1, 2))(x, w, b)
    return [value, *gradients]


LARGE = ((32, 8, 8, 160), (3, 3, 160, 160), (160,))


def test_a_large_convolution_and_its_gradients_are_transformed() -> None:
    graph = program(training, *LARGE)
    executable = compiled(graph)
    counts = executable.program.counts()
    assert counts["torch_winograd_conv2d"] == 1
    assert counts["torch_winograd_conv2d_input_grad"] == 1
    assert counts["torch_winograd_conv2d_weight_grad"] == 1
    assert not {"conv2d", "torch_conv2d_bias", "torch_conv2d_backward"} & set(counts)
    random = np.random.default_rng(0)
    arrays = [random.normal(size=shape).astype(np.float32) for shape in LARGE]
    exact = prepare(trace_graph(training, [TensorSpec(s, dtypes.float64) for s in LARGE])[0], TORCH)
    wanted = compiled(exact)([torch.from_numpy(a.astype(np.float64)) for a in arrays])
    operands = [torch.from_numpy(a) for a in arrays]
    for _ in range(2):
        for found, expected in zip(executable(operands), wanted, strict=True):
            bound = tolerance(dtypes.float32, gradient=True, length=9 * 160)
            assert deviation(found.numpy(), expected.numpy()) < bound


def test_no_convolution_is_transformed_where_products_are_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "has_intel_processor", lambda: False)
    graph = program(training, *LARGE)
    counts = compiled(graph).program.counts()
    assert counts["torch_conv2d_backward"] == 1
    assert not [name for name in counts if "winograd" in name]


def test_other_convolutions_stay_what_they_are() -> None:
    small = program(training, (16, 8, 8, 4), *((3, 3, 4, 4), (4,)))
    assert compiled(small).program.counts()["torch_conv2d_backward"] == 1
    wide = prepare(trace_graph(training, [TensorSpec(s, dtypes.float64) for s in LARGE])[0], TORCH)
    assert compiled(wide).program.counts()["torch_conv2d_backward"] == 1


def test_threads_share_a_program_but_no_memory() -> None:
    executable = compiled(program(lambda x, w: [conv2d(x, w, **CONV)], *LARGE[:2]))
    assert set(executable.program.counts()) == {"torch_winograd_conv2d"}
    random = np.random.default_rng(1)
    w = torch.from_numpy(random.normal(size=LARGE[1]).astype(np.float32))
    images = [torch.from_numpy(random.normal(size=LARGE[0]).astype(np.float32)) for _ in range(4)]
    alone = [executable([x, w])[0] for x in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: executable([x, w])[0], images))
    assert all(map(torch.equal, alone, together))


def test_what_is_not_finite_spoils_its_own_tiles_only() -> None:
    x, w = torch.ones(2, 8, 8, 1), torch.ones(3, 3, 1, 1)
    x[0, 1, 1] = math.inf
    y = winograd.conv2d(winograd.Workspace(), x, w, tile=4, padding=((1, 1), (1, 1)))
    assert y[0, :3, :3].isnan().all()
    assert y[0, 4:, 4:].isfinite().all()
    assert y[1].isfinite().all()


def test_a_plan_knows_what_the_workspace_keeps() -> None:
    executable = compiled(program(training, *LARGE))
    executable([torch.ones(shape) for shape in LARGE])
    nodes = [n for n in executable.program.nodes if n.primitive.name in fused.WITH_WORKSPACE]
    assert len(nodes) == 3
    kept = executable.workspace.memory_bytes
    assert kept == pytest.approx(winograd.workspace_bytes(nodes), abs=256)
    assert winograd.workspace_bytes(nodes) <= planned_bytes(executable.graph, frozenset())


def recorded_takes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """By slot, the most bytes that anybody takes of a workspace from now on."""
    taken: dict[str, int] = {}
    take = winograd.Workspace.take

    def watched(self: winograd.Workspace, slot: str, *shape: int, **options: Any) -> torch.Tensor:
        found = take(self, slot, *shape, **options)
        taken[slot] = max(taken.get(slot, 0), found.nbytes)
        return found

    monkeypatch.setattr(winograd.Workspace, "take", watched)
    return taken


@pytest.mark.parametrize("function", [training, lambda x, w, b: [conv2d(x, w, **CONV)]])
def test_a_workspace_is_one_block_of_what_its_convolutions_take(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]
) -> None:
    executable = compiled(program(function, *LARGE))
    workspace = executable.workspace
    taken = recorded_takes(monkeypatch)
    blocks: set[int] = set()
    release = winograd.Workspace.release

    def watched(self: winograd.Workspace) -> None:
        blocks.update(slot.untyped_storage().data_ptr() for slot in self._slots.values())
        release(self)

    monkeypatch.setattr(winograd.Workspace, "release", watched)
    executable([torch.ones(shape) for shape in LARGE])
    workspace.release()
    assert len(blocks) == 1  # nothing outgrew its slot
    reserved = workspace.reserved_bytes
    assert set(taken) == set(reserved)
    assert sum(reserved.values()) <= 1.5 * sum(taken.values())


def test_inference_gives_its_workspace_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last convolution in tiles nothing is kept, and the plan knows."""
    large, small = LARGE[1], (3, 3, 160, 128)

    def inference(x: Any, w: Any, v: Any) -> Any:
        return conv2d(conv2d(x, w, **CONV), v, **CONV)

    executable = compiled(program(inference, LARGE[0], large, small))
    in_tiles = fused.nodes_with_workspace(executable.program)
    assert len(in_tiles) == 2
    kept: list[int] = []
    release = winograd.Workspace.release

    def watched(self: winograd.Workspace) -> None:
        kept.append(self.memory_bytes)
        release(self)

    monkeypatch.setattr(winograd.Workspace, "release", watched)
    arrays = [torch.ones(shape) for shape in (LARGE[0], large, small)]
    for _ in range(2):
        executable(arrays)
        assert executable.workspace.memory_bytes == 0
    assert len(kept) == 2
    assert kept[0] == pytest.approx(winograd.workspace_bytes(in_tiles), abs=256)
    assert max(kept) <= planned_bytes(executable.graph, frozenset())
