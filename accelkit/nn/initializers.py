"""Initialisers: how the first value of a parameter is drawn, on the host, in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from accelkit.arguments import require_finite, require_number
from accelkit.errors import OptionError
from accelkit.random.normals import random_normal
from accelkit.random.philox import random_uniform

__all__ = [
    "Constant",
    "Initializer",
    "Normal",
    "Uniform",
    "VarianceScaling",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "ones",
    "zeros",
]

Key = tuple[int, int]


class Initializer(Protocol):
    """Draws an array of a shape from a key; the same key gives the same bits everywhere."""

    def __call__(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        """The drawn array, float32."""
        ...


@dataclass(frozen=True)
class Constant:
    """One number everywhere."""

    value: float = 0.0

    def __post_init__(self) -> None:
        require_finite("value", self.value)

    def __call__(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        """The filled array."""
        return np.full(shape, self.value, np.float32)


@dataclass(frozen=True)
class Normal:
    """Normal numbers of a standard deviation and mean."""

    std: float = 1.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        require_number("std", self.std)
        require_finite("mean", self.mean)

    def __call__(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        """The drawn array."""
        drawn = random_normal(key, shape, "float32")
        drawn *= np.float32(self.std)
        if self.mean:
            drawn += np.float32(self.mean)
        return drawn


@dataclass(frozen=True)
class Uniform:
    """Uniform numbers in [low, high)."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require_finite("low", self.low)
        require_finite("high", self.high)
        if self.low > self.high:
            raise OptionError(f"`low` (={self.low}) must not be above `high` (={self.high}).")

    def __call__(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        """The drawn array."""
        drawn = random_uniform(key, shape, "float32")
        drawn *= np.float32(self.high - self.low)
        drawn += np.float32(self.low)
        return drawn


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Inputs and outputs that one weight of this shape connects: (in, out) or (kh, kw, in, out)."""
    if len(shape) < 2:
        extent = int(np.prod(shape, dtype=np.int64))
        return extent, extent
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


@dataclass(frozen=True)
class VarianceScaling:
    """Variance ``scale / n``, with n the fan-in, the fan-out or their mean.

    Attributes:
        scale: Numerator of the variance.
        mode: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``.
        distribution: ``"normal"`` or ``"uniform"``.
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "normal"

    def __post_init__(self) -> None:
        require_number("scale", self.scale)
        if self.mode not in ("fan_in", "fan_out", "fan_avg"):
            raise OptionError(f"mode must be fan_in, fan_out or fan_avg, got {self.mode!r}.")
        if self.distribution not in ("normal", "uniform"):
            raise OptionError(f"distribution must be normal or uniform, got {self.distribution!r}.")

    def __call__(self, key: Key, shape: tuple[int, ...]) -> np.ndarray:
        """The drawn array."""
        fan_in, fan_out = fans(shape)
        count = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        std = math.sqrt(self.scale / max(count, 1))
        if self.distribution == "normal":
            return Normal(std)(key, shape)
        return Uniform(-math.sqrt(3.0) * std, math.sqrt(3.0) * std)(key, shape)


zeros = Constant(0.0)
ones = Constant(1.0)
lecun_normal = VarianceScaling(1.0, "fan_in", "normal")
"""LeCun et al. (1998): keeps the variance of linear layers."""
he_normal = VarianceScaling(2.0, "fan_in", "normal")
"""He et al. (2015): keeps the variance through ReLU layers."""
he_uniform = VarianceScaling(2.0, "fan_in", "uniform")
glorot_normal = VarianceScaling(1.0, "fan_avg", "normal")
glorot_uniform = VarianceScaling(1.0, "fan_avg", "uniform")
"""Glorot and Bengio (2010): a compromise between forward and backward variance."""
