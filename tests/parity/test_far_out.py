"""Infinities, and numbers far from zero: the limits are taken, and NaN is never dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit.device import Device
from accelkit.errors import BackendUnavailableError
from accelkit.parity.checks import available_dtypes
from accelkit.parity.tolerances import TOLERANCES

FAR = np.array([-np.inf, -1e30, -1e4, 0.0, 1e4, 1e30, np.inf])
Run = Callable[..., Any]
WAYS: dict[str, Callable[[Run], Run]] = {"eager": lambda f: f, "compiled": ak.jit}

every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(params=["numpy", "torch", "jax", "tensorflow", "opencl"])
def device(request: pytest.FixtureRequest) -> Device:
    try:
        return ak.device(request.param)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def _floating(device: Device) -> list[Any]:
    return [d for d in available_dtypes(device) if d.is_floating]


@every_way
def test_a_mask_does_not_hide_what_is_not_finite(device: Device, way: str) -> None:
    """0 times infinity is NaN, also where the 0 was False."""
    mask = ak.asarray(np.array([False, False, False, True, True]), device=device)
    for dtype in _floating(device):
        numbers = np.array([np.inf, np.nan, 2.0, -3.0, np.inf]).astype(dtype.numpy)
        x = ak.asarray(numbers, device=device)
        found = WAYS[way](lambda m, x: m.astype(x.dtype) * x)(mask, x)
        wanted = np.array([np.nan, np.nan, 0.0, -3.0, np.inf])
        np.testing.assert_array_equal(found.numpy().astype(np.float64), wanted, str(dtype))


@every_way
def test_the_error_function_ends_at_one(device: Device, way: str) -> None:
    for dtype in _floating(device):
        x = np.array([-np.inf, -7.0, 0.0, 7.0, np.inf, np.nan]).astype(dtype.numpy)
        found = WAYS[way](ak.erf)(ak.asarray(x, device=device)).numpy().astype(np.float64)
        bound = TOLERANCES[dtype.name].value
        np.testing.assert_allclose(found, [-1.0, -1.0, 0.0, 1.0, 1.0, np.nan], rtol=bound)


@every_way
@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_is_a_ramp_from_afar(
    device: Device, way: str, approximate: bool, request: pytest.FixtureRequest
) -> None:
    """0 on the left and x on the right, with the slopes of that."""
    if device.backend == "torch":
        reason = "torch's kernels give NaN there; limiting x first takes as long as the kernel"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    for dtype in _floating(device):
        with np.errstate(over="ignore"):
            x = FAR.astype(dtype.numpy)

        def function(x: Any) -> Any:
            found, product = ak.vjp(lambda v: ak.gelu(v, approximate=approximate), x)
            return found, *product(ak.ones_like(found))

        value, slope = WAYS[way](function)(ak.asarray(x, device=device))
        wide = x.astype(np.float64)
        np.testing.assert_allclose(
            value.numpy().astype(np.float64), np.maximum(wide, 0.0), rtol=1e-6, atol=1e-5
        )
        np.testing.assert_allclose(
            slope.numpy().astype(np.float64), np.heaviside(wide, 0.5), atol=1e-6
        )
