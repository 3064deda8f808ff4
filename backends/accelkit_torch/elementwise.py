"""Elementwise primitives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from accelkit.dtypes import DType
from accelkit_torch import unsigned
from accelkit_torch.dtypes import TO_TORCH
from accelkit_torch.unsigned import WIDE, widened


def _sign(x: Tensor) -> Tensor:
    y = torch.sign(x)
    return torch.where(torch.isnan(x), x, y) if x.is_floating_point() else y


def _is_finite(x: Tensor) -> Tensor:
    return (x - x) == 0  # half the kernels of torch.isfinite


def _split_unsigned(
    function: Callable[[Tensor, Tensor], Tensor], wide: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    def run(a: Tensor, b: Tensor) -> Tensor:
        return wide(a, b) if a.dtype in WIDE else function(a, b)

    return run


def _cast(x: Tensor, *, dtype: DType) -> Tensor:
    target = TO_TORCH[dtype]
    if x.dtype is target:
        return x.detach()
    if target in WIDE and x.is_floating_point() and target is not torch.uint64:
        return x.to(torch.int64).to(target)  # the direct conversion saturates on some devices
    return x.to(target)


def _relu_grad(y: Tensor, g: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(g, y, 0)


_FORMS: Final = {False: "none", True: "tanh"}


def gelu(x: Tensor, *, approximate: bool, out: Tensor | None = None) -> Tensor:
    """torch's own kernel; ``out`` may be ``x``. At infinity oneDNN's, on CPUs, gives NaN."""
    return torch._C._nn.gelu(x, approximate=_FORMS[approximate], out=out)


def gelu_grad(x: Tensor, g: Tensor, *, approximate: bool, out: Tensor | None = None) -> Tensor:
    """torch's own kernel; ``out`` may be an operand."""
    form = _FORMS[approximate]
    if out is None:
        return torch.ops.aten.gelu_backward(g, x, approximate=form)
    return torch.ops.aten.gelu_backward.grad_input(g, x, approximate=form, grad_input=out)


def _identity(x: Tensor) -> Tensor:
    # A tensor of its own on the same memory: donation can tell that the memory is shared.
    return x.detach()


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": widened(torch.add),
    "subtract": widened(torch.subtract),
    "multiply": widened(torch.multiply),
    "divide": torch.divide,
    "negative": torch.negative,
    "absolute": torch.absolute,
    "sign": _sign,
    "floor_divide": _split_unsigned(torch.floor_divide, unsigned.floor_divide),
    "remainder": _split_unsigned(torch.remainder, unsigned.remainder),
    "power": torch.pow,
    "maximum": widened(torch.maximum, ordered=True),
    "minimum": widened(torch.minimum, ordered=True),
    "arctan2": torch.arctan2,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "arcsin": torch.arcsin,
    "arccos": torch.arccos,
    "arctan": torch.arctan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "arcsinh": torch.arcsinh,
    "arccosh": torch.arccosh,
    "arctanh": torch.arctanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "equal": widened(torch.eq, restore=False),
    "not_equal": widened(torch.ne, restore=False),
    "less": widened(torch.lt, ordered=True, restore=False),
    "less_equal": widened(torch.le, ordered=True, restore=False),
    "greater": widened(torch.gt, ordered=True, restore=False),
    "greater_equal": widened(torch.ge, ordered=True, restore=False),
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "logical_not": torch.logical_not,
    "bitwise_and": widened(torch.bitwise_and),
    "bitwise_or": widened(torch.bitwise_or),
    "bitwise_xor": widened(torch.bitwise_xor),
    "bitwise_not": widened(torch.bitwise_not),
    "shift_left": widened(torch.bitwise_left_shift),
    "shift_right": _split_unsigned(torch.bitwise_right_shift, unsigned.shift_right),
    "is_nan": torch.isnan,
    "is_finite": _is_finite,
    "select": torch.where,
    "cast": _cast,
    "relu": torch.relu,
    "relu_grad": _relu_grad,
    "gelu": gelu,
    "gelu_grad": gelu_grad,
    "alias": _identity,
    "stop_gradient": _identity,
}
