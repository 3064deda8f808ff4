"""Sixteen-bit floats: computed in float32, rounded once at the end of each primitive.

NumPy rounds float16 after every step of a sum or matrix product, and knows bfloat16 only as a
foreign type (of kind "V") that some functions refuse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

_FLOAT16 = np.dtype(np.float16)


def _is_half(x: Any) -> bool:
    return bool(x.dtype.kind == "V" or x.dtype == _FLOAT16)


def _widen(x: Any) -> Any:
    return x.astype(np.float32) if _is_half(x) else x


def _narrow(result: Any, dtype: np.dtype) -> Any:
    if isinstance(result, tuple):
        return tuple(_narrow(part, dtype) for part in result)
    return result.astype(dtype) if result.dtype == np.float32 else result


def widen_half(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run ``function`` in float32 when its operands are float16 or bfloat16."""

    @functools.wraps(function)
    def run(*arrays: Any, **parameters: Any) -> Any:
        for array in arrays:
            if _is_half(array):
                wide = function(*map(_widen, arrays), **parameters)
                return _narrow(wide, array.dtype)
        return function(*arrays, **parameters)

    return run


def widen_bfloat16_1(function: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`widen_half`, for functions of one array that NumPy itself does for float16."""

    def run(x: Any) -> Any:
        if x.dtype.kind != "V":
            return function(x)
        return _narrow(function(x.astype(np.float32)), x.dtype)

    return run


def widen_bfloat16_2(function: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`widen_half`, for functions of two arrays that NumPy itself does for float16."""

    def run(a: Any, b: Any) -> Any:
        if a.dtype.kind != "V":
            return function(a, b)
        return _narrow(function(a.astype(np.float32), b.astype(np.float32)), a.dtype)

    return run
