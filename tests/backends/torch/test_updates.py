"""Updates in compiled programs: their rules, in place where that is allowed, and skipped ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from backends.torch_programs import (
    DEVICE,
    NO_TRANSPOSE,
    SGD,
    STEP_SHAPES,
    STEP_STATE,
    TORCH,
    add,
    check,
    compiled,
    matmul,
    multiply,
    operands,
    reduce_sum,
    step,
    traced,
)

from accelkit.backend import Interpreter
from accelkit.primitives import get


@pytest.mark.parametrize("donate", [(), STEP_STATE, (1, 3, 7)], ids=str)
def test_training_step(donate: tuple[int, ...]) -> None:
    graph = traced(step, *STEP_SHAPES)
    counts = check(graph, donate).program.counts()
    assert counts["torch_conv2d_bias"] == 1
    assert counts["torch_conv2d_backward"] == 1
    assert counts["torch_max_pool2d"] == counts["torch_max_pool2d_grad"] == 1
    assert counts["torch_add_matmul"] == 1
    accumulated = counts.get("torch_accumulate_matmul", 0)
    assert accumulated == (1 if 7 in donate else 0)  # 7 is the momentum of the matrix
    assert counts["torch_sgd"] == 1 + accumulated
    left = {"conv2d", "conv2d_weight_grad", "max_pool2d", "max_pool2d_grad", "sgd_update"}
    assert not left & counts.keys()


@pytest.mark.parametrize("momentum", [0.01, 0.5, 0.9, 1.0])
def test_momentum_that_holds_the_gradient_already(momentum: float) -> None:
    """Products add to the momentum they share with the update, unless its factor is tiny."""
    options = {"momentum": momentum, "weight_decay": 0.01, "nesterov": False}

    def update(p: Any, a: Any, b: Any, v: Any, rate: Any) -> Any:
        return get("sgd_update")(p, matmul(a, b, **NO_TRANSPOSE), v, rate, **options)

    executable = check(traced(update, (4, 5), (4, 3), (3, 5), (4, 5), ()), donate=(0, 3))
    accumulated = executable.program.counts().get("torch_accumulate_matmul", 0)
    assert accumulated == (momentum >= 0.5)


def test_update_kernels_copy_nothing() -> None:
    """They copy operands that are not contiguous, as convolution weights seem to be."""
    graph = traced(step, *STEP_SHAPES)
    executable = compiled(graph, STEP_STATE)
    arrays = operands(graph)
    first = executable(arrays)
    arrays[1:9] = [first[i] for i in (1, 3, 5, 7, 2, 4, 6, 8)]
    assert not arrays[1].is_contiguous()
    with torch.profiler.profile() as profile:
        executable(arrays)
    updates = [e for e in profile.events() if e.name == "aten::_fused_sgd_"]
    assert len(updates) == 2
    for event in updates:
        assert "aten::contiguous" not in {child.name for child in event.cpu_children}


def test_donated_state_is_updated_in_place() -> None:
    graph = traced(step, *STEP_SHAPES)
    executable = compiled(graph, STEP_STATE)
    arrays = operands(graph)
    first = executable(arrays)
    # The first step may give convolution weights another memory layout; no later step does.
    state = [first[i] for i in (1, 3, 5, 7, 2, 4, 6, 8)]
    addresses = [t.data_ptr() for t in state]
    again = executable([arrays[0], *state, arrays[-1]])
    assert [again[i].data_ptr() for i in (1, 3, 5, 7, 2, 4, 6, 8)] == addresses


def test_donated_tensor_whose_memory_is_shared_is_left_alone() -> None:
    graph = traced(step, *STEP_SHAPES)
    arrays = operands(graph)
    base = torch.randn(2, 36, 5, dtype=torch.float64)
    arrays[3] = base[0]
    before = base.clone()
    expected = compiled(graph)([a.clone() for a in arrays])
    found = compiled(graph, STEP_STATE)(arrays)
    assert torch.equal(base, before)
    torch.testing.assert_close(found, expected)


def test_memory_that_torch_did_not_allocate_is_left_alone() -> None:
    executable = compiled(traced(lambda x: [multiply(x, x)], (3,)), (0,))
    source = np.array([1.0, 2.0, 3.0])
    assert executable([torch.from_numpy(source)])[0].tolist() == [1, 4, 9]
    assert source.tolist() == [1, 2, 3]


def test_same_tensor_donated_and_read() -> None:
    def function(p: Any, q: Any) -> list[Any]:
        return [multiply(p, q), add(q, q)]

    executable = compiled(traced(function, (4,), (4,)), (0,))
    x = torch.arange(4.0, dtype=torch.float64)
    product, total = executable([x, x])
    assert product.tolist() == [0, 1, 4, 9]
    assert total.tolist() == [0, 2, 4, 6]
    assert x.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("donate", [(), (0, 1, 2, 3)], ids=str)
def test_sgd(nesterov: bool, momentum: float, donate: tuple[int, ...]) -> None:
    options = {"momentum": momentum, "weight_decay": 0.01, "nesterov": nesterov}

    def function(p: Any, q: Any, v: Any, u: Any, g: Any, h: Any, rate: Any) -> list[Any]:
        new_p, new_v = get("sgd_update")(p, matmul(g, g, **NO_TRANSPOSE), v, rate, **options)
        new_q, new_u = get("sgd_update")(q, h, u, rate, **options)
        return [new_p, new_q, new_v, new_u, multiply(new_p, new_p)]

    shapes = ((3, 3), (5,), (3, 3), (5,), (3, 3), (5,), ())
    executable = check(traced(function, *shapes), donate)
    assert ("sgd_update" in executable.program.counts()) is (momentum == 0.0)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("step_number", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.95, 0.9), (0.0, 0.0)], ids=str)
def test_adam(decoupled: bool, step_number: int, betas: tuple[float, float]) -> None:
    options = {
        "beta1": betas[0], "beta2": betas[1], "epsilon": 1e-6, "weight_decay": 0.02,
        "decoupled": decoupled,
    }  # fmt: skip

    def function(*tensors: Any) -> list[Any]:
        *state, rate, c1, c2 = tensors
        new = get("adam_update")(*state[:4], rate, c1, c2, **options)
        return [*new, *get("adam_update")(*state[4:], rate, c1, c2, **options)]

    graph = traced(function, *[(4, 3)] * 8, (), (), ())
    arrays = [a.abs() for a in operands(graph)]
    arrays[-2:] = [torch.tensor(1.0 - beta**step_number, dtype=torch.float64) for beta in betas]
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    expected = plain([a.clone() for a in arrays])
    for donate in ((), (0, 2, 3, 4)):
        executable = compiled(graph, donate)
        assert executable.program.counts()["torch_adam"] == 1
        found = executable([a.clone() for a in arrays])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("update", ["sgd", "adam"])
@pytest.mark.parametrize("donate", [(), (0, 1, 2)], ids=str)
def test_a_skipped_update(update: str, donate: tuple[int, ...]) -> None:
    options = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.0}

    def function(p: Any, m: Any, v: Any, g: Any, rate: Any, c1: Any, c2: Any) -> list[Any]:
        finite = get("is_finite")(reduce_sum(g, axes=(0, 1)))
        product = matmul(g, g, **NO_TRANSPOSE)
        if update == "sgd":
            new, old = get("sgd_update")(p, product, m, rate, **SGD), (p, m)
        else:
            new = get("adam_update")(p, product, m, v, rate, c1, c2, decoupled=True, **options)
            old = (p, m, v)
        return [get("select")(finite, a, b) for a, b in zip(new, old, strict=True)]

    graph = traced(function, (3, 3), (3, 3), (3, 3), (3, 3), (), (), ())
    executable = compiled(graph, donate)
    counts = executable.program.counts()
    assert counts[f"torch_{update}"] == 1
    assert "select" not in counts
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    arrays = [a.abs() for a in operands(graph)[:5]]
    arrays += [torch.tensor(c, dtype=torch.float64) for c in (0.1, 0.01)]
    expected = plain([a.clone() for a in arrays])
    found = executable([a.clone() for a in arrays])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    arrays[3][0, 0] = float("nan")
    before = [a.clone() for a in arrays]
    found = executable(arrays)
    torch.testing.assert_close(found, before[: len(found)], rtol=0, atol=0)


def test_a_condition_that_comes_from_the_update() -> None:
    def function(p: Any, v: Any, g: Any, rate: Any) -> list[Any]:
        new_p, new_v = get("sgd_update")(p, g, v, rate, **SGD)
        finite = get("is_finite")(reduce_sum(new_p, axes=(0,)))
        return [get("select")(finite, new_p, p), get("select")(finite, new_v, v)]

    counts = check(traced(function, (4,), (4,), (4,), ()), (0, 1)).program.counts()
    assert counts["select"] == 2


def test_an_update_that_reads_another_one() -> None:
    def function(p: Any, g: Any, v: Any, rate: Any) -> list[Any]:
        p, v = get("sgd_update")(p, g, v, rate, **SGD)
        q = multiply(p, p)
        p, v = get("sgd_update")(p, q, v, rate, **SGD)
        return [p, v, q]

    assert check(traced(function, (4,), (4,), (4,), ()), (0, 2)).program.counts()["torch_sgd"] == 2


def test_an_average_of_the_weights_takes_the_place_of_the_last_one() -> None:
    """One call that allocates nothing, beside the fused update that it follows."""

    def update(p: Any, g: Any, v: Any, average: Any, rate: Any, share: Any) -> Any:
        new, velocity = get("sgd_update")(p, g, v, rate, **SGD)
        return [new, velocity, get("average_update")(average, new, share)]

    graph = traced(update, (4, 5), (4, 5), (4, 5), (4, 5), (), ())
    executable = check(graph, donate=(0, 2, 3))
    assert executable.program.counts()["average_update"] == 1
    arrays = [a.clone() for a in operands(executable.graph)]  # in memory of their own
    place = arrays[3].data_ptr()
    assert executable(arrays)[2].data_ptr() == place
