"""What the tests of the core share: strategies for arrays, comparisons, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import accelkit as ak

FLOATS = ("float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = SIGNED + UNSIGNED
NUMBERS = FLOATS + INTEGERS
ALL = (*NUMBERS, "bool")


def shapes(max_dims: int = 3, max_side: int = 4, min_dims: int = 0) -> st.SearchStrategy[Any]:
    """Shapes with empty axes among them."""
    return npst.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=0, max_side=max_side)


def elements(dtype: str) -> dict[str, Any]:
    """Numbers without subnormals, which are outside of the contract."""
    if dtype.startswith("float"):
        return {"allow_subnormal": False, "width": int(dtype[5:])}
    return {}


def arrays(
    dtypes: Any = NUMBERS, shape: Any = None, *, small: bool = False
) -> st.SearchStrategy[np.ndarray]:
    """Arrays of one of the dtypes; ``small`` keeps products finite and free of overflow."""

    def of(dtype: str) -> st.SearchStrategy[np.ndarray]:
        content = None
        if small and dtype.startswith("float"):
            content = st.integers(-64, 64).map(lambda n: n / 8)
        elif small and dtype != "bool":
            content = st.integers(0 if dtype.startswith("u") else -9, 9)
        elif dtype.startswith("float"):
            content = npst.from_dtype(np.dtype(dtype), allow_subnormal=False)
        return npst.arrays(dtype, shapes() if shape is None else shape, elements=content)

    names = (dtypes,) if isinstance(dtypes, str) else dtypes
    return st.sampled_from(names).flatmap(of)


def assert_same(actual: Any, expected: Any) -> None:
    """Equal shape, dtype and bits, signs of zeros included; any NaN equals any other."""
    expected = np.asarray(expected)
    assert isinstance(actual, ak.Tensor), type(actual)
    assert actual.dtype.name == expected.dtype.name
    assert actual.shape == expected.shape
    result = actual.numpy()
    np.testing.assert_array_equal(result, expected)
    if expected.dtype.kind == "f":
        known = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(result)[known], np.signbit(expected)[known])


def assert_close(actual: Any, expected: Any, tolerance: float | None = None) -> None:
    """Equal shape and dtype, and elements within a few units in the last place of the largest."""
    expected = np.asarray(expected)
    assert actual.dtype.name == expected.dtype.name
    assert actual.shape == expected.shape
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual.numpy(), expected)
        return
    result = actual.numpy()
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(result[infinite], expected[infinite])
    finite = np.isfinite(expected)
    if finite.any():
        scale = max(float(np.abs(expected[finite]).max()), 1e-30)
        bound = tolerance or 64 * float(np.finfo(expected.dtype).eps)
        assert float(np.abs(result[finite] - expected[finite]).max()) <= bound * scale


def assert_refused(call: Callable[[ak.Tensor], Any], error: type[Exception], text: str) -> None:
    """A float32[2, 3] is refused with these words, when it is run and when it is traced."""
    x = ak.ones((2, 3))
    with pytest.raises(error, match=text):
        call(x)
    with pytest.raises(error, match=text):
        ak.trace(call, x)
