"""Activation functions as layers."""

from __future__ import annotations

from dataclasses import dataclass

from accelkit import ops
from accelkit.arguments import require_number
from accelkit.nn.module import Module
from accelkit.nn.scope import Scope
from accelkit.tensor import Tensor

__all__ = ["ELU", "GELU", "LeakyReLU", "ReLU", "SiLU", "Sigmoid", "Softmax", "Tanh"]


@dataclass(frozen=True)
class ReLU(Module):
    """max(x, 0); derivative 0 at 0."""

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return ops.relu(x)


@dataclass(frozen=True)
class LeakyReLU(Module):
    """x where x > 0, else slope * x."""

    slope: float = 0.01

    def __post_init__(self) -> None:
        require_number("slope", self.slope)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return ops.leaky_relu(x, slope=self.slope)


@dataclass(frozen=True)
class ELU(Module):
    """x where x > 0, else alpha * (exp(x) - 1)."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        require_number("alpha", self.alpha)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return ops.elu(x, alpha=self.alpha)


@dataclass(frozen=True)
class GELU(Module):
    """x times the normal distribution function; ``approximate`` uses tanh."""

    approximate: bool = False

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return ops.gelu(x, approximate=self.approximate)


@dataclass(frozen=True)
class SiLU(Module):
    """x * sigmoid(x)."""

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return ops.silu(x)


@dataclass(frozen=True)
class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return ops.tanh(x)


@dataclass(frozen=True)
class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return ops.sigmoid(x)


@dataclass(frozen=True)
class Softmax(Module):
    """exp(x) / sum(exp(x)) along ``axis``."""

    axis: int = -1

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return ops.softmax(x, axis=self.axis)
