"""Layers with weights, and the shape-changing ones between them. Images are NHWC."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from accelkit import ops
from accelkit.arguments import require_bool, require_callable, require_fraction, require_integer
from accelkit.errors import OptionError, ShapeError
from accelkit.nn.initializers import Initializer, Normal, lecun_normal, zeros
from accelkit.nn.module import Module
from accelkit.nn.scope import Scope
from accelkit.ops.neural import as_padding, as_pair
from accelkit.primitives.random import dropout
from accelkit.tensor import Tensor

__all__ = ["Conv2d", "Dropout", "Embedding", "Flatten", "Linear"]


_UNIT_NORMAL = Normal(1.0)


def _require_initializer(name: str, value: Any) -> None:
    hint = "It takes a key and a shape; accelkit.nn.he_normal is one."
    require_callable(name, value, hint)


@dataclass(frozen=True)
class Linear(Module):
    """x @ weight + bias on the last axis: (..., in) to (..., features).

    Attributes:
        features: Size of the result's last axis.
        bias: Whether to add one.
        weight_init: Draws ``weight`` (in, features).
        bias_init: Draws ``bias`` (features,).
    """

    features: int
    _: KW_ONLY  # or Linear(10, 20), inputs and outputs elsewhere, would be a layer of 10
    bias: bool = True
    weight_init: Initializer = lecun_normal
    bias_init: Initializer = zeros

    def __post_init__(self) -> None:
        require_integer("features", self.features)
        require_bool("bias", self.bias)
        _require_initializer("weight_init", self.weight_init)
        _require_initializer("bias_init", self.bias_init)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(..., in) to (..., features)."""
        if x.ndim < 1:
            raise ShapeError("Linear needs at least one axis.")
        weight = scope.parameter("weight", (x.shape[-1], self.features), self.weight_init)
        y = ops.matmul(x, weight)
        if self.bias:
            y = y + scope.parameter("bias", (self.features,), self.bias_init)
        return y


@dataclass(frozen=True)
class Conv2d(Module):
    """Convolution of images (N, H, W, C) to (N, OH, OW, features).

    Attributes:
        features: Output channels.
        kernel_size: Height and width of the window, or one number for both.
        strides: Step of the window.
        padding: Zeros around the image: a number, or ((top, bottom), (left, right)).
        dilation: Distance of neighbouring weights in the image.
        groups: Output group k sees input group k only; as many as channels is depthwise.
        bias: Whether to add one per channel.
        weight_init: Draws ``weight`` (kh, kw, C / groups, features).
        bias_init: Draws ``bias`` (features,).
    """

    features: int
    kernel_size: int | tuple[int, int]
    _: KW_ONLY  # or Conv2d(3, 64, 3), channels first elsewhere, would be windows of 64 pixels
    strides: int | tuple[int, int] = 1
    padding: Any = 0
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    bias: bool = True
    weight_init: Initializer = lecun_normal
    bias_init: Initializer = zeros

    def __post_init__(self) -> None:
        require_integer("features", self.features)
        require_integer("groups", self.groups)
        if self.features % self.groups:
            raise OptionError(
                f"`features` (={self.features}) must be divisible by `groups` (={self.groups})."
            )
        as_pair(self.kernel_size, "kernel_size")
        as_pair(self.strides, "strides")
        as_pair(self.dilation, "dilation")
        as_padding(self.padding)
        require_bool("bias", self.bias)
        _require_initializer("weight_init", self.weight_init)
        _require_initializer("bias_init", self.bias_init)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, OH, OW, features)."""
        if x.ndim != 4:
            raise ShapeError(f"Conv2d needs images (N, H, W, C), got shape {x.shape}.")
        channels = x.shape[3]
        if channels % self.groups:
            raise ShapeError(
                f"The input's channels (={channels}) must be divisible by `groups` "
                f"(={self.groups})."
            )
        window = as_pair(self.kernel_size, "kernel_size")
        shape = (*window, channels // self.groups, self.features)
        weight = scope.parameter("weight", shape, self.weight_init)
        geometry: dict[str, Any] = {
            "strides": self.strides,
            "padding": self.padding,
            "dilation": self.dilation,
        }
        if self.groups == channels and channels > 1:
            multiplier = self.features // channels
            filters = ops.reshape(weight, (*window, channels, multiplier))
            y = ops.depthwise_conv2d(x, filters, **geometry)
        else:
            y = ops.conv2d(x, weight, groups=self.groups, **geometry)
        if self.bias:
            y = y + scope.parameter("bias", (self.features,), self.bias_init)
        return y


@dataclass(frozen=True)
class Embedding(Module):
    """Rows of a table: integers (...) in [0, count) to (..., features).

    Attributes:
        count: Number of rows.
        features: Length of a row.
        weight_init: Draws ``weight`` (count, features).
    """

    count: int
    features: int
    weight_init: Initializer = _UNIT_NORMAL

    def __post_init__(self) -> None:
        require_integer("count", self.count)
        require_integer("features", self.features)
        _require_initializer("weight_init", self.weight_init)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(...) integers to (..., features)."""
        weight = scope.parameter("weight", (self.count, self.features), self.weight_init)
        return ops.take(weight, x, axis=0)


@dataclass(frozen=True)
class Dropout(Module):
    """In training, zeros each element with probability ``rate`` and scales the rest by 1/(1-rate).

    Srivastava et al. (2014), inverted form. The mask is the same on every device, and depends on
    the seed, the step and this layer's path only.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        require_fraction("rate", self.rate)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(N, ...) to the same shape."""
        if not scope.training or self.rate == 0.0:
            return x
        offset = scope.first_sample * math.prod(x.shape[1:])
        result: Tensor = dropout(x, scope.key(), rate=float(self.rate), offset=offset)
        return result


@dataclass(frozen=True)
class Flatten(Module):
    """All axes but the first joined: (N, ...) to (N, features)."""

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(N, ...) to (N, features)."""
        return ops.reshape(x, (x.shape[0], math.prod(x.shape[1:])))
