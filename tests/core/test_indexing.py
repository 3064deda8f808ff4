"""Indexing against NumPy: every kind of key, its derivative, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from core.arrays import ALL, assert_same, shapes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import accelkit as ak
from accelkit.errors import DTypeError, OptionError, ShapeError, TraceError


def counted(shape: tuple[int, ...], dtype: str = "int64") -> np.ndarray:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


@given(st.data())
def test_basic_keys_are_numpys(data: st.DataObject) -> None:
    shape = data.draw(shapes(max_dims=4))
    x = counted(shape, data.draw(st.sampled_from(ALL)))
    key = data.draw(npst.basic_indices(shape, allow_newaxis=True, max_dims=6))
    assert_same(ak.asarray(x)[key], x[key])


def integer_keys(extent: int) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(
        st.sampled_from(["int8", "int32", "int64", "uint8"]),
        st.sampled_from([(), (3,), (1,), (2, 3), (2, 1)]),
        elements=st.integers(0, extent - 1),
    )


@st.composite
def mixed_keys(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[object, ...]]:
    """A shape, and a key of integer arrays, slices, integers, None and an Ellipsis."""
    shape = draw(npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    key: list[object] = []
    for extent in shape[: draw(st.integers(1, len(shape)))]:
        kind = draw(st.sampled_from(["array", "slice", "integer", "negative"]))
        if kind == "array":
            key.append(draw(integer_keys(extent)))
        elif kind == "slice":
            key.append(draw(st.slices(extent)))
        elif kind == "integer":
            key.append(draw(st.integers(-extent, extent - 1)))
        else:
            key.append(np.array([draw(st.integers(-extent, -1)), extent - 1]))
    for extra in draw(st.lists(st.sampled_from([None, None]), max_size=2)):
        key.insert(draw(st.integers(0, len(key))), extra)
    if draw(st.booleans()):
        # An Ellipsis stands for all axes that are left: only at the end do the keys still fit.
        key.append(Ellipsis)
    return shape, tuple(key)


@given(mixed_keys())
def test_integer_arrays_mixed_with_everything_are_numpys(case: object) -> None:
    shape, key = case  # type: ignore[misc]
    x = counted(shape)
    try:
        expected = x[key]
    except IndexError:  # index arrays that do not broadcast
        with pytest.raises(ShapeError):
            _ = ak.asarray(x)[key]
        return
    assert_same(ak.asarray(x)[key], expected)
    tensors = tuple(ak.asarray(k) if isinstance(k, np.ndarray) else k for k in key)
    assert_same(ak.asarray(x)[tensors], expected)
    assert_same(ak.jit(lambda t: t[tensors])(ak.asarray(x)), expected)


@given(st.data())
def test_masks_are_numpys(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    covered = data.draw(st.integers(0, len(shape)))
    before = data.draw(st.integers(0, len(shape) - covered))
    mask = data.draw(npst.arrays(bool, shape[before : before + covered]))
    key = (*[slice(None)] * before, mask)
    x = counted(shape)
    assert_same(ak.asarray(x)[key], x[key])
    assert_same(ak.asarray(x)[(*key[:-1], ak.asarray(mask))], x[key])
    assert_same(ak.jit(lambda t: t[key])(ak.asarray(x)), x[key])


def test_masks_beside_other_indices() -> None:
    x = counted((3, 4, 2))
    rows, columns = np.array([True, False, True]), np.array([1, 3])
    for key in [
        (rows, columns),
        (rows, 1),
        (rows, slice(None), 0),
        (None, rows),
        (..., [True, False]),
    ]:
        assert_same(ak.asarray(x)[key], x[key])


def test_a_separated_integer_moves_the_axes_of_index_arrays_to_the_front() -> None:
    x, index = counted((2, 3, 4)), np.array([0, 1, 1, 3, 2])
    assert x[0, :, index].shape == (5, 3)
    assert_same(ak.asarray(x)[0, :, index], x[0, :, index])
    assert_same(ak.asarray(x)[:, 0, index], x[:, 0, index])


def test_lists_and_empty_lists() -> None:
    x = counted((4, 3))
    for key in ([0, 2], [], [[0, 1], [3, 3]], [True, False, True, True]):
        assert_same(ak.asarray(x)[key], x[key])


def test_an_index_array_goes_to_the_device_of_the_tensor() -> None:
    pytest.importorskip("torch")
    x = ak.asarray(counted((4, 3)), device="torch:cpu")
    assert x[np.array([2, 0])].tolist() == [[6, 7, 8], [0, 1, 2]]
    assert x[[2]].device is x.device
    assert x[np.array([True, False, False, True])].tolist() == [[0, 1, 2], [9, 10, 11]]
    assert ak.take(x, np.array([1]), axis=0).tolist() == [[3, 4, 5]]


def test_narrow_indices_reach_the_end_of_wide_axes() -> None:
    x = ak.arange(1000)
    assert x[ak.asarray([-1, 5], dtype="int8")].tolist() == [999, 5]
    assert ak.take(x, ak.asarray([-128, 127], dtype="int8")).tolist() == [872, 127]
    assert ak.take(x, ak.asarray([255], dtype="uint8")).tolist() == [255]


def test_take_and_take_along_axis() -> None:
    x = counted((3, 4))
    index = np.array([[0, -1], [2, 1], [3, 0]])
    t = ak.asarray(x)
    assert_same(ak.take(t, ak.asarray([2, -3]), axis=0), np.take(x, [2, 0], 0))
    assert_same(ak.take_along_axis(t, ak.asarray(index), axis=1), np.take_along_axis(x, index, 1))
    assert_same(ak.take(t[0], ak.asarray([1])), x[0][[1]])


def test_nonzero() -> None:
    x = np.array([[0, 3], [4, 0]])
    for found, expected in zip(ak.nonzero(ak.asarray(x)), np.nonzero(x), strict=True):
        assert_same(found, expected)


def test_the_derivative_adds_up_repeated_elements() -> None:
    x = ak.asarray([1.0, 2.0, 3.0])
    index = ak.asarray([0, 2, 2])
    slope = ak.grad(lambda t: (t[index] * ak.asarray([1.0, 10.0, 100.0])).sum())
    assert slope(x).tolist() == [1.0, 0.0, 110.0]
    assert ak.grad(lambda t: t[::-2].sum())(x).tolist() == [1.0, 0.0, 1.0]
    assert ak.grad(lambda t: t[np.array([True, False, True])].sum())(x).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        ((0, 0, 0), ShapeError, r"3 indices for a tensor of shape \(2, 3\)"),
        (2, IndexError, "Index 2 is out of range for axis 0"),
        (-3, IndexError, "Index -3 is out of range"),
        (1.5, DTypeError, "Cannot index with float"),
        ("a", DTypeError, "Cannot index with str"),
        (True, DTypeError, "Python bools are not supported"),
        ((..., ...), OptionError, "at most one Ellipsis"),
        ([0.5], DTypeError, "integer or bool tensor, got float"),
        (np.array([True]), ShapeError, r"mask of shape \(1,\) does not fit"),
        (np.ones((2, 2), bool), ShapeError, r"mask of shape \(2, 2\) does not fit"),
    ],
)
def test_refusals(key: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _ = ak.zeros((2, 3))[key]


def test_a_mask_of_a_trace_has_no_data() -> None:
    with pytest.raises(TraceError, match="Indexing with a mask needs the data"):
        ak.trace(lambda t: t[t > 0.0], ak.zeros(3))
    with pytest.raises(TraceError, match="nonzero needs the data"):
        ak.trace(ak.nonzero, ak.zeros(3))


def test_take_needs_an_axis_and_integers() -> None:
    with pytest.raises(ShapeError, match="take needs an axis"):
        ak.take(ak.zeros((2, 2)), ak.asarray([0]))
    with pytest.raises(DTypeError, match="take needs integer indices, got float32"):
        ak.take(ak.zeros(2), ak.asarray([0.0]))
    with pytest.raises(ShapeError, match="take_along_axis needs indices shaped like x"):
        ak.take_along_axis(ak.zeros((2, 2)), ak.asarray([[0]]), axis=1)
