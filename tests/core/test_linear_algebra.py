"""Products and contractions against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core.arrays import FLOATS, INTEGERS, arrays, assert_close, assert_refused
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import accelkit as ak
from accelkit.errors import DTypeError, OptionError, ShapeError

NUMBERS = (*FLOATS, *INTEGERS)


@given(
    npst.mutually_broadcastable_shapes(signature="(m?,n),(n,p?)->(m?,p?)", max_dims=3, max_side=3),
    st.sampled_from(NUMBERS),
    st.data(),
)
def test_matmul(found: Any, dtype: str, data: st.DataObject) -> None:
    a, b = (data.draw(arrays(dtype, shape, small=True)) for shape in found.input_shapes)
    assert_close(ak.asarray(a) @ ak.asarray(b), np.matmul(a, b), 1e-5)


@given(
    npst.mutually_broadcastable_shapes(signature="(n),(n)->()", max_dims=3, max_side=3), st.data()
)
def test_vecdot(found: Any, data: st.DataObject) -> None:
    a, b = (data.draw(arrays("float64", shape, small=True)) for shape in found.input_shapes)
    assert_close(ak.vecdot(ak.asarray(a), ak.asarray(b)), np.vecdot(a, b), 1e-10)


@given(st.integers(0, 2), st.data())
def test_tensordot(count: int, data: st.DataObject) -> None:
    side = st.integers(0, 3)
    inner = data.draw(st.lists(side, min_size=count, max_size=count))
    left = data.draw(st.lists(side, max_size=2))
    right = data.draw(st.lists(side, max_size=2))
    a = data.draw(arrays(("float64", "int64"), (*left, *inner), small=True))
    b = data.draw(arrays(a.dtype.name, (*inner, *right), small=True))
    assert_close(
        ak.tensordot(ak.asarray(a), ak.asarray(b), axes=count), np.tensordot(a, b, count), 1e-10
    )
    order = data.draw(st.permutations(range(count)))
    axes = ([len(left) + i for i in order], [i - b.ndim for i in order])
    result = ak.tensordot(ak.asarray(a), ak.asarray(b), axes=axes)
    assert_close(result, np.tensordot(a, b, axes), 1e-10)


@given(st.data())
def test_einsum_of_any_equation(data: st.DataObject) -> None:
    extents = {c: data.draw(st.integers(0, 3)) for c in "abcde"}
    count = data.draw(st.integers(1, 4))
    letters = st.lists(st.sampled_from("abcde"), unique=True, max_size=4).map("".join)
    terms = [data.draw(letters) for _ in range(count)]
    present = sorted(set("".join(terms)))
    output = "".join(data.draw(st.permutations(present)))[: data.draw(st.integers(0, 5))]
    equation = f"{','.join(terms)}->{output}"
    xs = [data.draw(arrays("int64", tuple(extents[c] for c in t), small=True)) for t in terms]
    assert_close(ak.einsum(equation, *map(ak.asarray, xs)), np.asarray(np.einsum(equation, *xs)))


def test_a_contraction_has_a_derivative() -> None:
    a, b = ak.asarray([[1.0, 2.0], [3.0, 4.0]]), ak.asarray([[5.0], [6.0]])
    slope = ak.grad(lambda x, y: ak.einsum("ij,jk->ik", x, y).sum(), argnums=(0, 1))
    da, db = slope(a, b)
    assert da.tolist() == [[5.0, 6.0], [5.0, 6.0]]
    assert db.tolist() == [[4.0], [6.0]]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: x @ x, ShapeError, r"contracts 3 columns with 2 rows: shapes \(2, 3\) and"),
        (lambda x: x @ ak.asarray(1.0), ShapeError, "at least one axis each"),
        (lambda x: x @ ak.zeros((3, 3), dtype="int32"), DTypeError, "do not promote"),
        (lambda x: ak.zeros((2, 4, 3)) @ ak.zeros((3, 3, 4)), ShapeError, "do not broadcast"),
        (lambda x: ak.vecdot(x, x[:, :1]), ShapeError, "vectors of one length"),
        (lambda x: ak.tensordot(x, x, axes=3), ShapeError, "cannot contract 3 axes"),
        (lambda x: ak.tensordot(x, x, axes=1), ShapeError, "their extents differ"),
        (lambda x: ak.tensordot(x, x, axes=([0, 0], [0, 0])), ShapeError, "one axis twice"),
        (lambda x: ak.einsum("ij", x), OptionError, "needs '->'"),
        (lambda x: ak.einsum("ij,jk->ik", x), OptionError, "one term per operand"),
        (lambda x: ak.einsum("ii->i", x), OptionError, "no index twice"),
        (lambda x: ak.einsum("ij->k", x), OptionError, "those of the result occur"),
        (lambda x: ak.einsum("i...->i", x), OptionError, "no index twice|indices are letters"),
        (lambda x: ak.einsum("ijk->i", x), OptionError, "does not fit shape"),
        (lambda x: ak.einsum("ij,jk->ik", x, x), ShapeError, "index 'j' has extents 3, 2"),
    ],
)
def test_refusals(call: Any, error: type[Exception], text: str) -> None:
    assert_refused(call, error, text)
