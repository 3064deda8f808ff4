"""The oracle against independent ones: definitions of composites, torch, the math module."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from accelkit_numpy import NumpyBackend
from accelkit_numpy.special import erf
from backends.comparison import assert_close, run
from backends.primitive_cases import INTEGERS, Case, floating_cases, integer_cases

from accelkit import dtypes
from accelkit.graph import TensorSpec
from accelkit.passes.inline import definition_graph, inline_composites
from accelkit.primitives import PRIMITIVES

NUMPY = NumpyBackend()
DEVICE = NUMPY.devices()[0].device


class WithoutComposites(NumpyBackend):
    """The same backend with the definitions of composites instead of its native forms."""

    table = {  # noqa: RUF012 - the base class's attribute
        name: function
        for name, function in NumpyBackend.table.items()
        if PRIMITIVES[name].definition is None
    }


COMPOSITE = [
    case for case in floating_cases(np.float64) if PRIMITIVES[case.primitive].definition is not None
]


@pytest.mark.parametrize("case", COMPOSITE, ids=str)
def test_native_form_equals_definition(case: Case) -> None:
    defined = run(WithoutComposites(), case)
    for found, expected in zip(run(NUMPY, case), defined, strict=True):
        assert_close(found, expected, exact=False)


def test_the_definitions_were_really_used() -> None:
    specs = [TensorSpec((2, 3), dtypes.float64)]
    graph = definition_graph(PRIMITIVES["softmax"], specs, {"axis": 1})
    names = inline_composites(graph, WithoutComposites()).counts()
    assert "exp" in names
    assert "softmax" not in names


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=str)
def test_sixteen_bit_floats_are_rounded_once(dtype: dtypes.DType) -> None:
    many = np.full(4096, 0.1, dtype.numpy)
    total = run(NUMPY, Case("reduce_sum", (many,), {"axes": (0,)}))[0]
    assert total == np.asarray(float(many[0]) * 4096).astype(dtype.numpy)
    for case in floating_cases(dtype.numpy):
        for array in run(NUMPY, case):
            assert array.dtype.kind in "biuV" or array.dtype.itemsize in (2, 4, 8)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.__name__)
def test_integers_keep_their_dtype(dtype: type) -> None:
    for case in integer_cases(dtype):
        run(NUMPY, case)  # checks the inferred spec


def test_erf() -> None:
    x = np.concatenate([np.linspace(-7, 7, 4001), [0.0, -0.0, 1e-300, np.inf, -np.inf]])
    expected = np.array([math.erf(v) for v in x])
    np.testing.assert_array_max_ulp(erf(x), expected, maxulp=4)
    assert math.isnan(erf(np.array(np.nan)))
    assert np.signbit(erf(np.array(-0.0)))


def test_floating_point_exceptions_are_values() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        big = np.array([1e308, 0.0])
        for name in ("add", "multiply", "divide"):
            run(NUMPY, Case(name, (big, big), {}))
        run(NUMPY, Case("log", (-big,), {}))
        run(NUMPY, Case("cast", (big,), {"dtype": dtypes.float16}))


def test_memory_of_the_user_is_never_shared() -> None:
    source = np.arange(6.0)
    array = NUMPY.put(source, DEVICE)
    source[0] = 100.0
    assert NUMPY.get(array)[0] == 0.0
    out = NUMPY.get(array)
    out[1] = 100.0
    assert NUMPY.get(array)[1] == 1.0


def test_memory_statistics() -> None:
    statistics = NUMPY.memory(DEVICE)
    assert statistics.in_use_bytes is not None
    assert statistics.peak_bytes is not None
    assert 0 < statistics.in_use_bytes <= statistics.peak_bytes * 1.01
    assert statistics.method
