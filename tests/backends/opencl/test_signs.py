"""What a graph says about signs: enough for exponentials that cannot overflow, and never wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from accelkit_opencl.signs import sign

import accelkit as ak
from accelkit.passes import prepare
from accelkit.registry import backend

Function: TypeAlias = Callable[[ak.Tensor, ak.Tensor], ak.Tensor]
ODD = (0.0, -0.0, 1e-30, -1e30, np.inf, -np.inf, np.nan)

KNOWN: dict[str, tuple[Function, int]] = {
    "difference from the maximum of the last axis": (
        lambda x, y: x - ak.max(x, axis=-1, keepdims=True),
        -1,
    ),
    "difference from the maximum of the first axis": (lambda x, y: x - ak.max(x, axis=0), -1),
    "difference from the maximum of all": (lambda x, y: x - ak.max(x), -1),
    "difference from a repeated maximum": (
        lambda x, y: x - ak.broadcast_to(ak.max(x, axis=1, keepdims=True), (7, 7)),
        -1,
    ),
    "difference of signs": (lambda x, y: ak.abs(x) - ak.minimum(y, 0.0), 1),
    "negated square": (lambda x, y: -(x * x), -1),
    "Gaussian": (lambda x, y: -0.5 * x * y * x * y / 3.0, -1),
    "absolute value": (lambda x, y: ak.abs(x), 1),
    "nothing": (lambda x, y: ak.zeros_like(x) * ak.abs(y), 0),
    "sum with nothing": (lambda x, y: ak.zeros_like(x) - ak.abs(y), -1),
    "bounded from below": (lambda x, y: ak.maximum(x, ak.exp(y)), 1),
    "bounded from above": (lambda x, y: ak.minimum(x, -ak.abs(y)), -1),
    "choice": (lambda x, y: ak.where(x > y, ak.abs(x), ak.relu(y)), 1),
    "sum of rows": (lambda x, y: ak.sum(x * x, axis=0) + ak.mean(ak.abs(y)), 1),
    "views": (lambda x, y: ak.flip(ak.abs(x).T[1:], axis=0), 1),
}
UNKNOWN: dict[str, Function] = {
    "input": lambda x, y: x,
    "maximum of columns, subtracted from rows": lambda x, y: x - ak.max(x, axis=1),
    "another one's maximum": lambda x, y: x - ak.max(y, axis=1, keepdims=True),
    "minimum": lambda x, y: x - ak.min(x, axis=1, keepdims=True),
    "product": lambda x, y: x * y * x,
    "quotient by what may be -0": lambda x, y: ak.abs(x) / ak.sqrt(y),
    "difference": lambda x, y: ak.abs(x) - ak.abs(y),
    "choice": lambda x, y: ak.where(x > y, ak.abs(x), y),
    "integers that wrap around": lambda x, y: ak.astype(
        ak.astype(x, ak.int32) * ak.astype(x, ak.int32), ak.float32
    ),
}


def sign_of(function: Function) -> int | None:
    x, y = (ak.asarray(np.zeros((7, 7), np.float32), device="numpy") for _ in range(2))
    return sign(prepare(ak.trace(function, x, y), backend("opencl")).outputs[0])


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_holds(name: str) -> None:
    function, wanted = KNOWN[name]
    assert sign_of(function) == wanted
    rng = np.random.default_rng(2)
    x, y = (rng.standard_normal((7, 7)).astype(np.float32) for _ in range(2))
    x[0], y[:, 0] = ODD, ODD
    with np.errstate(all="ignore"):
        found = function(ak.asarray(x, device="numpy"), ak.asarray(y, device="numpy")).numpy()
    assert not (wanted * found < 0).any()


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_may_have_either_sign_is_unknown(name: str) -> None:
    assert sign_of(UNKNOWN[name]) is None


def test_long_expressions_are_looked_into_only_so_far() -> None:
    def deep(x: ak.Tensor, y: ak.Tensor) -> ak.Tensor:
        x = ak.abs(x)
        for _ in range(10):
            x = x + ak.abs(y) * x
        return x

    assert sign_of(deep) is None
