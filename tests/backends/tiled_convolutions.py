"""Small convolutions, and what the direct sum gives for them: for the tests of tiled ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from accelkit_numpy import NumpyBackend
from hypothesis import strategies as st

from accelkit import dtypes
from accelkit.device import Device
from accelkit.parity.tolerances import deviation, tolerance
from accelkit.primitives import get

CONV = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
TILES = {3: 4, 5: 3}  # by extent of the window
_ORACLE = NumpyBackend()


def direct(name: str, *operands: np.ndarray, **parameters: Any) -> np.ndarray:
    """A primitive by NumPy in float64."""
    function = _ORACLE.implementation(get(name), Device("numpy"))
    found: np.ndarray = function(*(a.astype(np.float64) for a in operands), **parameters)
    return found


def assert_close(found: np.ndarray, expected: np.ndarray, length: int) -> None:
    """Within the bound for sums of so many float32 terms.

    With few terms the largest element can be small beside what was transformed.
    """
    assert found.shape == expected.shape
    bound = tolerance(dtypes.float32, gradient=True, length=length)
    assert deviation(found, expected, floor=math.sqrt(length)) < bound


@dataclass(frozen=True)
class TiledConvolution:
    """A convolution whose window moves by one, with random float32 operands.

    Attributes:
        window: Extent of the window in both directions.
        batch: Number of images.
        size: Height and width of the images.
        channels: Channels of the images.
        features: Channels of the result.
        padding: Before and after, in both directions.
        seed: Of the operands.
    """

    window: int
    batch: int
    size: tuple[int, int]
    channels: int
    features: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    seed: int

    @cached_property
    def x(self) -> np.ndarray:
        """Images, NHWC."""
        return self._normal(0, self.batch, *self.size, self.channels)

    @cached_property
    def w(self) -> np.ndarray:
        """Weights, HWIO."""
        return self._normal(1, self.window, self.window, self.channels, self.features)

    @cached_property
    def bias(self) -> np.ndarray:
        """One number per feature."""
        return self._normal(2, self.features)

    @cached_property
    def g(self) -> np.ndarray:
        """Cotangent of the result, NHWC."""
        return self._normal(3, *self.y.shape)

    @cached_property
    def y(self) -> np.ndarray:
        """The direct sum in float64, without the bias."""
        return direct("conv2d", self.x, self.w, **self._geometry)

    @property
    def dx(self) -> np.ndarray:
        """Its gradient by the images."""
        geometry = {**self._geometry, "image_size": self.size}
        return direct("conv2d_input_grad", self.g, self.w, **geometry)

    @property
    def dw(self) -> np.ndarray:
        """Its gradient by the weights."""
        geometry = {**self._geometry, "kernel_size": (self.window, self.window)}
        return direct("conv2d_weight_grad", self.x, self.g, **geometry)

    @property
    def tiling(self) -> dict[str, Any]:
        """How it is cut, as the tiled functions take it."""
        return {"tile": TILES[self.window], "padding": self.padding}

    def check(
        self, y: np.ndarray, dx: np.ndarray, dw: np.ndarray, *, bias: np.ndarray | None = None
    ) -> None:
        """Compare results and gradients with the direct sum's.

        Args:
            y: The result.
            dx: Gradient by the images.
            dw: Gradient by the weights.
            bias: What ``y`` has beside the sum.
        """
        positions = (TILES[self.window] + self.window - 1) ** 2  # all are summed, zeros too
        assert_close(y, self.y if bias is None else self.y + bias, positions * self.channels)
        assert_close(dx, self.dx, positions * self.features)
        assert_close(dw, self.dw, positions * self.y[..., 0].size)

    @property
    def _geometry(self) -> dict[str, Any]:
        return {**CONV, "padding": self.padding}

    def _normal(self, stream: int, *shape: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, stream])
        return random.normal(size=shape).astype(np.float32)


_BORDERS = st.tuples(st.integers(0, 2), st.integers(0, 2))
CONVOLUTIONS = st.builds(
    TiledConvolution,
    window=st.sampled_from(sorted(TILES)),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(5, 14), st.integers(5, 14)),
    channels=st.integers(1, 9),
    features=st.integers(1, 9),
    padding=st.tuples(_BORDERS, _BORDERS),
    seed=st.integers(0, 2**32 - 1),
)
