"""Normalisation layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from accelkit import ops
from accelkit.arguments import require_fraction, require_integer, require_number
from accelkit.errors import ShapeError
from accelkit.nn.initializers import ones, zeros
from accelkit.nn.module import Module
from accelkit.nn.scope import Scope
from accelkit.primitives.batch_normalization import batch_norm
from accelkit.primitives.layer_normalization import layer_norm
from accelkit.tensor import Tensor

__all__ = ["BatchNorm", "GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]


@dataclass(frozen=True)
class LocalResponseNorm(Module):
    """x_i / (k + alpha * sum of x_j^2 over size neighbouring channels)^beta.

    Krizhevsky et al. (2012), section 3.3, with their constants. torch divides alpha by size.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0

    def __post_init__(self) -> None:
        require_integer("size", self.size)
        for name in ("alpha", "beta", "k"):
            require_number(name, getattr(self, name))

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(..., C) to the same shape."""
        return ops.local_response_norm(
            x, size=self.size, alpha=self.alpha, beta=self.beta, k=self.k
        )


@dataclass(frozen=True)
class BatchNorm(Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias per channel (Ioffe and Szegedy, 2015).

    In training, mean and variance are those of the batch (over all axes but the last), and the
    state ``mean`` and ``var`` moves towards them by ``1 - momentum``, the variance with Bessel's
    correction as in torch. In inference the state is used.

    Attributes:
        momentum: Share of the old statistics that is kept in each step.
        epsilon: Added to the variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require_fraction("momentum", self.momentum)
        require_number("epsilon", self.epsilon)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(..., C) to the same shape."""
        channels = x.shape[-1:]
        scale = scope.parameter("scale", channels, ones)
        bias = scope.parameter("bias", channels, zeros)
        running_mean = scope.state("mean", channels, zeros)
        running_var = scope.state("var", channels, ones)
        if not scope.training:
            factor = scale * ops.rsqrt(running_var + self.epsilon)
            return x * factor + (bias - running_mean * factor)
        scope.mark_batch_statistics()
        y, mean, var = batch_norm(x, scale, bias, epsilon=self.epsilon)
        count = x.size // max(channels[0], 1)
        keep = self.momentum
        unbiased = var * (count / max(count - 1, 1))
        scope.set_state("mean", running_mean * keep + _constant(mean) * (1.0 - keep))
        scope.set_state("var", running_var * keep + _constant(unbiased) * (1.0 - keep))
        return y


def _constant(x: Tensor) -> Tensor:
    """The running statistics are no path for gradients."""
    from accelkit.autodiff import stop_gradient

    result: Tensor = stop_gradient(x)
    return result


@dataclass(frozen=True)
class LayerNorm(Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the last axis (Ba et al., 2016)."""

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require_number("epsilon", self.epsilon)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(..., features) to the same shape."""
        features = x.shape[-1:]
        scale = scope.parameter("scale", features, ones)
        bias = scope.parameter("bias", features, zeros)
        return layer_norm(x, scale, bias, epsilon=self.epsilon)[0]


@dataclass(frozen=True)
class RMSNorm(Module):
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis (Zhang and Sennrich, 2019)."""

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        require_number("epsilon", self.epsilon)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(..., features) to the same shape."""
        scale = scope.parameter("scale", x.shape[-1:], ones)
        return x * ops.rsqrt(ops.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * scale


@dataclass(frozen=True)
class GroupNorm(Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias per sample and group of channels.

    Mean and variance are over a group's neighbouring channels and all axes between the first and
    the last (Wu and He, 2018); one group is layer, as many as channels instance normalisation.
    Samples do not depend on each other.

    Attributes:
        groups: Number of groups; the input's channels must be divisible by it.
        epsilon: Added to the variance.
    """

    groups: int
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        require_integer("groups", self.groups)
        require_number("epsilon", self.epsilon)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(N, ..., C) to the same shape."""
        if x.ndim < 2:
            raise ShapeError(f"GroupNorm needs (N, ..., C), got shape {x.shape}.")
        channels = x.shape[-1]
        if channels % self.groups:
            raise ShapeError(
                f"The input's channels (={channels}) must be divisible by `groups` "
                f"(={self.groups})."
            )
        scale = scope.parameter("scale", (channels,), ones)
        bias = scope.parameter("bias", (channels,), zeros)
        inner = math.prod(x.shape[1:-1])
        grouped = ops.reshape(x, (x.shape[0], inner, self.groups, channels // self.groups))
        centred = grouped - ops.mean(grouped, axis=(1, 3), keepdims=True)
        var = ops.mean(centred * centred, axis=(1, 3), keepdims=True)
        return ops.reshape(centred * ops.rsqrt(var + self.epsilon), x.shape) * scale + bias
