"""Pooling in compiled programs: before relu, deterministic, and with every border."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelkit_torch import convolution
from accelkit_torch.rewrites import rewrite_for_torch
from backends.torch_programs import (
    DEVICE,
    POOL,
    TORCH,
    check,
    compiled,
    max_pool2d,
    multiply,
    reduce_sum,
    relu,
    traced,
)

from accelkit import autodiff
from accelkit.backend import Interpreter


def pooled_gradient(x: Any, g: Any) -> list[Any]:
    def loss(x: Any) -> Any:
        return reduce_sum(multiply(max_pool2d(relu(x), **POOL), g), axes=(0, 1, 2, 3))

    value, dx = autodiff.value_and_grad(loss)(x)
    return [value, dx]


def test_pooling_before_relu() -> None:
    graph = traced(pooled_gradient, (2, 7, 7, 3), (2, 3, 3, 3))
    program = check(graph).program
    order = [node.primitive.name for node in program.nodes]
    assert order.index("torch_max_pool2d") < order.index("relu")
    assert order.index("relu_grad") < order.index("torch_max_pool2d_grad")


def test_pooling_before_relu_on_special_values() -> None:
    graph = traced(pooled_gradient, (1, 5, 5, 1), (1, 2, 2, 1))
    plain = Interpreter(graph, DEVICE, lambda node: TORCH.implementation(node.primitive, DEVICE))
    random = np.random.default_rng(0)
    for _ in range(50):
        # Many ties, and windows without a positive element.
        x = random.choice([-2.0, -1.0, -0.0, 0.0, 1.0, np.inf, -np.inf], (1, 5, 5, 1))
        arrays = [torch.from_numpy(x), torch.from_numpy(random.normal(size=(1, 2, 2, 1)))]
        torch.testing.assert_close(
            compiled(graph)(arrays), plain(arrays), rtol=0, atol=0, equal_nan=True
        )


def test_rectified_images_with_another_use_stay() -> None:
    def function(x: Any) -> list[Any]:
        y = relu(x)
        return [max_pool2d(y, **POOL), y]

    order = [n.primitive.name for n in check(traced(function, (1, 5, 5, 1))).program.nodes]
    assert order == ["relu", "max_pool2d"]


def test_deterministic_gradient_of_pooling() -> None:
    """The form for accelerators, which runs on any device."""
    random = np.random.default_rng(0)
    for padding in (((0, 0), (0, 0)), ((1, 1), (1, 0))):
        geometry = {**POOL, "padding": padding}
        x = torch.from_numpy(random.integers(0, 3, (2, 7, 8, 3)).astype(np.float64))
        y = TORCH.table["max_pool2d"](x, **geometry)
        g = torch.from_numpy(random.normal(size=tuple(y.shape)))
        expected = TORCH.table["max_pool2d_grad"](x, y, g, **geometry)
        found = convolution.deterministic_max_pool2d_grad(x, y, g, **geometry)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    graph = traced(pooled_gradient, (1, 5, 5, 1), (1, 2, 2, 1))
    kept = rewrite_for_torch(graph, frozenset(), use_pooling_indices=False).counts()
    assert kept["max_pool2d_grad"] == 1


def test_pooling_with_borders_that_torch_lacks() -> None:
    geometry = {**POOL, "padding": ((2, 1), (0, 2))}

    def function(x: Any, g: Any) -> list[Any]:
        def loss(x: Any) -> Any:
            return reduce_sum(multiply(max_pool2d(x, **geometry), g), axes=(0, 1, 2, 3))

        return list(autodiff.value_and_grad(loss)(x))

    check(traced(function, (1, 6, 6, 2), (1, 4, 3, 2)))
