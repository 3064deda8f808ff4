"""Creating, rearranging, cutting, joining and indexing arrays.

The creation functions take the torch device as an additional argument ``device``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accelkit.dtypes import DType
from accelkit.primitives.shaping import ConstantArray
from accelkit_torch.dtypes import FROM_NUMPY, FROM_TORCH, HALF, TO_TORCH
from accelkit_torch.unsigned import WIDE, widened

Shape = tuple[int, ...]


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor in host memory of torch's own, with a copy of ``array``."""
    copy = torch.empty(array.shape, dtype=FROM_NUMPY[array.dtype])
    # Not through `copy.numpy()`: torch takes memory that NumPy has seen for shared for good.
    source = np.ascontiguousarray(array)
    ctypes.memmove(copy.data_ptr(), source.ctypes.data, source.nbytes)
    return copy


def to_numpy(x: Tensor) -> np.ndarray:
    """A copy of ``x`` as a NumPy array; waits for the device."""
    own = x.detach() if x.requires_grad else x
    if own.device.type == "cpu":
        host = own.clone(memory_format=torch.contiguous_format)
    else:
        host = own.contiguous().cpu()
    if host.dtype is torch.bfloat16:
        bits: np.ndarray = host.view(torch.int16).numpy()
        return bits.view(FROM_TORCH[host.dtype].numpy)
    result: np.ndarray = host.numpy()
    return result


def _full(*, shape: Shape, value: bool | int | float, dtype: DType, device: torch.device) -> Tensor:
    return torch.full(shape, value, dtype=TO_TORCH[dtype], device=device)


def _iota(*, shape: Shape, axis: int, dtype: DType, device: torch.device) -> Tensor:
    target = TO_TORCH[dtype]
    computed = torch.int64 if target in WIDE else target
    extents = [1] * len(shape)
    extents[axis] = shape[axis]
    index = torch.arange(shape[axis], dtype=computed, device=device).to(target)
    return index.view(extents).expand(shape)


def _constant(*, value: ConstantArray, device: torch.device) -> Tensor:
    return from_numpy(value.array).to(device)


def _reshape(x: Tensor, *, shape: Shape) -> Tensor:
    return x.reshape(shape)


def _transpose(x: Tensor, *, permutation: Shape) -> Tensor:
    return x.permute(permutation)


def _broadcast_to(x: Tensor, *, shape: Shape) -> Tensor:
    return x.expand(shape)


def _reverse(x: Tensor, *, axes: Shape) -> Tensor:
    return torch.flip(x, axes)


def _slice(x: Tensor, *, start: Shape, stop: Shape, step: Shape) -> Tensor:
    part = x
    for axis, (a, b, s) in enumerate(zip(start, stop, step, strict=True)):
        if a or s != 1 or b != x.shape[axis]:
            part = torch.ops.aten.slice(part, axis, a, b, s)
    return part if part is not x else x.detach()


def _pad(x: Tensor, *, low: Shape, high: Shape, interior: Shape, value: int | float) -> Tensor:
    shape, inner = [], []
    for extent, a, b, i in zip(x.shape, low, high, interior, strict=True):
        covered = extent + max(extent - 1, 0) * i
        shape.append(a + covered + b)
        inner.append(slice(a, a + covered, i + 1))
    result = torch.full(shape, value, dtype=x.dtype, device=x.device)
    result[tuple(inner)] = x
    return result


def _concatenate(*arrays: Tensor, axis: int) -> Tensor:
    return torch.cat(arrays, axis)


def _index(indices: Tensor, extent: int) -> Tensor:
    """int64 indices; an accelerator would abort the process for one that is out of range."""
    index = indices.to(torch.int64)
    return index if index.device.type == "cpu" else index.clamp(0, max(extent - 1, 0))


def _take(x: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    index = _index(indices, x.shape[axis])
    if index.ndim == 1:
        return torch.index_select(x, axis, index)
    chosen = torch.index_select(x, axis, index.reshape(-1))
    return chosen.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _accumulated(add: Callable[[Tensor, Tensor], Tensor], shape: Shape, g: Tensor) -> Tensor:
    """Zeros of ``shape`` with ``g`` added by ``add``, sixteen-bit floats in float32."""
    if g.dtype not in HALF:
        return add(torch.zeros(shape, dtype=g.dtype, device=g.device), g)
    wide = torch.zeros(shape, dtype=torch.float32, device=g.device)
    return add(wide, g.to(torch.float32)).to(g.dtype)


def _take_grad(g: Tensor, indices: Tensor, *, axis: int, extent: int) -> Tensor:
    index = _index(indices, extent).reshape(-1)
    after = g.shape[axis + indices.ndim :]
    flat = g.reshape((*g.shape[:axis], index.numel(), *after))
    return _accumulated(
        lambda zeros, part: zeros.index_add_(axis, index, part),
        (*g.shape[:axis], extent, *after),
        flat,
    )


def _take_along_axis(x: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    return torch.gather(x, axis, _index(indices, x.shape[axis]))


def _take_along_axis_grad(g: Tensor, indices: Tensor, *, axis: int, extent: int) -> Tensor:
    index = _index(indices, extent)
    return _accumulated(
        lambda zeros, part: zeros.scatter_add_(axis, index, part),
        (*g.shape[:axis], extent, *g.shape[axis + 1 :]),
        g,
    )


CREATION: dict[str, Callable[..., Any]] = {"full": _full, "iota": _iota, "constant": _constant}
SHAPING: dict[str, Callable[..., Any]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "reverse": widened(_reverse),
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "take": widened(_take),
    "take_grad": widened(_take_grad),
    "take_along_axis": widened(_take_along_axis),
    "take_along_axis_grad": widened(_take_along_axis_grad),
}
