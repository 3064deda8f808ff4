"""uint16, uint32 and uint64, for which torch has storage but hardly any arithmetic.

The two smaller ones are computed in int64 and cut down again. A uint64 is seen as the int64 of
the same bits: sums and products are the same, and with the highest bit flipped so is the order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

WIDE: Final = frozenset({torch.uint16, torch.uint32, torch.uint64})
_HIGHEST_BIT: Final = -(1 << 63)


def _signed(x: Any, *, ordered: bool) -> Any:
    if not isinstance(x, torch.Tensor) or x.dtype not in WIDE:
        return x
    if x.dtype != torch.uint64:
        return x.to(torch.int64)
    return x.view(torch.int64) ^ _HIGHEST_BIT if ordered else x.view(torch.int64)


def _unsigned(y: Tensor, dtype: torch.dtype, *, ordered: bool) -> Tensor:
    if dtype != torch.uint64:
        return y.to(dtype)
    return (y ^ _HIGHEST_BIT if ordered else y).view(torch.uint64)


def widened(
    function: Callable[..., Any], *, ordered: bool = False, restore: bool = True
) -> Callable[..., Any]:
    """``function``, made to work for the wide unsigned types too.

    Args:
        function: A table entry; its first operand decides the dtype.
        ordered: Whether it depends on which of two numbers is larger.
        restore: Whether its result has the dtype of its operands.

    Returns:
        The new function, with the given one as its attribute ``narrow``, for a caller that knows
        the operands to have other dtypes.
    """

    @functools.wraps(function)
    def run(*arrays: Any, **parameters: Any) -> Any:
        dtype = arrays[0].dtype
        if dtype not in WIDE:
            return function(*arrays, **parameters)
        result = function(*(_signed(x, ordered=ordered) for x in arrays), **parameters)
        return _unsigned(result, dtype, ordered=ordered) if restore else result

    run.narrow = function  # type: ignore[attr-defined]
    return run


def _divide_uint64(a: Tensor, b: Tensor) -> Tensor:
    """Unsigned quotient of int64 bit patterns (Warren, Hacker's Delight, section 9-3).

    A divisor with the highest bit set fits at most once. Otherwise half of ``a`` is divided,
    and the doubled quotient is at most one too small.
    """
    half = ((a >> 1) & ~_HIGHEST_BIT).div(torch.where(b == 0, 1, b), rounding_mode="trunc") << 1
    remainder = a - half * b
    fits_again = (remainder ^ _HIGHEST_BIT) >= (b ^ _HIGHEST_BIT)
    fits = (a ^ _HIGHEST_BIT) >= (b ^ _HIGHEST_BIT)
    return torch.where(b < 0, fits, half + fits_again)


def floor_divide(a: Tensor, b: Tensor) -> Tensor:
    """Quotient of wide unsigned integers, rounded down."""
    if a.dtype != torch.uint64:
        return torch.floor_divide(a.to(torch.int64), b.to(torch.int64)).to(a.dtype)
    quotient = _divide_uint64(a.view(torch.int64), b.view(torch.int64))
    return quotient.view(torch.uint64)


def remainder(a: Tensor, b: Tensor) -> Tensor:
    """Remainder of wide unsigned integers."""
    if a.dtype != torch.uint64:
        return torch.remainder(a.to(torch.int64), b.to(torch.int64)).to(a.dtype)
    x, y = a.view(torch.int64), b.view(torch.int64)
    return (x - _divide_uint64(x, y) * y).view(torch.uint64)


def shift_right(a: Tensor, b: Tensor) -> Tensor:
    """Logical shift of wide unsigned integers."""
    if a.dtype != torch.uint64:
        return (a.to(torch.int64) >> b.to(torch.int64)).to(a.dtype)
    x, count = a.view(torch.int64), b.view(torch.int64)
    cleared = (x >> 1) & ~_HIGHEST_BIT  # no copies of the highest bit come in
    return torch.where(count == 0, x, cleared >> (count - 1).clamp(min=0)).view(torch.uint64)
