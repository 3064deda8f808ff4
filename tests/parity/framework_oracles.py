"""PyTorch's and JAX's own operations and autograd as oracles, in float64.

They share no code with accelkit: neither its formulas nor its derivative rules. A test module that
imports this one first asks pytest whether both frameworks are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch

import accelkit as ak
from accelkit.parity import deviation, tolerance

# Every result here sums at most some hundreds of terms.
BOUND = tolerance(ak.float64, gradient=True, length=512)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def own(function: Callable[..., Any], arrays: Sequence[np.ndarray], g: np.ndarray) -> list[Any]:
    """accelkit's value and cotangents."""
    value, product = ak.vjp(function, *(ak.asarray(a) for a in arrays))
    return [value.numpy(), *(t.numpy() for t in product(ak.asarray(g)))]


def by_torch(function: Callable[..., Any], arrays: Sequence[np.ndarray], g: np.ndarray) -> list:
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    value = function(*leaves)
    found = torch.autograd.grad(value, leaves, torch.tensor(g), allow_unused=True)
    return [value.detach().numpy(), *(t.numpy() for t in found)]


def by_jax(function: Callable[..., Any], arrays: Sequence[np.ndarray], g: np.ndarray) -> list[Any]:
    with jax.enable_x64(True):
        value, product = jax.vjp(function, *map(jax.numpy.asarray, arrays))
        found = product(jax.numpy.asarray(g))
        return [np.asarray(value), *map(np.asarray, found)]


def agree(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    for position, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.shape == b.shape
        measured = deviation(a, b, floor=1.0)
        assert measured <= BOUND, f"result {position} deviates by {measured:.2e}"


def check(
    function: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    *,
    torch_function: Callable[..., Any] | None = None,
    jax_function: Callable[..., Any] | None = None,
) -> None:
    shape = function(*map(ak.asarray, arrays)).shape
    g = normal(*shape, seed=99)
    found = own(function, arrays, g)
    if torch_function is not None:
        agree(found, by_torch(torch_function, arrays, g))
    if jax_function is not None:
        agree(found, by_jax(jax_function, arrays, g))
