"""Which torch dtype stands for which of accelkit's, and how narrow floats are computed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from accelkit import dtypes
from accelkit.dtypes import DType

TO_TORCH: Final[dict[DType, torch.dtype]] = {
    dtypes.bool_: torch.bool,
    dtypes.int8: torch.int8,
    dtypes.int16: torch.int16,
    dtypes.int32: torch.int32,
    dtypes.int64: torch.int64,
    dtypes.uint8: torch.uint8,
    dtypes.uint16: torch.uint16,
    dtypes.uint32: torch.uint32,
    dtypes.uint64: torch.uint64,
    dtypes.float16: torch.float16,
    dtypes.bfloat16: torch.bfloat16,
    dtypes.float32: torch.float32,
    dtypes.float64: torch.float64,
}
FROM_TORCH: Final[dict[torch.dtype, DType]] = {native: own for own, native in TO_TORCH.items()}
FROM_NUMPY: Final[dict[np.dtype, torch.dtype]] = {
    own.numpy: native for own, native in TO_TORCH.items()
}
HALF: Final = frozenset({torch.float16, torch.bfloat16})  # sums of these are taken in float32


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Sixteen-bit floats are computed in float32 and rounded once."""

    @functools.wraps(function)
    def run(*arrays: Tensor, **parameters: Any) -> Any:
        dtype = arrays[0].dtype
        if dtype not in HALF:
            return function(*arrays, **parameters)
        results = function(*(a.to(torch.float32) for a in arrays), **parameters)
        if isinstance(results, Tensor):
            return results.to(dtype)
        return tuple(result.to(dtype) for result in results)

    return run
