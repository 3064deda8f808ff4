"""Attention written with products and a softmax runs as torch's kernel; nothing else does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from accelkit_torch.rewrites import rewrite_for_torch
from backends.torch_programs import NO_TRANSPOSE, check, matmul, multiply, reduce_sum, traced

import accelkit as ak
from accelkit import autodiff, nn
from accelkit.primitives import get

HEADS = (2, 3, 5, 4)
SCALE = 1.0 / math.sqrt(4)


def attention(q: Any, k: Any, v: Any, scale: float = SCALE) -> Any:
    scores = matmul(q, ak.permute_dims(k, (0, 1, 3, 2)), **NO_TRANSPOSE)
    if scale != 1.0:
        scores = scores * scale
    return matmul(get("softmax")(scores, axis=3), v, **NO_TRANSPOSE)


def with_gradients(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """A weighted sum of the squares, and its gradients by all operands."""

    def run(*operands: Any) -> list[Any]:
        def loss(*operands: Any) -> Any:
            y = function(*operands)
            return reduce_sum(multiply(multiply(y, y), y), axes=tuple(range(y.ndim)))

        value, gradients = autodiff.value_and_grad(loss, tuple(range(len(operands))))(*operands)
        return [value, *gradients]

    return run


@pytest.mark.parametrize("scale", [SCALE, 1.0])
@pytest.mark.parametrize("memory", [5, 7])
def test_attention_and_its_gradient(scale: float, memory: int) -> None:
    source = (2, 3, memory, 4)
    graph = traced(with_gradients(lambda q, k, v: attention(q, k, v, scale)), HEADS, source, source)
    counts = check(graph).program.counts()
    assert counts["torch_attention"] == counts["torch_attention_grad"] == 1
    assert not {"softmax", "softmax_grad", "matmul"} & set(counts)


def test_attention_without_gradient() -> None:
    counts = check(traced(lambda q, k, v: [attention(q, k, v)], *[HEADS] * 3)).program.counts()
    assert counts["torch_attention"] == 1
    assert not {"softmax", "matmul"} & set(counts)


def test_the_layer() -> None:
    layer = nn.MultiHeadAttention(2)

    def forward(x: Any, q: Any, k: Any, v: Any, o: Any, bias: Any) -> Any:
        weights = {"query": q, "key": k, "value": v, "output": o}
        split = {name: {"weight": weight, "bias": bias} for name, weight in weights.items()}
        return layer.apply(split, x)[0]

    graph = traced(with_gradients(forward), (2, 5, 8), *[(8, 8)] * 4, (8,))
    counts = check(graph).program.counts()
    assert counts["torch_attention"] == counts["torch_attention_grad"] == 1
    assert counts["torch_add_matmul"] == 4  # biases, although the products are reshaped


def two_readers(q: Any, k: Any, v: Any) -> Any:
    weights = get("softmax")(matmul(q, k, transpose_a=False, transpose_b=True), axis=3)
    return matmul(weights, v, **NO_TRANSPOSE) * reduce_sum(weights * weights, axes=(0, 1, 2, 3))


def masked(q: Any, k: Any, v: Any) -> Any:
    scores = matmul(q, ak.permute_dims(k, (0, 1, 3, 2)), **NO_TRANSPOSE)
    scores = ak.where(ak.tril(ak.ones((5, 5), dtype="bool")), scores, -math.inf)
    return matmul(get("softmax")(scores, axis=3), v, **NO_TRANSPOSE)


def along_queries(q: Any, k: Any, v: Any) -> Any:
    scores = matmul(q, ak.permute_dims(k, (0, 1, 3, 2)), **NO_TRANSPOSE)
    return matmul(get("softmax")(scores, axis=2), v, **NO_TRANSPOSE)


@pytest.mark.parametrize("function", [two_readers, masked, along_queries])
def test_what_is_something_else_stays(function: Callable[..., Any]) -> None:
    for program in (lambda *xs: [function(*xs)], with_gradients(function)):
        counts = check(traced(program, *[HEADS] * 3)).program.counts()
        assert "torch_attention" not in counts


def test_another_width_of_values_stays() -> None:
    graph = traced(lambda q, k, v: [attention(q, k, v)], HEADS, HEADS, (2, 3, 5, 6))
    assert "torch_attention" not in check(graph).program.counts()


def test_only_in_host_memory() -> None:
    graph = traced(lambda q, k, v: [attention(q, k, v)], *[HEADS] * 3)
    program = rewrite_for_torch(graph, frozenset(), in_host_memory=False)
    assert "torch_attention" not in program.counts()
