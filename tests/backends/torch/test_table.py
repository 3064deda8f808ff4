"""Every primitive on torch against the NumPy backend, in every dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from accelkit_numpy import NumpyBackend
from accelkit_torch import TorchBackend
from accelkit_torch.convolution import conv2d_backward
from backends.comparison import assert_close, run
from backends.primitive_cases import INTEGERS, Case, floating_cases, integer_cases, logical_cases
from torch.utils._python_dispatch import TorchDispatchMode

from accelkit import dtypes
from accelkit.parity.tolerances import deviation, tolerance
from accelkit.primitives import PRIMITIVES

TORCH, NUMPY = TorchBackend(), NumpyBackend()
HALVES = (dtypes.float16.numpy, dtypes.bfloat16.numpy)


class LeftOperands(TorchDispatchMode):
    """Records the shapes of the left operands of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mm.default:
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def compare(case: Case, *, exact: bool | None = None) -> None:
    for found, expected in zip(run(TORCH, case), run(NUMPY, case), strict=True):
        assert_close(found, expected, exact=case.exact if exact is None else exact)


@pytest.mark.parametrize("case", list(floating_cases(np.float64)), ids=str)
def test_float64(case: Case) -> None:
    compare(case)


@pytest.mark.parametrize("case", list(floating_cases(np.float32)), ids=str)
def test_float32(case: Case) -> None:
    compare(case)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_sixteen_bit_floats(dtype: np.dtype) -> None:
    for case in floating_cases(dtype):
        compare(case, exact=False)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.__name__)
def test_integers(dtype: type) -> None:
    for case in integer_cases(dtype):
        compare(case)


def test_truth_values() -> None:
    for case in logical_cases():
        compare(case)


@pytest.mark.parametrize("rows", [8, 9, 32, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_few_rows_by_a_large_transposed_matrix(rows: int, dtype: torch.dtype) -> None:
    """The large matrix is the left operand, unless the rows are many; the result is the same."""
    generator = torch.Generator().manual_seed(rows)
    a = torch.randn(rows, 512, dtype=dtype, generator=generator)
    b = torch.randn(520, 512, dtype=dtype, generator=generator)
    with LeftOperands() as products:
        found = TORCH.table["matmul"](a, b, transpose_a=False, transpose_b=True)
    assert products.shapes == [(520, 512) if rows in (9, 32) else (rows, 512)]
    assert found.is_contiguous()
    expected = (a.double() @ b.double().T).numpy()
    bound = tolerance(dtypes.dtype(found.numpy().dtype), gradient=False, length=512)
    assert deviation(found.numpy(), expected) <= bound


def test_cases_cover_the_table() -> None:
    cases = [*floating_cases(np.float32), *integer_cases(np.int32), *logical_cases()]
    covered = {case.primitive for case in cases}
    assert set(TORCH.table) | set(type(NUMPY).table) <= covered
    assert {n for n in PRIMITIVES if not n.startswith(("doc_", "test_"))} - covered <= {
        "cond",
        "scan",
    }


def test_gradient_of_a_single_small_image_by_its_weights() -> None:
    x, w, g = torch.ones(1, 7, 6, 3), torch.ones(3, 3, 3, 1), torch.ones(1, 5, 4, 1)
    geometry = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    _, dw, _ = conv2d_backward(x, w, g, wanted=(False, True, False), **geometry)
    assert dw is not None
    assert torch.equal(dw, torch.full((3, 3, 3, 1), 20.0))
