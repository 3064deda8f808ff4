"""Winograd's transforms give a convolution and its gradients; shapes decide where they are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accelkit import dtypes
from accelkit.winograd import Winograd, choose, winograd

SAME = ((1, 1), (1, 1))


def direct(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Results of a window that moves by one over (n, n) images."""
    return np.einsum("ijkl,kl->ij", np.lib.stride_tricks.sliding_window_view(x, w.shape), w)


@pytest.mark.parametrize(("tile", "window"), [(2, 3), (4, 3), (3, 5), (2, 5)])
def test_transforms_are_exact(tile: int, window: int) -> None:
    random = np.random.default_rng(0)
    form = winograd(tile, window)
    n = form.extent
    x, w, g = (random.normal(size=(size, size)) for size in (n, window, tile))
    y = form.results @ ((form.images @ x.ravel()) * (form.weights @ w.ravel()))
    np.testing.assert_allclose(y.reshape(tile, tile), direct(x, w), rtol=1e-12, atol=1e-12)
    # The trilinear form <g, y(x, w)>: its other two contractions are the gradients.
    spread = form.results.T @ g.ravel()
    by_weights = form.weights.T @ ((form.images @ x.ravel()) * spread)
    by_images = form.images.T @ ((form.weights @ w.ravel()) * spread)
    np.testing.assert_allclose(by_weights.reshape(w.shape), direct(x, g), rtol=1e-12, atol=1e-12)
    full = np.pad(g, window - 1)
    np.testing.assert_allclose(
        by_images.reshape(n, n), direct(full, w[::-1, ::-1]), rtol=1e-12, atol=1e-12
    )


def test_what_has_no_points_is_refused() -> None:
    with pytest.raises(KeyError):
        winograd(9, 9)


def chosen(
    batch: int = 32,
    extent: int = 13,
    channels: int = 192,
    features: int = 384,
    window: tuple[int, int] = (3, 3),
    **options: Any,
) -> Winograd | None:
    geometry = {"dtype": dtypes.float32, "padding": SAME, **options}
    return choose(batch, (extent, extent), channels, features, window, **geometry)


@pytest.mark.parametrize(
    ("extent", "channels", "features", "window", "tile"),
    [
        (27, 64, 192, 5, 3),  # AlexNet's, from the second on
        (13, 192, 384, 3, 4),
        (13, 384, 256, 3, 4),
        (13, 256, 256, 3, 4),
        (28, 128, 128, 3, 4),  # ResNet-18's, from the second stage on
        (14, 256, 256, 3, 4),
        (7, 512, 512, 3, 4),
    ],
)
def test_large_convolutions_are_transformed(
    extent: int, channels: int, features: int, window: int, tile: int
) -> None:
    border = (window // 2, window // 2)
    found = chosen(32, extent, channels, features, (window, window), padding=(border, border))
    assert found is winograd(tile, window)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": (2, 2)},
        {"strides": (1, 2)},
        {"dilation": (2, 2)},
        {"groups": 2},
        {"window": (1, 1)},
        {"window": (7, 7)},
        {"window": (3, 5)},
        {"padding": ((3, 0), (0, 0))},  # the gradient by images would need a negative border
        {"dtype": dtypes.float64},
        {"dtype": dtypes.bfloat16},
        {"channels": 3},
        {"extent": 56, "channels": 64, "features": 64},  # ResNet-18's first stage
        {"batch": 1},  # the weights' transform outweighs it
        {"batch": 0},
        {"extent": 1},  # a tile is nearly empty
    ],
    ids=str,
)
def test_others_are_summed_directly(options: dict[str, Any]) -> None:
    assert chosen() is not None
    assert chosen(**options) is None


def test_cheaper_transforms_suit_more_shapes() -> None:
    narrow = {"extent": 56, "channels": 64, "features": 64}
    assert chosen(**narrow) is None
    assert chosen(**narrow, transform_flops=50.0) is winograd(4, 3)
    assert chosen(batch=1) is None
    assert chosen(batch=1, transform_flops=50.0) is None
    assert chosen(batch=1, transform_flops=50.0, weights_flops=0.0) is winograd(4, 3)
