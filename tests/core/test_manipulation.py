"""Rearranging, joining, repeating and creating tensors against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core.arrays import ALL, arrays, assert_refused, assert_same, shapes
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import accelkit as ak
from accelkit.errors import (
    DeviceMismatchError,
    DTypeError,
    OptionError,
    ShapeError,
    TraceError,
)


def axis_of(x: np.ndarray, data: st.DataObject) -> int:
    assume(x.ndim)
    return data.draw(st.integers(-x.ndim, x.ndim - 1))


@given(arrays(ALL), st.data())
def test_reshape(x: np.ndarray, data: st.DataObject) -> None:
    shape = data.draw(st.permutations([*x.shape, 1]))
    assert_same(ak.reshape(ak.asarray(x), tuple(shape)), x.reshape(shape))
    assert_same(ak.asarray(x).reshape(*shape), x.reshape(shape))
    if x.size:
        shape[data.draw(st.integers(0, len(shape) - 1))] = -1
        assert_same(ak.reshape(ak.asarray(x), shape), x.reshape(shape))


@given(arrays(ALL), st.data())
def test_permute_and_move_axes(x: np.ndarray, data: st.DataObject) -> None:
    axes = data.draw(st.permutations(range(x.ndim)))
    t = ak.asarray(x)
    assert_same(ak.permute_dims(t, tuple(axes)), x.transpose(axes))
    count = data.draw(st.integers(0, x.ndim))
    targets = data.draw(st.permutations(range(x.ndim)))[:count]
    sources = [a - x.ndim for a in axes[:count]]
    assert_same(ak.moveaxis(t, sources, targets), np.moveaxis(x, sources, targets))
    if x.ndim >= 2:
        assert_same(t.mT, x.mT)
        assert_same(ak.matrix_transpose(t), x.mT)


@given(arrays(ALL), st.data())
def test_new_and_removed_axes(x: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim - 1, x.ndim))
    expanded = ak.expand_dims(ak.asarray(x), axis)
    assert_same(expanded, np.expand_dims(x, axis))
    assert_same(ak.squeeze(expanded, axis), x)
    assert_same(expanded.squeeze(), x.squeeze())


@given(arrays(ALL), st.data())
def test_flatten_merges_neighbouring_axes(x: np.ndarray, data: st.DataObject) -> None:
    assert_same(ak.asarray(x).flatten(), x.reshape(x.size))
    first = axis_of(x, data) % x.ndim
    last = data.draw(st.integers(first, x.ndim - 1))
    expected = x.reshape(
        *x.shape[:first], np.prod(x.shape[first : last + 1], dtype=int), *x.shape[last + 1 :]
    )
    assert_same(ak.flatten(ak.asarray(x), first, last - x.ndim), expected)
    if first < last:
        with pytest.raises(ShapeError, match="start_axis before end_axis"):
            ak.flatten(ak.asarray(x), last, first)


@given(npst.mutually_broadcastable_shapes(num_shapes=3, min_side=0, max_side=3, max_dims=3))
def test_broadcasting(found: Any) -> None:
    xs = [np.arange(int(np.prod(s))).reshape(s) for s in found.input_shapes]
    for result, expected in zip(
        ak.broadcast_arrays(*map(ak.asarray, xs)), np.broadcast_arrays(*xs), strict=True
    ):
        assert_same(result, expected)
    assert_same(
        ak.broadcast_to(ak.asarray(xs[0]), found.result_shape),
        np.broadcast_to(xs[0], found.result_shape),
    )


@given(arrays(ALL), st.data())
def test_flip_roll_repeat_tile(x: np.ndarray, data: st.DataObject) -> None:
    t = ak.asarray(x)
    axes = data.draw(npst.valid_tuple_axes(x.ndim, min_size=0)) if x.ndim else ()
    assert_same(ak.flip(t, axis=axes), np.flip(x, axes))
    assert_same(ak.flip(t), np.flip(x))
    shift = data.draw(st.integers(-9, 9))
    assert_same(ak.roll(t, shift), np.roll(x, shift))
    shifts = data.draw(st.lists(st.integers(-9, 9), min_size=len(axes), max_size=len(axes)))
    if axes:
        assert_same(ak.roll(t, shift, axis=axes[0]), np.roll(x, shift, axes[0]))
        assert_same(ak.roll(t, tuple(shifts), axis=axes), np.roll(x, tuple(shifts), axes))
        assert_same(ak.repeat(t, shift % 4, axis=axes[0]), np.repeat(x, shift % 4, axes[0]))
    assert_same(ak.repeat(t, shift % 4), np.repeat(x, shift % 4))
    counts = tuple(data.draw(st.lists(st.integers(0, 3), max_size=4)))
    assert_same(ak.tile(t, counts), np.tile(x, counts))


@given(arrays(ALL), st.data())
def test_repeat_with_a_number_for_each(x: np.ndarray, data: st.DataObject) -> None:
    axis = axis_of(x, data)
    counts = data.draw(npst.arrays("int64", x.shape[axis], elements=st.integers(0, 3)))
    result = ak.repeat(ak.asarray(x), ak.asarray(counts), axis=axis)
    assert_same(result, np.repeat(x, counts, axis))


@given(st.data())
def test_concat_stack_unstack_split(data: st.DataObject) -> None:
    shape = data.draw(shapes(min_dims=1))
    dtype = data.draw(st.sampled_from(ALL))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    parts = []
    for extent in data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)):
        wide = list(shape)
        wide[axis] = extent
        parts.append(data.draw(arrays(dtype, tuple(wide))))
    tensors = [ak.asarray(p) for p in parts]
    joined = np.concatenate(parts, axis)
    assert_same(ak.concat(tensors, axis=axis), joined)
    assert_same(ak.concat(tensors, axis=None), np.concatenate(parts, None))
    stacked = np.stack([joined, joined], axis)
    assert_same(ak.stack([ak.asarray(joined)] * 2, axis=axis), stacked)
    for part in ak.unstack(ak.asarray(stacked), axis=axis):
        assert_same(part, joined)
    for part in ak.split(ak.asarray(np.concatenate([joined] * 3, axis)), 3, axis=axis):
        assert_same(part, joined)


@given(arrays(ALL), st.data())
def test_pad(x: np.ndarray, data: st.DataObject) -> None:
    width = st.tuples(st.integers(0, 2), st.integers(0, 2))
    widths = data.draw(st.lists(width, min_size=x.ndim, max_size=x.ndim))
    value = {"b": True, "u": 7, "i": -7, "f": -1.5}[x.dtype.kind]
    expected = np.pad(x, widths, constant_values=value) if x.ndim else x
    assert_same(ak.pad(ak.asarray(x), widths, value=value), expected)


# --- creation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ALL)
def test_constants(dtype: str) -> None:
    like = ak.asarray(np.ones((2, 3)).astype(dtype))
    assert_same(ak.zeros((2, 3), dtype=dtype), np.zeros((2, 3), dtype))
    assert_same(ak.ones(4, dtype=dtype), np.ones(4, dtype))
    assert_same(ak.empty((0,), dtype=dtype), np.zeros(0, dtype))
    assert_same(ak.full((), True if dtype == "bool" else 7, dtype=dtype), np.full((), 7, dtype))
    for name in ("zeros_like", "ones_like"):
        assert_same(getattr(ak, name)(like), getattr(np, name)(like.numpy()))
    assert ak.empty_like(like).dtype == dtype
    assert_same(ak.full_like(like, 1), np.ones((2, 3), dtype))
    assert_same(ak.zeros_like(like, dtype="float64"), np.zeros((2, 3)))


def test_default_dtypes() -> None:
    assert ak.zeros(2).dtype == ak.full(2, 1.5).dtype == ak.asarray([0.5]).dtype == "float32"
    assert ak.full(2, 1).dtype == ak.arange(3).dtype == ak.asarray([1]).dtype == "int64"
    assert ak.full(2, True).dtype == ak.asarray([True]).dtype == "bool"
    assert ak.arange(3.0).dtype == ak.linspace(0, 1, 3).dtype == ak.eye(2).dtype == "float32"
    assert ak.asarray([]).dtype == "float32"
    assert ak.asarray(np.zeros(2)).dtype == "float64"


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-5, 5).filter(bool))
def test_arange_of_integers(start: int, stop: int, step: int) -> None:
    assert_same(ak.arange(start, stop, step), np.arange(start, stop, step))
    assert_same(ak.arange(stop), np.arange(stop))
    for dtype in ("int8", "float32"):
        assert_same(ak.arange(start, stop, step, dtype=dtype), np.arange(start, stop, step, dtype))
    assert_same(ak.jit(lambda: ak.arange(start, stop, step))(), np.arange(start, stop, step))


@given(st.floats(-10, 10), st.floats(-10, 10), st.sampled_from([0.25, 1.0, -0.5, 2]))
def test_arange_and_linspace_of_floats(start: float, stop: float, step: float) -> None:
    expected = np.arange(start, stop, step).astype("float32")
    assert ak.arange(start, stop, step).shape == expected.shape
    np.testing.assert_allclose(ak.arange(start, stop, step).numpy(), expected, rtol=1e-6, atol=1e-6)
    for endpoint in (True, False):
        points = np.linspace(start, stop, 7, endpoint=endpoint).astype("float32")
        assert_same(ak.linspace(start, stop, 7, endpoint=endpoint), points)


def test_wide_and_unsigned_ranges() -> None:
    assert ak.arange(-100, 100, 150, dtype="int8").tolist() == [-100, 50]
    assert ak.arange(5, 0, -2, dtype="uint8").tolist() == [5, 3, 1]
    assert ak.arange(2**62, 2**62 + 3).tolist() == [2**62, 2**62 + 1, 2**62 + 2]
    assert ak.arange(2.0, 2.0).shape == (0,)


@given(st.integers(0, 4), st.integers(0, 4), st.integers(-5, 5), st.sampled_from(ALL))
def test_eye_and_triangles(rows: int, columns: int, k: int, dtype: str) -> None:
    assert_same(ak.eye(rows, columns, k=k, dtype=dtype), np.eye(rows, columns, k, dtype))
    x = np.ones((2, rows, columns)).astype(dtype)
    assert_same(ak.tril(ak.asarray(x), k=k), np.tril(x, k))
    assert_same(ak.triu(ak.asarray(x), k=k), np.triu(x, k))


@pytest.mark.parametrize("indexing", ["xy", "ij"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_meshgrid(indexing: Any, count: int) -> None:
    vectors = [np.arange(n + 1) for n in range(count)]
    results = ak.meshgrid(*map(ak.asarray, vectors), indexing=indexing)
    for result, expected in zip(results, np.meshgrid(*vectors, indexing=indexing), strict=True):
        assert_same(result, expected)


def test_one_hot_of_narrow_labels() -> None:
    labels = ak.asarray([0, 44, 255], dtype="uint8")
    result = ak.one_hot(labels, 300)
    assert result.shape == (3, 300)
    assert ak.argmax(result, axis=-1).tolist() == [0, 44, 255]
    assert float(result.sum()) == 3.0
    # -1 and 300 are no classes.
    assert ak.one_hot(ak.asarray([-1, 300]), 300).sum().tolist() == 0.0


def test_created_tensors_go_where_they_are_asked_to() -> None:
    pytest.importorskip("torch")
    with ak.default_device("torch:cpu"):
        for x in (ak.zeros(2), ak.arange(2), ak.eye(2), ak.asarray([1]), ak.linspace(0, 1, 2)):
            assert x.device is ak.device("torch:cpu")
        assert ak.tril(ak.ones((2, 2), device="numpy")).device is ak.device("numpy")
        assert ak.pad(ak.ones(2, device="numpy"), [(1, 0)]).device is ak.device("numpy")
        assert ak.one_hot(ak.asarray([1], device="numpy"), 2).device is ak.device("numpy")
    with pytest.raises(DeviceMismatchError, match=r"runs on numpy:cpu:0, but asks for .*torch"):
        ak.trace(lambda x: x + ak.zeros(2, device="torch:cpu"), ak.zeros(2))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: ak.reshape(x, (4, 2)), ShapeError, r"Cannot reshape \(2, 3\) \(6 elements\)"),
        (lambda x: ak.reshape(x, (-1, 4)), ShapeError, r"Cannot deduce the -1 of \(-1, 4\)"),
        (lambda x: ak.reshape(x, (-1, -1)), ShapeError, "no negative extents"),
        (lambda x: ak.reshape(x, (2, 1.5)), ShapeError, "A shape holds integers"),
        (lambda x: ak.permute_dims(x, (0, 0)), ShapeError, "not a permutation of the 2 axes"),
        (lambda x: ak.permute_dims(x, (0,)), ShapeError, "not a permutation"),
        (lambda x: ak.squeeze(x, 0), ShapeError, "squeeze needs extent 1 on axis 0"),
        (lambda x: ak.broadcast_to(x, (3, 3)), ShapeError, "does not broadcast to"),
        (lambda x: ak.broadcast_to(x, (3,)), ShapeError, "does not broadcast to"),
        (lambda x: ak.concat([x, x[0]]), ShapeError, "do not join along axis 0"),
        (lambda x: ak.concat([]), OptionError, "at least one tensor to join"),
        (lambda x: ak.stack([x, x[:1]]), ShapeError, "stack needs equal shapes"),
        (lambda x: ak.split(x, 4), ShapeError, "Cannot split extent 2 of axis 0 into 4"),
        (lambda x: ak.roll(x, (1, 2), axis=0), OptionError, "2 shifts for 1 axes"),
        (lambda x: ak.repeat(x, -1), OptionError, "at least 0, got -1"),
        (lambda x: ak.tile(x, (-1,)), ShapeError, "no negative extents"),
        (lambda x: ak.pad(x, [(1, 1)]), ShapeError, "pad needs 2 pairs"),
        (lambda x: ak.pad(x, [(1, 1), (0, -1)]), ShapeError, "no negative extents"),
        (lambda x: ak.moveaxis(x, (0, 1), 0), ShapeError, "2 sources and 1 destinations"),
        (lambda x: ak.zeros((2, -1)), ShapeError, "no negative extents, got"),
        (lambda x: ak.zeros((2**40, 2**40)), ShapeError, r"fewer than 2\^60 elements, got"),
        (lambda x: ak.broadcast_to(x[0, 0], (2**60, 0)), ShapeError, r"fewer than 2\^60"),
        (lambda x: ak.zeros("ab"), ShapeError, "A shape holds integers, got 'ab'"),
        (lambda x: ak.zeros(2, dtype="complex64"), DTypeError, "Unsupported dtype 'complex64'"),
        (lambda x: ak.zeros(2, dtype=["x"]), DTypeError, "Unsupported dtype"),
        (lambda x: ak.full(2, 300, dtype="uint8"), DTypeError, "300 does not fit uint8"),
        (lambda x: ak.full(2, 1.5, dtype="int32"), DTypeError, "float 1.5 does not fit"),
        (lambda x: ak.full(2, 2, dtype="bool"), DTypeError, "int 2 does not fit a tensor of bool"),
        (lambda x: ak.arange(0, 5, 0), OptionError, "a step other than 0"),
        (lambda x: ak.arange(300, dtype="uint8"), DTypeError, "299 does not fit uint8"),
        (lambda x: ak.linspace(0, 1, -1), OptionError, "at least 0, got -1"),
        (lambda x: ak.meshgrid(x[0], indexing="ab"), OptionError, "'xy' or 'ij'"),
        (lambda x: ak.one_hot(x, 3), DTypeError, "one_hot needs integer labels"),
        (lambda x: ak.tril(x[0]), ShapeError, "at least two axes"),
        (lambda x: x[0].T, ShapeError, "`.T` needs two axes"),
        (lambda x: ak.asarray("text"), DTypeError, "takes numbers .*got str"),
        (lambda x: ak.asarray([[1], [2, 3]]), ShapeError, "no regular array"),
        (lambda x: ak.asarray(1j), DTypeError, "Unsupported dtype .*complex128"),
        (lambda x: ak.asarray([x, x]), DTypeError, "list of tensors.*accelkit.stack"),
        (lambda x: ak.asarray(None), DTypeError, "takes numbers .*got NoneType"),
    ],
)
def test_refusals(call: Any, error: type[Exception], text: str) -> None:
    assert_refused(call, error, text)


def test_repeats_that_depend_on_data_are_not_traced() -> None:
    with pytest.raises(TraceError, match="repeat with a number per element needs the data"):
        ak.trace(ak.repeat, ak.zeros(3), ak.asarray([1, 2, 3]))
    with pytest.raises(ShapeError, match="repeat needs integers of shape"):
        ak.repeat(ak.zeros(3), ak.asarray([1, 2]))
    with pytest.raises(OptionError, match="at least 0, got -1"):
        ak.repeat(ak.zeros(2), ak.asarray([1, -1]))
