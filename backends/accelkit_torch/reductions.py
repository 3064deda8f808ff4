"""Reductions, scans, sorting, and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from accelkit_torch.unsigned import widened

Axes = tuple[int, ...]


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch takes an empty tuple of axes for all of them, accelkit for none."""

    def run(x: Tensor, *, axes: Axes) -> Tensor:
        return function(x, axes) if axes else x.detach()

    return run


def _sum(x: Tensor, axes: Axes) -> Tensor:
    return torch.sum(x, axes, dtype=x.dtype)


def _product(x: Tensor, axes: Axes) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, dtype=x.dtype)
    return x


def _any(x: Tensor, axes: Axes) -> Tensor:
    return torch.any(x, axes)


def _all(x: Tensor, axes: Axes) -> Tensor:
    return torch.all(x, axes)


def _argmax(x: Tensor, *, axis: int) -> Tensor:
    return torch.argmax(x, axis)


def _argmin(x: Tensor, *, axis: int) -> Tensor:
    return torch.argmin(x, axis)


def _cumulative_sum(x: Tensor, *, axis: int) -> Tensor:
    return torch.cumsum(x, axis, dtype=x.dtype)


def _argsort(x: Tensor, *, axis: int, descending: bool) -> Tensor:
    return torch.argsort(x, dim=axis, descending=descending, stable=True)


def _sort(x: Tensor, *, axis: int, descending: bool) -> Tensor:
    return torch.sort(x, dim=axis, descending=descending, stable=True)[0]


# Few rows times a transposed matrix too large for a core's cache; measured with AVX-512.
_FEW_ROWS: Final = range(9, 33)
_LARGE_MATRIX_ELEMENTS: Final = 1 << 18


def is_few_rows_by_large_matrix(a: Tensor, b: Tensor) -> bool:
    """Whether ``a @ b.T`` is faster as the transpose of ``b @ a.T``.

    A product reorders its right operand, an expense that many rows share. As the left one, the
    large matrix is read in the order in which it lies.
    """
    return (
        a.ndim == 2
        and b.ndim == 2
        and a.shape[0] in _FEW_ROWS
        and b.numel() >= _LARGE_MATRIX_ELEMENTS
        and b.is_floating_point()
        and b.device.type == "cpu"
    )


def _matmul(a: Tensor, b: Tensor, *, transpose_a: bool, transpose_b: bool) -> Tensor:
    if transpose_b and not transpose_a and is_few_rows_by_large_matrix(a, b):
        return torch.mm(b, a.t()).t().contiguous()
    if transpose_a:
        a = a.mT
    if transpose_b:
        b = b.mT
    if a.is_floating_point() or a.device.type == "cpu":
        return torch.matmul(a, b)
    # Accelerators have no integer matrix products.
    products = a.unsqueeze(-1) * b.unsqueeze(-3)
    return torch.sum(products, -2, dtype=a.dtype)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": widened(_reduction(_sum)),
    "reduce_max": widened(_reduction(torch.amax), ordered=True),
    "reduce_min": widened(_reduction(torch.amin), ordered=True),
    "reduce_product": widened(_reduction(_product)),
    "reduce_any": _reduction(_any),
    "reduce_all": _reduction(_all),
    "argmax": widened(_argmax, ordered=True, restore=False),
    "argmin": widened(_argmin, ordered=True, restore=False),
    "cumulative_sum": widened(_cumulative_sum),
    "argsort": widened(_argsort, ordered=True, restore=False),
    "sort": widened(_sort, ordered=True),
    "matmul": widened(_matmul),
}
