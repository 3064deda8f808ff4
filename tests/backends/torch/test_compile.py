"""Compiled programs: every rewrite keeps the result, and memory is reused only where it may be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from accelkit_torch.compile import OVERWRITING
from accelkit_torch.reuse import Reuse
from accelkit_torch.rewrites import rewrite_for_torch
from backends.torch_programs import (
    CONV,
    DEVICE,
    NO_TRANSPOSE,
    TORCH,
    add,
    check,
    compiled,
    conv2d,
    matmul,
    multiply,
    operands,
    reduce_sum,
    relu,
    reshape,
    traced,
)

from accelkit import autodiff, dtypes
from accelkit.backend import Interpreter
from accelkit.graph import TensorSpec
from accelkit.passes import prepare
from accelkit.primitives import get
from accelkit.tracing import trace_graph


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.float32, dtypes.float64], ids=str)
def test_dropout(dtype: dtypes.DType) -> None:
    specs = [TensorSpec((4, 6), dtype), TensorSpec((2,), dtypes.uint32)]

    def function(x: Any, key: Any) -> list[Any]:
        dropped = get("dropout")(x, key, rate=0.5, offset=1)
        return [dropped, get("dropout")(dropped, key, rate=0.5, offset=1)]

    graph = prepare(trace_graph(function, specs)[0], TORCH)
    executable = compiled(graph)
    counts = executable.program.counts()
    assert counts["torch_keep"] == 2
    assert "multiply" not in counts  # nor select: one node does both
    assert counts["torch_mask_bits"] == counts["random_keep_mask"] == 1
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    values = np.resize([1.5, np.nan, -np.inf, -0.0, -3.0], (4, 6)).astype(dtype.numpy)
    arrays = [torch.from_numpy(values), torch.tensor([1, 2], dtype=torch.uint32)]
    for a, b in zip(executable(arrays), plain(arrays), strict=True):
        assert TORCH.get(a).tobytes() == TORCH.get(b).tobytes()


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 1))], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_gradients(padding: Any, groups: int) -> None:
    geometry = {**CONV, "padding": padding, "groups": groups}

    def function(x: Any, w: Any, b: Any) -> list[Any]:
        def loss(x: Any, w: Any, b: Any) -> Any:
            y = add(conv2d(x, w, **geometry), b)
            return reduce_sum(multiply(y, y), axes=(0, 1, 2, 3))

        value, gradients = autodiff.value_and_grad(loss, (0, 1, 2))(x, w, b)
        return [value, *gradients]

    graph = traced(function, (2, 6, 5, 4), (3, 3, 4 // groups, 6), (6,))
    assert check(graph).program.counts()["torch_conv2d_backward"] == 1


def test_elementwise_chains_reuse_memory() -> None:
    def function(x: Any, y: Any) -> list[Any]:
        z = multiply(add(x, y), y)  # over the sum
        w = get("exp")(get("negative")(z))  # not over z, which is read again
        return [get("subtract")(w, z)]

    graph = traced(function, (3, 4), (3, 4))
    check(graph)
    reuse = Reuse(graph, frozenset(), set(OVERWRITING))
    names = {node.primitive.name for node in reuse.overwritten}
    assert names == {"multiply", "exp", "subtract"}


def test_a_rectifier_behind_a_product_with_a_bias_is_part_of_it() -> None:
    def hidden(x: Any, w: Any, b: Any) -> list[Any]:
        return [relu(add(matmul(x, w, **NO_TRANSPOSE), b))]

    def raw_too(x: Any, w: Any, b: Any) -> list[Any]:
        y = add(matmul(x, w, **NO_TRANSPOSE), b)
        return [relu(y), y]

    graph = traced(hidden, (5, 4), (4, 3), (3,))
    executable = check(graph)
    assert executable.program.counts() == {"torch_add_matmul_relu": 1}
    x, w, b = operands(graph)
    x[0, 0] = math.nan
    (y,) = executable([x, w, b])
    assert y[0].isnan().all()
    assert not y[1:].isnan().any()
    for program in (
        check(traced(raw_too, (5, 4), (4, 3), (3,))).program,
        rewrite_for_torch(graph, frozenset(), in_host_memory=False),  # kernels that drop NaN
    ):
        assert program.counts() == {"torch_add_matmul": 1, "relu": 1}


def test_views_are_not_written_through() -> None:
    def function(x: Any) -> list[Any]:
        y = add(x, x)
        view = get("transpose")(y, permutation=(1, 0))
        square = multiply(view, y)  # y's memory under two names
        wide = get("broadcast_to")(reduce_sum(y, axes=(0,)), shape=(3, 3))
        return [square, get("exp")(wide), get("slice")(y, start=(0, 0), stop=(2, 3), step=(1, 1))]

    check(traced(function, (3, 3)))


def test_results_never_share_memory() -> None:
    def function(x: Any) -> list[Any]:
        zero = get("full")(shape=(2, 2), value=0.0, dtype=dtypes.float64)
        y = add(x, x)
        return [x, reshape(x, shape=(4,)), zero, y, reshape(y, shape=(4,)), y]

    executable = check(traced(function, (2, 2)))
    x = torch.ones(2, 2, dtype=torch.float64)
    results = [x, *executable([x]), *executable([x])]
    assert len({t.untyped_storage().data_ptr() for t in results}) == len(results)


def test_users_primitive_may_return_a_view() -> None:
    from accelkit.primitives import PRIMITIVES, primitive

    same = primitive("test_torch_same", lambda x: x)
    same.lowering("torch")(lambda x: x)
    try:

        def function(x: Any) -> list[Any]:
            y = add(x, x)
            z = same(y)
            w = get("exp")(y)  # must not overwrite what z still holds
            return [add(z, w)]

        check(traced(function, (4,)))
    finally:
        del PRIMITIVES["test_torch_same"]


def test_gradient_tracking_of_the_user_is_ignored() -> None:
    executable = compiled(traced(lambda x: [multiply(x, x)], (3,)), (0,))
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (y,) = executable([x])
    assert not y.requires_grad


def test_precision_switch_is_restored() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        compiled(traced(lambda x: [matmul(x, x, **NO_TRANSPOSE)], (3, 3)))(
            [torch.eye(3, dtype=torch.float64)]
        )
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
