"""The table: what this backend runs for each primitive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from accelkit_numpy import convolution, pooling
from accelkit_numpy.composites import COMPOSITES
from accelkit_numpy.elementwise import ELEMENTWISE
from accelkit_numpy.precision import widen_half
from accelkit_numpy.reductions import REDUCTIONS
from accelkit_numpy.shaping import SHAPING

TABLE: Final[dict[str, Callable[..., Any]]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **SHAPING,
    **COMPOSITES,
    "conv2d": widen_half(convolution.conv2d),
    "conv2d_input_grad": widen_half(convolution.conv2d_input_grad),
    "conv2d_weight_grad": widen_half(convolution.conv2d_weight_grad),
    "depthwise_conv2d": widen_half(convolution.depthwise_conv2d),
    "max_pool2d": widen_half(pooling.max_pool2d),
    "max_pool2d_winners": widen_half(pooling.max_pool2d_winners),
    "max_pool2d_gather": widen_half(pooling.max_pool2d_gather),
    "max_pool2d_scatter": widen_half(pooling.max_pool2d_scatter),
    "max_pool2d_grad": widen_half(pooling.max_pool2d_grad),
    "avg_pool2d": widen_half(pooling.avg_pool2d),
    "avg_pool2d_grad": widen_half(pooling.avg_pool2d_grad),
}
