"""Pooling layers on images (N, H, W, C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelkit import ops
from accelkit.arguments import require_bool
from accelkit.nn.module import Module
from accelkit.nn.scope import Scope
from accelkit.ops.neural import as_padding, as_pair
from accelkit.tensor import Tensor

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "GlobalAvgPool2d", "GlobalMaxPool2d", "MaxPool2d"]


def _check_windows(window: Any, strides: Any, padding: Any) -> None:
    as_pair(window, "window")
    if strides is not None:
        as_pair(strides, "strides")
    as_padding(padding)


@dataclass(frozen=True)
class MaxPool2d(Module):
    """Maximum over windows; strides are the window's size by default."""

    window: int | tuple[int, int]
    strides: int | tuple[int, int] | None = None
    padding: Any = 0

    def __post_init__(self) -> None:
        _check_windows(self.window, self.strides, self.padding)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, OH, OW, C)."""
        return ops.max_pool2d(x, self.window, strides=self.strides, padding=self.padding)


@dataclass(frozen=True)
class AvgPool2d(Module):
    """Mean over windows; padding counts as zeros unless ``count_include_pad`` is False."""

    window: int | tuple[int, int]
    strides: int | tuple[int, int] | None = None
    padding: Any = 0
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        _check_windows(self.window, self.strides, self.padding)
        require_bool("count_include_pad", self.count_include_pad)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, OH, OW, C)."""
        return ops.avg_pool2d(
            x,
            self.window,
            strides=self.strides,
            padding=self.padding,
            count_include_pad=self.count_include_pad,
        )


@dataclass(frozen=True)
class AdaptiveAvgPool2d(Module):
    """Mean over as many windows as the result has positions, whatever the image size."""

    output_size: int | tuple[int, int]

    def __post_init__(self) -> None:
        as_pair(self.output_size, "output_size")

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, *output_size, C)."""
        return ops.adaptive_avg_pool2d(x, self.output_size)


@dataclass(frozen=True)
class GlobalAvgPool2d(Module):
    """Mean over the whole image."""

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, C)."""
        return ops.mean(x, axis=(1, 2))


@dataclass(frozen=True)
class GlobalMaxPool2d(Module):
    """Maximum over the whole image."""

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, C)."""
        return ops.max(x, axis=(1, 2))
