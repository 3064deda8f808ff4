"""Arithmetic, products and reductions against PyTorch's and JAX's own, with their autograd."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import accelkit as ak

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
import torch.nn.functional as F  # noqa: E402 - after the check that it is there
from parity.framework_oracles import check, normal  # noqa: E402

UNARY = {
    "exp": 2.0,
    "expm1": 1.0,
    "sin": 3.0,
    "cos": 3.0,
    "tan": 0.4,
    "sinh": 2.0,
    "cosh": 2.0,
    "arctan": 3.0,
    "arcsinh": 3.0,
}
SHORT = {"arctan": "atan", "arcsinh": "asinh"}


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_a_real_number(name: str) -> None:
    check(
        getattr(ak, SHORT.get(name, name)),
        (normal(40) * UNARY[name],),
        torch_function=getattr(torch, name),
        jax_function=getattr(jax.numpy, name),
    )


@pytest.mark.parametrize("name", ["log", "sqrt", "log1p", "rsqrt"])
def test_functions_of_a_positive_number(name: str) -> None:
    function = getattr(jax.numpy, name, None) or jax.lax.rsqrt
    x = np.abs(normal(40)) + 0.1
    check(getattr(ak, name), (x,), torch_function=getattr(torch, name), jax_function=function)


@pytest.mark.parametrize(
    "name", ["add", "subtract", "multiply", "divide", "maximum", "minimum", "arctan2"]
)
def test_arithmetic_with_broadcasting(name: str) -> None:
    check(
        getattr(ak, SHORT.get(name, {"arctan2": "atan2"}.get(name, name))),
        (normal(3, 1, 4), normal(5, 1, seed=1)),
        torch_function=getattr(torch, name),
        jax_function=getattr(jax.numpy, name),
    )


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_split_the_gradient_in_halves(name: str) -> None:
    arrays = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 3.0])
    check(
        getattr(ak, name),
        arrays,
        torch_function=getattr(torch, name),
        jax_function=getattr(jax.numpy, name),
    )


def test_power() -> None:
    arrays = np.abs(normal(30)) + 0.2, normal(30, seed=1)
    check(ak.pow, arrays, torch_function=torch.pow, jax_function=jax.numpy.power)


@pytest.mark.parametrize(("swap_a", "swap_b"), list(itertools.product((False, True), repeat=2)))
def test_matmul(swap_a: bool, swap_b: bool) -> None:
    a = normal(2, *((5, 3) if swap_a else (3, 5)))
    b = normal(2, *((4, 5) if swap_b else (5, 4)), seed=1)

    def form(matmul: Any, swapped: Any) -> Any:
        return lambda a, b: matmul(swapped(a) if swap_a else a, swapped(b) if swap_b else b)

    check(
        form(ak.matmul, lambda x: x.mT),
        (a, b),
        torch_function=form(torch.matmul, lambda x: x.mT),
        jax_function=form(jax.numpy.matmul, lambda x: x.mT),
    )


@pytest.mark.parametrize("name", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("axis", [0, 1, (0, 2)], ids=str)
def test_reductions(name: str, axis: Any) -> None:
    function = getattr(jax.numpy, name)
    check(
        lambda x: getattr(ak, name)(x, axis=axis),
        (normal(3, 4, 5),),
        jax_function=lambda x: function(x, axis=axis),
    )


def test_cumulative_sum_and_sort() -> None:
    check(
        lambda x: ak.cumulative_sum(x, axis=1),
        (normal(3, 7),),
        torch_function=lambda x: torch.cumsum(x, 1),
    )
    check(
        lambda x: ak.sort(x, axis=1, descending=True),
        (normal(3, 7),),
        torch_function=lambda x: torch.sort(x, 1, descending=True).values,
    )


def test_sums_of_exponentials_and_norms() -> None:
    x = (normal(3, 4, 5) * 20.0,)
    check(
        lambda x: ak.logsumexp(x, axis=(0, 2)),
        x,
        torch_function=lambda x: torch.logsumexp(x, (0, 2)),
        jax_function=lambda x: jax.nn.logsumexp(x, (0, 2)),
    )
    for order in (1, 2, float("inf")):
        check(
            lambda x, order=order: ak.vector_norm(x, axis=1, ord=order),
            x,
            torch_function=lambda x, order=order: torch.linalg.vector_norm(x, order, 1),
        )
    zero = (np.zeros((2, 3)),)
    check(
        lambda x: ak.vector_norm(x, axis=1),
        zero,
        torch_function=lambda x: torch.linalg.vector_norm(x, 2, 1),
    )


def test_embedding_lookup_adds_repeated_rows() -> None:
    index = np.array([[2, 0, 2], [1, 2, 2]])
    check(
        lambda x: ak.take(x, ak.asarray(index.reshape(-1)), axis=0),
        (normal(4, 3),),
        torch_function=lambda x: F.embedding(torch.tensor(index.reshape(-1)), x),
    )


def test_the_oracle_sees_a_difference() -> None:
    with pytest.raises(AssertionError, match="deviates"):
        check(lambda x: ak.sigmoid(x) * 1.00000001, (normal(5),), torch_function=torch.sigmoid)
