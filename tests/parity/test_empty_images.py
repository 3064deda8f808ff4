"""Images without rows, channels or features, and other data without elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit.device import Device
from accelkit.errors import BackendUnavailableError, ShapeError
from accelkit.primitives.batch_normalization import batch_norm

GEOMETRY: Any = {"strides": 2, "padding": ((1, 2), (2, 2))}
PROGRAMS: dict[str, Callable[..., Any]] = {
    "conv2d": lambda x, w: ak.conv2d(x, w[:, :, :, 0], **GEOMETRY),
    "depthwise_conv2d": lambda x, w: ak.depthwise_conv2d(x, w[:, :, :, 0], **GEOMETRY),
    "avg_pool2d": lambda x, w: ak.avg_pool2d(x, 3, **GEOMETRY),
    "max_pool2d": lambda x, w: ak.exp(ak.max_pool2d(x, 3, **GEOMETRY)),
    "local_response_norm": lambda x, w: ak.local_response_norm(x),
    "batch_norm": lambda x, w: batch_norm(x, x[0, 0, 0] * 0.0, x[0, 0, 0] * 0.0, epsilon=1e-3)[0],
}


@pytest.fixture(params=["numpy", "torch", "jax", "tensorflow", "opencl"])
def device(request: pytest.FixtureRequest) -> Device:
    try:
        return ak.device(request.param)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("image", "features"),
    [((0, 4, 4, 2), 3), ((1, 0, 4, 2), 3), ((1, 4, 4, 0), 3), ((2, 4, 4, 2), 0)],
    ids=["no images", "no rows", "no channels", "no features"],
)
def test_there_is_nothing_to_add(image: tuple[int, ...], features: int, device: Device) -> None:
    """Results and derivatives are sums of nothing, in the same shapes everywhere."""
    absent = set()
    if not math.prod(image[:3]):
        absent.add("batch_norm")  # there is no mean of nothing
    if not image[3]:
        absent.add("depthwise_conv2d")  # which needs a channel
    if not features:
        absent |= PROGRAMS.keys() - {"conv2d", "depthwise_conv2d"}
    chosen = [program for name, program in PROGRAMS.items() if name not in absent]
    x = np.ones(image, np.float32)
    w = np.ones((3, 3, image[3], 1, features), np.float32)

    def function(x: Any, w: Any) -> list[Any]:
        found: list[Any] = []
        for program in chosen:
            y, product = ak.vjp(program, x, w)
            found += [y, *product(ak.ones_like(y))]
        return found

    tensors = [ak.asarray(a, device=device) for a in (x, w)]
    with ak.default_device(device):
        for found in (function(*tensors), ak.jit(function)(*tensors)):
            for y in found:
                assert y.size == 0 or not y.numpy().any()


def test_windows_without_elements_have_no_mean() -> None:
    with pytest.raises(ShapeError, match="need rows and columns"):
        ak.adaptive_avg_pool2d(ak.ones((1, 0, 5, 2)), 3)


@pytest.mark.parametrize("function", [ak.conv2d, ak.depthwise_conv2d])
def test_a_window_has_a_row_and_a_column(function: Callable[..., Any], device: Device) -> None:
    image = ak.ones((2, 4, 4, 1), device=device)
    for shape in ((0, 3, 1, 1), (3, 0, 1, 1)):
        with pytest.raises(ShapeError, match="needs a row and a column, got weights of shape"):
            function(image, ak.ones(shape, device=device), padding=1)


@pytest.mark.parametrize("indices", [(), (0,), (2, 0)])
@pytest.mark.parametrize("compiled", [False, True])
def test_nothing_is_taken(indices: tuple[int, ...], compiled: bool, device: Device) -> None:
    """Rows without elements, by indices of any shape, and the derivative."""
    x = ak.ones((3, 0), device=device)
    places = ak.zeros(indices, dtype=ak.int32, device=device)

    def function(x: Any, places: Any) -> list[Any]:
        rows = ak.reshape(places, (-1,))
        y, product = ak.vjp(lambda x: ak.take(x, rows, axis=0), x)
        return [y, *product(ak.ones_like(y))]

    taken, slope = (ak.jit(function) if compiled else function)(x, places)
    assert taken.shape == (math.prod(indices), 0)
    assert slope.shape == x.shape
