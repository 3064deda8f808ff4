"""Activation functions of several operations, and their gradients.

Composites, so that a backend whose operations each pass over memory can take one pass instead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from accelkit.errors import DTypeError
from accelkit.graph import TensorSpec
from accelkit.primitives.elementwise import erf, exp, greater, less, select, tanh
from accelkit.primitives.primitive import Primitive, primitive, require_floating
from accelkit.primitives.shaping import full

if TYPE_CHECKING:
    from accelkit.tensor import Tensor

__all__ = ["gelu", "gelu_grad"]

# The approximation of Hendrycks and Gimpel (2016): tanh(sqrt(2 / pi) (x + 0.044715 x^3)).
_SLOPE: Final = math.sqrt(2.0 / math.pi)
_CUBIC: Final = 0.044715
# From here on both forms are 0 or x in every dtype, and their slopes 0 or 1. What is further out
# would multiply the rounding of erf or tanh, or, infinite, meet a zero.
_FAR: Final = 40.0


def _infer(x: TensorSpec, *, approximate: bool) -> TensorSpec:
    return require_floating("gelu", x)


def _grad_infer(x: TensorSpec, g: TensorSpec, *, approximate: bool) -> TensorSpec:
    if not x.dtype.is_floating or g != x:
        raise DTypeError(f"gelu_grad needs a floating x and a cotangent like it, got {x} and {g}.")
    return x


def _far(x: Any, sign: float) -> Any:
    return full(shape=(), value=sign * _FAR, dtype=x.dtype)


def _definition(x: Any, *, approximate: bool) -> Any:
    x = select(less(x, _far(x, -1.0)), _far(x, -1.0), x)
    if approximate:
        return x * 0.5 * (tanh((x + x * x * x * _CUBIC) * _SLOPE) + 1.0)
    return x * 0.5 * (erf(x * math.sqrt(0.5)) + 1.0)


def _grad_definition(x: Any, g: Any, *, approximate: bool) -> Any:
    x = select(less(x, _far(x, -1.0)), _far(x, -1.0), x)
    x = select(greater(x, _far(x, 1.0)), _far(x, 1.0), x)
    if approximate:
        t = tanh((x + x * x * x * _CUBIC) * _SLOPE)
        slope = (x * x * (3.0 * _CUBIC) + 1.0) * _SLOPE
        return g * ((t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * slope)
    share = (erf(x * math.sqrt(0.5)) + 1.0) * 0.5
    return g * (share + x * (exp(x * x * -0.5) * math.sqrt(0.5 / math.pi)))


gelu = primitive(
    "gelu",
    _infer,
    vjp=lambda g, y, x, *, approximate: (gelu_grad(x, g, approximate=approximate),),
    definition=_definition,
    flops=lambda inputs, outputs, parameters: 5 * inputs[0].size,
    elementwise=True,
    doc="""x times the standard normal distribution function: x / 2 * (1 + erf(x / sqrt(2))).

    ``approximate``: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) (Hendrycks and Gimpel,
    2016).""",
)
gelu_grad: Primitive[Tensor] = primitive(
    "gelu_grad",
    _grad_infer,
    definition=_grad_definition,
    flops=lambda inputs, outputs, parameters: 9 * inputs[0].size,
    elementwise=True,
    doc="""(x, g) to g times the derivative of gelu at x.

    That is the distribution function plus x times its density, exp(-x^2 / 2) / sqrt(2 pi).""",
)
