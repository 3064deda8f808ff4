"""Every primitive on torch against the NumPy backend, in every dtype."""

from __future__ import annotations

import numpy as np
import pytest
from accelkit_numpy import NumpyBackend
from accelkit_torch import TorchBackend
from backends.comparison import assert_close, run
from backends.primitive_cases import INTEGERS, Case, floating_cases, integer_cases, logical_cases

from accelkit import dtypes
from accelkit.primitives import PRIMITIVES

TORCH, NUMPY = TorchBackend(), NumpyBackend()
HALVES = (dtypes.float16.numpy, dtypes.bfloat16.numpy)


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


def test_cases_cover_the_table() -> None:
    cases = [*floating_cases(np.float32), *integer_cases(np.int32), *logical_cases()]
    covered = {case.primitive for case in cases}
    assert set(TORCH.table) | set(type(NUMPY).table) <= covered
    assert {n for n in PRIMITIVES if not n.startswith(("doc_", "test_"))} - covered <= {
        "cond",
        "scan",
    }
