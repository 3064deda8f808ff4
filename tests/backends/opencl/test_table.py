"""Every primitive on OpenCL against the NumPy backend, compiled as one program and eagerly."""

from __future__ import annotations

import numpy as np
import pytest
from accelkit_numpy import NumpyBackend
from accelkit_opencl import OpenclBackend
from backends.comparison import assert_close, run
from backends.compiled import run_compiled
from backends.primitive_cases import (
    INTEGERS,
    Case,
    floating_cases,
    integer_cases,
    logical_cases,
)

from accelkit.primitives import PRIMITIVES

OPENCL, NUMPY = OpenclBackend(), NumpyBackend()


def compare(cases: list[Case]) -> None:
    for case, found in zip(cases, run_compiled(OPENCL, cases), strict=True):
        for ours, expected in zip(found, run(NUMPY, case), strict=True):
            try:
                assert_close(ours, expected, exact=case.exact)
            except AssertionError as error:
                raise AssertionError(f"{case} {case.parameters}: {error}") from error


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
def test_floats(dtype: type) -> None:
    compare(list(floating_cases(dtype)))


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.__name__)
def test_integers(dtype: type) -> None:
    compare(list(integer_cases(dtype)))


def test_truth_values() -> None:
    compare(list(logical_cases()))


def test_one_case_of_every_primitive_eagerly() -> None:
    first = {c.primitive: c for c in [*logical_cases(), *floating_cases(np.float32)]}
    for case in first.values():
        for ours, expected in zip(run(OPENCL, case), run(NUMPY, case), strict=True):
            assert_close(ours, expected, exact=case.exact)


def test_cases_cover_what_is_native() -> None:
    cases = [*floating_cases(np.float32), *integer_cases(np.int32), *logical_cases()]
    covered = {case.primitive for case in cases}
    native = {name for name, p in PRIMITIVES.items() if OPENCL.supports(p, {})}
    assert native <= covered
