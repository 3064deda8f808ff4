"""Reductions, statistics, sorting, searching and sets against NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from core.arrays import (
    ALL,
    FLOATS,
    INTEGERS,
    NUMBERS,
    arrays,
    assert_close,
    assert_refused,
    assert_same,
    shapes,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import accelkit as ak
from accelkit.errors import DTypeError, OptionError, ShapeError, TraceError

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, on empty means


@st.composite
def reductions(draw: st.DrawFn, dtypes: tuple[str, ...] = NUMBERS) -> tuple[np.ndarray, Any, bool]:
    """An array of small numbers, axes (None, one or several, from either end), and keepdims."""
    x = draw(arrays(dtypes, small=True))
    axes: Any = None
    if x.ndim and draw(st.booleans()):
        axes = draw(npst.valid_tuple_axes(x.ndim, min_size=0))
        if len(axes) == 1 and draw(st.booleans()):
            axes = axes[0]
    return x, axes, draw(st.booleans())


def wide(x: np.ndarray) -> Any:
    """The dtype that the standard sums in."""
    return {"i": "int64", "u": "uint64", "b": "int64"}.get(x.dtype.kind, x.dtype)


@given(reductions((*NUMBERS, "bool")))
def test_sum(case: Any) -> None:
    x, axis, keepdims = case
    expected = np.sum(x, axis=axis, keepdims=keepdims, dtype=wide(x))
    assert_close(ak.sum(ak.asarray(x), axis=axis, keepdims=keepdims), expected)


@given(reductions())
def test_prod(case: Any) -> None:
    x, axis, keepdims = case
    expected = np.prod(x, axis=axis, keepdims=keepdims, dtype=wide(x))
    assert_close(ak.prod(ak.asarray(x), axis=axis, keepdims=keepdims), expected, 1e-4)


@pytest.mark.parametrize("name", ["max", "min"])
@given(case=reductions())
def test_extrema(name: str, case: Any) -> None:
    x, axis, keepdims = case
    t = ak.asarray(x)
    try:
        expected = getattr(np, name)(x, axis=axis, keepdims=keepdims)
    except ValueError:  # over nothing
        with pytest.raises(ShapeError, match="over an axis of extent 0"):
            getattr(ak, name)(t, axis=axis, keepdims=keepdims)
        return
    assert_close(getattr(ak, name)(t, axis=axis, keepdims=keepdims), expected)


@pytest.mark.parametrize("name", ["mean", "var", "std"])
@given(case=reductions(FLOATS), correction=st.sampled_from([0, 1, 0.5, 3]))
def test_statistics(name: str, case: Any, correction: float) -> None:
    x, axis, keepdims = case
    options = {} if name == "mean" else {"correction": correction}
    expected = getattr(np, name)(x, axis=axis, keepdims=keepdims, **options)
    result = getattr(ak, name)(ak.asarray(x), axis=axis, keepdims=keepdims, **options)
    if name == "mean":  # a mean of 1/8ths that cancel is relative to the numbers, not to itself
        scale = max(1.0, float(np.abs(x).max(initial=0.0)))
        assert_close(
            result / scale + 1.0, np.asarray(expected / x.dtype.type(scale) + x.dtype.type(1))
        )
    else:
        assert_close(result + 1.0, expected + x.dtype.type(1))


@given(reductions(FLOATS))
def test_logarithms_of_sums_of_exponentials(case: Any) -> None:
    x, axis, keepdims = case
    axes = tuple(range(x.ndim)) if axis is None else axis
    if any(x.shape[a] == 0 for a in np.atleast_1d(np.array(axes, int))):
        with pytest.raises(ShapeError, match="over an axis of extent 0"):
            ak.logsumexp(ak.asarray(x), axis=axis, keepdims=keepdims)
        return
    x = x * x.dtype.type(100)  # exp(800) overflows
    expected = np.asarray(x) if axes == () else np.logaddexp.reduce(x, axis=axes, keepdims=keepdims)
    assert_close(ak.logsumexp(ak.asarray(x), axis=axis, keepdims=keepdims), expected)


def test_logsumexp_of_infinities() -> None:
    rows = np.array([[-np.inf, -np.inf], [np.inf, 0.0], [-np.inf, 2.0], [np.nan, 1.0]])
    assert_close(ak.logsumexp(ak.asarray(rows), axis=1), np.array([-np.inf, np.inf, 2.0, np.nan]))


@pytest.mark.parametrize("order", [1, 2, math.inf])
@given(case=reductions(FLOATS))
def test_vector_norms(order: float, case: Any) -> None:
    x, axis, keepdims = case
    assume(x.size)
    axes = tuple(range(x.ndim)) if axis is None else axis
    norms = {
        1: np.sum(np.abs(x), axes, keepdims=keepdims),
        2: np.sqrt(np.sum(x * x, axes, keepdims=keepdims)),
        math.inf: np.max(np.abs(x), axes, keepdims=keepdims),
    }
    found = ak.vector_norm(ak.asarray(x), axis=axis, ord=order, keepdims=keepdims)
    assert_close(found, norms[order])


def test_other_norms_are_refused() -> None:
    with pytest.raises(OptionError, match="orders 1, 2 and infinity, got ord=3"):
        ak.vector_norm(ak.ones(3), ord=3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_means_of_16_bits_do_not_overflow(dtype: str) -> None:
    x = ak.full((1024, 128), 3.0, dtype=dtype)  # sums to 393216, beyond float16
    assert float(ak.mean(x)) == 3.0
    assert float(ak.var(x * 100.0)) == 0.0
    assert ak.mean(x).dtype == dtype


@pytest.mark.parametrize("name", ["all", "any"])
@given(case=reductions((*NUMBERS, "bool")))
def test_truth(name: str, case: Any) -> None:
    x, axis, keepdims = case
    expected = getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert_same(getattr(ak, name)(ak.asarray(x), axis=axis, keepdims=keepdims), expected)


@given(reductions((*NUMBERS, "bool")))
def test_count_nonzero(case: Any) -> None:
    x, axis, keepdims = case
    expected = np.asarray(np.count_nonzero(x, axis=axis, keepdims=keepdims)).astype("int64")
    assert_same(ak.count_nonzero(ak.asarray(x), axis=axis, keepdims=keepdims), expected)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@given(x=arrays(NUMBERS), data=st.data())
def test_positions_of_extrema(name: str, x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1)) if x.ndim else None
    keepdims = data.draw(st.booleans())
    assume(x.size)
    expected = np.asarray(getattr(np, name)(x, axis=axis, keepdims=keepdims)).astype("int64")
    assert_same(getattr(ak, name)(ak.asarray(x), axis=axis, keepdims=keepdims), expected)


@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_prod"])
@given(x=arrays((*NUMBERS, "bool"), small=True), data=st.data())
def test_running_sums_and_products(name: str, x: np.ndarray, data: st.DataObject) -> None:
    assume(x.ndim)
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    initial = data.draw(st.booleans())
    expected = getattr(np, name)(x, axis=axis, dtype=wide(x), include_initial=initial)
    result = getattr(ak, name)(ak.asarray(x), axis=axis, include_initial=initial)
    assert_close(result, expected)


def test_running_products_have_derivatives_even_at_zero() -> None:
    x = ak.asarray([2.0, 0.0, 3.0], dtype="float64")
    # f = 2 + 0 + 0: by x0 1 + x1 + x1 x2, by x1 x0 + x0 x2, by x2 x0 x1.
    slope = ak.grad(lambda t: ak.cumulative_prod(t).sum())(x)
    assert slope.tolist() == [1.0, 8.0, 0.0]
    assert ak.grad(lambda t: ak.prod(t))(x).tolist() == [0.0, 6.0, 0.0]


@given(arrays((*NUMBERS, "bool")), st.booleans(), st.data())
def test_sorting(x: np.ndarray, descending: bool, data: st.DataObject) -> None:
    assume(x.ndim)
    assume(x.dtype.kind != "f" or not np.isnan(x).any())
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    expected = np.sort(x, axis=axis, stable=True)
    if descending:
        expected = np.flip(expected, axis)
    t = ak.asarray(x)
    order = ak.argsort(t, axis=axis, descending=descending)
    np.testing.assert_array_equal(ak.sort(t, axis=axis, descending=descending).numpy(), expected)
    np.testing.assert_array_equal(ak.take_along_axis(t, order, axis=axis).numpy(), expected)
    if not descending:
        assert_same(order, np.argsort(x, axis=axis, stable=True))


def test_equal_elements_keep_their_order_in_both_directions() -> None:
    x = ak.asarray([1, 0, 1, 0, 1])
    assert ak.argsort(x).tolist() == [1, 3, 0, 2, 4]
    assert ak.argsort(x, descending=True).tolist() == [0, 2, 4, 1, 3]


@given(arrays(NUMBERS, (4,)), arrays(NUMBERS, shapes()), st.sampled_from(["left", "right"]))
def test_searchsorted(a: np.ndarray, b: np.ndarray, side: Any) -> None:
    b = b.astype(a.dtype)
    assume(not np.isnan(a.astype("float64")).any() and not np.isnan(b.astype("float64")).any())
    order = np.argsort(a)
    expected = np.searchsorted(a[order], b, side=side).astype("int64")
    t = ak.asarray(b)
    assert_same(ak.searchsorted(ak.asarray(a[order]), t, side=side), expected)
    result = ak.searchsorted(ak.asarray(a), t, side=side, sorter=ak.asarray(order))
    assert_same(result, expected)


@given(arrays(NUMBERS, small=True), st.integers(0, 4), st.data())
def test_diff(x: np.ndarray, n: int, data: st.DataObject) -> None:
    assume(x.ndim)
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    assert_same(ak.diff(ak.asarray(x), axis=axis, n=n), np.diff(x, axis=axis, n=n))
    end = np.take(x, [], axis) if not x.shape[axis] else np.take(x, [0], axis)
    expected = np.diff(x, axis=axis, n=n, prepend=end, append=end)
    t = ak.asarray(end)
    assert_same(ak.diff(ak.asarray(x), axis=axis, n=n, prepend=t, append=t), expected)


def test_top_k() -> None:
    x = ak.asarray([[1.0, 5.0, 5.0, 2.0], [0.0, -1.0, -2.0, -3.0]])
    values, order = ak.top_k(x, 2)
    assert values.tolist() == [[5.0, 5.0], [0.0, -1.0]]
    assert order.tolist() == [[1, 2], [0, 1]]
    assert ak.top_k(x, 1, axis=0)[0].tolist() == [[1.0, 5.0, 5.0, 2.0]]
    with pytest.raises(OptionError, match="top_k needs 0 < k <= 4, got 5"):
        ak.top_k(x, 5)


@given(arrays((*INTEGERS, *FLOATS, "bool")))
def test_distinct_elements(x: np.ndarray) -> None:
    found = ak.unique_all(ak.asarray(x))
    values, indices, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, equal_nan=False
    )
    assert_same(found.values, values)
    assert_same(found.indices, indices)
    assert_same(found.inverse_indices, inverse.reshape(x.shape))
    assert_same(found.counts, counts)
    assert_same(ak.unique_values(ak.asarray(x)), values)
    assert_same(ak.unique_counts(ak.asarray(x)).counts, counts)
    assert_same(ak.unique_inverse(ak.asarray(x)).inverse_indices, inverse.reshape(x.shape))


def test_ties_share_the_derivative_of_an_extremum() -> None:
    x = ak.asarray([3.0, 1.0, 3.0])
    assert ak.grad(lambda t: ak.max(t))(x).tolist() == [0.5, 0.0, 0.5]
    assert ak.grad(lambda t: ak.min(t))(x).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: ak.sum(x, axis=2), ShapeError, "Axis 2 does not exist: the tensor has 2 axes"),
        (lambda x: ak.sum(x, axis=(0, -2)), ShapeError, "name one axis twice"),
        (lambda x: ak.sum(x, axis=0.5), ShapeError, "An axis is an integer, got 0.5"),
        (lambda x: ak.mean(ak.arange(3)), DTypeError, "mean needs a floating tensor, got int64"),
        (lambda x: ak.max(x > 0.0), DTypeError, "reduce_max does not take dtype bool"),
        (lambda x: ak.argmax(x > 0.0), DTypeError, "argmax does not take dtype bool"),
        (lambda x: ak.argmax(x[:0], axis=0), ShapeError, "argmax over an axis of extent 0"),
        (lambda x: ak.cumulative_sum(x), ShapeError, "cumulative_sum needs an axis"),
        (lambda x: ak.searchsorted(x, x), ShapeError, "needs a sorted vector, got shape"),
        (lambda x: ak.searchsorted(x[0], x, side="up"), OptionError, "side must be 'left'"),
        (lambda x: ak.diff(x, n=-1), OptionError, "`n` must be an integer of at least 0, got -1"),
    ],
)
def test_refusals(call: Any, error: type[Exception], text: str) -> None:
    assert_refused(call, error, text)


def test_sets_need_data() -> None:
    with pytest.raises(TraceError, match="Finding distinct elements needs the data"):
        ak.trace(ak.unique_values, ak.zeros(3))


def test_a_reduction_over_no_axes_changes_nothing() -> None:
    x = np.broadcast_to(np.array([[-0.0, 0.0, np.inf]]), (2, 3))  # NumPy's own sum gives 0.0
    for function in (ak.sum, ak.prod, ak.max, ak.min):
        assert_same(function(ak.broadcast_to(ak.asarray(x[:1]), (2, 3)), axis=()), x)


def test_nan_wins_every_extremum() -> None:
    x = ak.asarray([1.0, math.nan, 3.0])
    assert math.isnan(float(ak.max(x)))
    assert math.isnan(float(ak.min(x)))
    assert int(ak.argmax(x)) == int(ak.argmin(x)) == 1


def test_all_dtypes_are_covered() -> None:
    names = {name for name in ak.__array_namespace_info__().dtypes() if "16" not in name}
    assert names == {name for name in ALL if "16" not in name}
