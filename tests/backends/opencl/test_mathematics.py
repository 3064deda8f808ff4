"""The own elementary functions: error in units of the last place, and special values."""

from __future__ import annotations

import numpy as np
import pytest

import accelkit as ak

TINY = float(np.finfo(np.float32).tiny)
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0], np.float32)


def spread(low: float, high: float, *, logarithmic: bool = False) -> np.ndarray:
    rng = np.random.default_rng(5)
    if logarithmic:
        low, high = np.log(low), np.log(high)
    drawn = rng.uniform(low, high, 200_000)
    return (np.exp(drawn) if logarithmic else drawn).astype(np.float32)


SAMPLES = {
    "exp": (np.exp, spread(-87.0, 88.7)),
    "log": (np.log, np.concatenate([spread(TINY, 3e38, logarithmic=True), spread(0.5, 2.0)])),
    "tanh": (np.tanh, np.concatenate([spread(-10, 10), spread(1e-30, 1.0, logarithmic=True)])),
    "sigmoid": (lambda x: 1.0 / (1.0 + np.exp(-x)), spread(-80.0, 80.0)),
    "sqrt": (np.sqrt, spread(TINY, 3e38, logarithmic=True)),
}
ULP = {"exp": 2.0, "log": 2.0, "tanh": 2.0, "sigmoid": 3.0, "sqrt": 0.5}


def on_device(name: str, x: np.ndarray) -> np.ndarray:
    function = {"sigmoid": ak.nn.sigmoid} if hasattr(ak.nn, "sigmoid") else {}
    tensor = ak.asarray(x, device="opencl")
    return ak.jit(function.get(name) or getattr(ak, name))(tensor).numpy()


@pytest.mark.parametrize("name", SAMPLES)
def test_error_in_units_of_the_last_place(name: str) -> None:
    function, x = SAMPLES[name]
    exact = function(x.astype(np.float64))
    normal = np.abs(exact) >= TINY
    found = on_device(name, x).astype(np.float64)
    unit = np.spacing(np.abs(exact[normal]).astype(np.float32)).astype(np.float64)
    error = np.abs(found[normal] - exact[normal]) / unit
    assert error.max() <= ULP[name] + 0.5, x[normal][error.argmax()]


@pytest.mark.parametrize("name", SAMPLES)
@np.errstate(all="ignore")
def test_special_values(name: str) -> None:
    expected = SAMPLES[name][0](SPECIAL.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(on_device(name, SPECIAL), expected, rtol=3e-7, equal_nan=True)


def test_exp_overflows_and_vanishes() -> None:
    x = np.array([88.72, 88.73, 89.0, 200.0, 3e38, -104.5, -3e38], np.float32)
    found = on_device("exp", x)
    assert np.isfinite(found[0])
    np.testing.assert_array_equal(found[1:], [np.inf] * 4 + [0.0] * 2)
