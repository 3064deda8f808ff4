"""Elementwise functions and type promotion against NumPy and the Array API standard."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from core.arrays import ALL, FLOATS, INTEGERS, NUMBERS, SIGNED, arrays, assert_close, assert_same
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import accelkit as ak
from accelkit.errors import DTypeError, OptionError, ShapeError

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, on 1 / 0

ARITHMETIC = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
}
COMPARISONS = {
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}
BITS = {
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "bitwise_left_shift": operator.lshift,
    "bitwise_right_shift": operator.rshift,
}
LOGIC = ("logical_and", "logical_or", "logical_xor")
EXACT_UNARY = ("floor", "ceil", "round", "trunc", "abs", "negative", "sign", "square", "positive")
CLOSE_UNARY = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "reciprocal",
]
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 0.5, -2.5, 1.5, 3.0, -1e-3, 1e20]


def pairs(dtypes: tuple[str, ...]) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Two arrays of one dtype whose shapes broadcast."""
    return st.sampled_from(dtypes).flatmap(
        lambda dtype: npst.mutually_broadcastable_shapes(
            num_shapes=2, min_side=0, max_side=3, max_dims=3
        ).flatmap(lambda found: st.tuples(*(arrays(dtype, shape) for shape in found.input_shapes)))
    )


@pytest.mark.parametrize("name", [*ARITHMETIC, *COMPARISONS])
@given(data=st.data())
def test_arithmetic_and_comparisons_broadcast_as_numpy(name: str, data: st.DataObject) -> None:
    a, b = data.draw(pairs(FLOATS if name == "divide" else NUMBERS))
    if name in ("floor_divide", "remainder") and a.dtype.kind in "iu":
        assume((b != 0).all())
        assume(a.dtype.kind == "u" or (b != -1).all())  # the smallest number by -1 overflows
    operate = {**ARITHMETIC, **COMPARISONS}[name]
    expected = operate(a, b)
    assert_same(operate(ak.asarray(a), ak.asarray(b)), expected)
    assert_same(getattr(ak, name)(ak.asarray(a), ak.asarray(b)), expected)


@pytest.mark.parametrize("name", BITS)
@given(data=st.data())
def test_bits(name: str, data: st.DataObject) -> None:
    shift = "shift" in name
    a, b = data.draw(pairs(INTEGERS if shift else (*INTEGERS, "bool")))
    if shift:
        b = (b.astype(np.uint64) % np.uint64(b.dtype.itemsize * 8)).astype(b.dtype)
    assert_same(BITS[name](ak.asarray(a), ak.asarray(b)), BITS[name](a, b))


@pytest.mark.parametrize("name", LOGIC)
@given(operands=pairs(("bool",)))
def test_logic(name: str, operands: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = operands
    assert_same(getattr(ak, name)(ak.asarray(a), ak.asarray(b)), getattr(np, name)(a, b))


@pytest.mark.parametrize("name", ["maximum", "minimum", "copysign", "hypot", "atan2", "logaddexp"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_two_floats_at_every_special_value(name: str, dtype: str) -> None:
    values = np.array(SPECIAL, dtype)
    a, b = (m.reshape(-1) for m in np.meshgrid(values, values))
    if name == "copysign":  # the sign of a NaN is no part of the contract
        a, b = a[~np.isnan(b)], b[~np.isnan(b)]
    result = getattr(ak, name)(ak.asarray(a), ak.asarray(b))
    expected = getattr(np, {"atan2": "arctan2"}.get(name, name))(a, b)
    if name in ("maximum", "minimum"):  # which zero wins is not said
        result, expected = result + 0.0, expected + 0.0
    # Not one unit in the last place over all: 1e20 and 1 stand in one array.
    for i in range(len(a)):
        assert_close(result[i], expected[i], 4e-7 if dtype == "float32" else 1e-15)


@pytest.mark.parametrize("name", EXACT_UNARY)
@given(x=arrays(NUMBERS))
def test_exact_functions_of_one_operand(name: str, x: np.ndarray) -> None:
    functions = {"round": np.rint}
    if x.dtype.kind in "iu" and name in ("floor", "ceil", "round", "trunc"):
        expected = x
    else:
        expected = functions.get(name, getattr(np, name))(x)
    assert_same(getattr(ak, name)(ak.asarray(x)), expected)


@pytest.mark.parametrize("name", CLOSE_UNARY)
@pytest.mark.parametrize("dtype", FLOATS)
def test_transcendental_functions(name: str, dtype: str) -> None:
    aliases = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
    aliases |= {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}
    for value in np.array(SPECIAL, dtype):
        expected = np.asarray(getattr(np, aliases.get(name, name))(value))
        assert_close(getattr(ak, name)(ak.asarray(value)), expected, 4e-7)


@pytest.mark.parametrize("name", ["isnan", "isinf", "isfinite"])
@given(x=arrays(ALL))
def test_classification(name: str, x: np.ndarray) -> None:
    assert_same(getattr(ak, name)(ak.asarray(x)), getattr(np, name)(x))


def test_signbit_and_logical_not() -> None:
    x = np.array([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf])
    assert_same(ak.signbit(ak.asarray(x)), np.signbit(x))
    assert_same(ak.logical_not(ak.asarray([True, False])), [False, True])
    assert_same(~ak.asarray([True, False]), [False, True])
    assert_same(~ak.asarray([0, 5]), [-1, -6])


@given(arrays(FLOATS))
def test_nextafter(x: np.ndarray) -> None:
    assume(np.abs(x)[np.isfinite(x)].min(initial=1.0) > 1e-30)  # away from subnormals
    target = np.full_like(x, math.inf)
    assert_same(ak.nextafter(ak.asarray(x), ak.asarray(target)), np.nextafter(x, target))


# --- promotion ------------------------------------------------------------------------------------

# The tables of the standard, 2024.12: type promotion.
SIGNED_TABLE = [(a, b, max(a, b, key=SIGNED.index)) for a in SIGNED for b in SIGNED]
MIXED_TABLE = [
    ("int8", "uint8", "int16"),
    ("int8", "uint16", "int32"),
    ("int8", "uint32", "int64"),
    ("int16", "uint8", "int16"),
    ("int16", "uint16", "int32"),
    ("int16", "uint32", "int64"),
    ("int32", "uint8", "int32"),
    ("int32", "uint16", "int32"),
    ("int32", "uint32", "int64"),
    ("int64", "uint8", "int64"),
    ("int64", "uint16", "int64"),
    ("int64", "uint32", "int64"),
    ("float32", "float64", "float64"),
    ("float16", "bfloat16", "float32"),
    ("bfloat16", "float32", "float32"),
    ("float16", "float64", "float64"),
    ("uint8", "uint64", "uint64"),
]


@pytest.mark.parametrize(("a", "b", "expected"), SIGNED_TABLE + MIXED_TABLE)
def test_promotion_of_tensors(a: str, b: str, expected: str) -> None:
    x, y = ak.ones(2, dtype=a), ak.ones(2, dtype=b)
    for first, second in ((x, y), (y, x)):
        assert (first + second).dtype == expected
        assert ak.result_type(first, second) == expected
        assert ak.where(ak.asarray([True, False]), first, second).dtype == expected
        assert ak.concat([first, second]).dtype == expected
        assert ak.stack([first, second]).dtype == expected
        assert (first == second).dtype == "bool"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("int64", "uint64"),
        ("int32", "float32"),
        ("bool", "int8"),
        ("bool", "float64"),
        ("uint8", "float16"),
    ],
)
def test_kinds_that_do_not_promote(a: str, b: str) -> None:
    x, y = ak.ones(2, dtype=a), ak.ones(2, dtype=b)
    for first, second in ((x, y), (y, x)):
        with pytest.raises(DTypeError, match=r"do not promote to a common dtype.*\.astype"):
            _ = first * second


@pytest.mark.parametrize("dtype", ALL)
def test_python_numbers_take_the_dtype_beside_them(dtype: str) -> None:
    x = ak.ones((2,), dtype=dtype)
    kind = ak.asarray(x).dtype.kind
    if kind in "iu":
        assert (x + 1).dtype == dtype
        assert (3 - x).tolist() == [2, 2]
        with pytest.raises(DTypeError, match=r"Python float 1.5 does not fit a tensor of dtype"):
            _ = x * 1.5
    if kind == "f":
        assert (x + 1).dtype == dtype
        assert (1 / (x + x)).dtype == dtype
        assert (x * 0.5).dtype == dtype
    if kind == "b":
        assert (x & True).dtype == "bool"
        assert (x == True).tolist() == [True, True]  # noqa: E712 - the comparison is the point
        with pytest.raises(DTypeError, match="Python int 1 does not fit"):
            _ = x | 1
    else:
        with pytest.raises(DTypeError, match="Python bool True does not fit"):
            _ = x + True
    with pytest.raises(TypeError):
        _ = x + "1"
    with pytest.raises(DTypeError, match="Expected a Tensor or a Python number, got str"):
        ak.add(x, "1")


@pytest.mark.parametrize(
    ("dtype", "value"), [("int8", 128), ("uint8", -1), ("uint8", 256), ("int32", 2**31)]
)
def test_integers_out_of_range_are_refused(dtype: str, value: int) -> None:
    x = ak.zeros(2, dtype=dtype)
    with pytest.raises(DTypeError, match=f"{value} does not fit {dtype}, which holds"):
        _ = x + value
    with pytest.raises(DTypeError, match=f"{value} does not fit {dtype}"):
        ak.trace(lambda t: t + value, x)


def test_numpy_scalars_are_weak_too() -> None:
    x = ak.ones(2, dtype="float32")
    assert (x + np.float64(1.0)).dtype == "float32"
    assert (np.float32(2.0) * x).tolist() == [2.0, 2.0]
    assert (x * np.int64(3)).dtype == "float32"
    assert (ak.ones(2, dtype="int8") + np.int64(1)).dtype == "int8"


def test_a_numpy_array_does_not_swallow_a_tensor() -> None:
    x = ak.ones(2)
    for operate in (operator.add, operator.matmul, operator.lt):
        with pytest.raises(TypeError):
            operate(np.ones(2), x)
        with pytest.raises(TypeError):
            operate(x, np.ones(2))
    with pytest.raises(TypeError):
        np.sin(x)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("call", "needed"),
    [
        (
            lambda b, i, f: ak.add(b, b),
            "add needs a signed integer or unsigned integer or floating",
        ),
        (lambda b, i, f: ak.less(b, b), "less needs"),
        (lambda b, i, f: ak.maximum(b, b), "maximum needs"),
        (lambda b, i, f: ak.divide(i, i), "divide needs a floating dtype, got int64"),
        (lambda b, i, f: ak.atan2(i, i), "arctan2 needs a floating"),
        (lambda b, i, f: ak.hypot(i, i), "hypot needs a floating"),
        (lambda b, i, f: ak.logaddexp(i, i), "logaddexp needs a floating"),
        (lambda b, i, f: ak.copysign(i, i), "copysign needs a floating"),
        (lambda b, i, f: ak.sqrt(i), "sqrt needs a floating tensor, got int64"),
        (lambda b, i, f: ak.floor(b), "floor needs"),
        (lambda b, i, f: ak.abs(b), "absolute needs"),
        (lambda b, i, f: ak.negative(b), "negative needs"),
        (lambda b, i, f: ak.logical_not(i), "logical_not needs a bool dtype, got int64"),
        (lambda b, i, f: ak.logical_and(i, i), "logical_and needs a bool"),
        (lambda b, i, f: ak.bitwise_and(f, f), "bitwise_and needs"),
        (lambda b, i, f: ak.bitwise_left_shift(b, b), "shift_left needs"),
        (lambda b, i, f: ~f, "bitwise_not needs"),
        (lambda b, i, f: ak.relu(i), "relu needs a floating"),
        (lambda b, i, f: b @ b, "matmul needs numbers"),
        (lambda b, i, f: ak.where(i, f, f), "where needs a bool condition, got int64"),
    ],
)
def test_kinds_are_checked_eagerly_as_in_a_trace(call: object, needed: str) -> None:
    operands = ak.asarray([True, False]), ak.asarray([1, 2]), ak.asarray([1.0, 2.0])
    with pytest.raises(DTypeError, match=needed):
        call(*operands)  # type: ignore[operator]
    with pytest.raises(DTypeError, match=needed):
        ak.trace(call, *operands)


def test_shapes_that_do_not_broadcast_name_both() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(4,\) do not broadcast: axis -1"):
        _ = ak.zeros((2, 3)) + ak.zeros(4)


# --- powers ---------------------------------------------------------------------------------------


@given(arrays(INTEGERS), st.integers(0, 9))
def test_integer_powers_wrap_around(x: np.ndarray, exponent: int) -> None:
    expected = np.power(x, np.array(exponent, x.dtype))
    assert_same(ak.asarray(x) ** exponent, expected)
    assert_same(ak.asarray(x) ** ak.asarray(np.array(exponent, x.dtype)), expected)


@given(arrays(FLOATS, small=True), st.sampled_from([0, 1, 2, 3, 4, 0.5, 1.0, 2.0, -1, -2.0]))
def test_float_powers(x: np.ndarray, exponent: float) -> None:
    expected = np.power(x, x.dtype.type(exponent))
    assert_close(ak.asarray(x) ** exponent, expected, 1e-6)


def test_the_power_of_a_half_is_no_square_root() -> None:
    """IEEE 754-2008, section 9.2.1; NumPy takes a square root where the exponent is one number."""
    x, half = ak.asarray([-np.inf, -0.0, -1.0, 4.0]), ak.asarray([0.5])
    for power in (lambda x: x**0.5, ak.jit(lambda x: x**0.5), lambda x: x**half):
        assert_same(power(x), np.array([np.inf, 0.0, np.nan, 2.0], np.float32))


def test_powers_with_a_number_as_base() -> None:
    assert (2 ** ak.asarray([0, 1, 10])).tolist() == [1, 2, 1024]
    assert (2.0 ** ak.asarray([0.0, 1.0, 3.0])).tolist() == [1.0, 2.0, 8.0]


def test_negative_powers_of_integers_are_refused() -> None:
    with pytest.raises(OptionError, match="An integer tensor has no power -2"):
        _ = ak.asarray([1, 2]) ** -2


def test_the_derivative_of_a_power() -> None:
    x = ak.asarray([-2.0, 0.0, 3.0])
    for n in (1, 2, 3, 5):
        expected = [n * float(v) ** (n - 1) for v in x.tolist()]
        assert ak.grad(lambda t, n=n: (t**n).sum())(x).tolist() == pytest.approx(expected)


# --- selection, signed zeros ----------------------------------------------------------------------


@given(data=st.data(), equal_nan=st.booleans())
def test_what_is_close(data: st.DataObject, equal_nan: bool) -> None:
    a, b = data.draw(pairs(("float64", "int32", "bool")))
    if data.draw(st.booleans()) and a.dtype.kind == "f":
        b = a * (1.0 + data.draw(st.sampled_from([0.0, 1e-6, -1e-4, 1e-3])))
    options = {"rtol": data.draw(st.sampled_from([0.0, 1e-5, 1e-2])), "equal_nan": equal_nan}
    found = ak.isclose(ak.asarray(a), ak.asarray(b), **options)
    assert_same(found, np.isclose(a, b, **options))
    assert_same(ak.allclose(ak.asarray(a), ak.asarray(b), **options), np.allclose(a, b, **options))


def test_where_and_clip() -> None:
    x = np.array([-2.0, -0.0, 0.5, math.nan, 9.0], "float32")
    t = ak.asarray(x)
    assert_same(ak.clip(t, -1.0, 1.0), np.clip(x, -1, 1))
    low = np.full((2, 1), 0.25, "float32")
    assert_same(ak.clip(t, min=ak.asarray(low)), np.clip(x, low, None))
    assert_same(ak.clip(t), x)
    assert_same(ak.where(t > 0.0, t, 0.0), np.where(x > 0, x, np.float32(0)))
    assert_same(ak.where(t > 0.0, 1, 2), np.where(x > 0, 1, 2))
    assert_same(ak.where(ak.asarray(True), ak.zeros((2, 1)), ak.ones(3)), np.zeros((2, 3), "f4"))


def test_scalars_keep_the_sign_of_zero() -> None:
    x = ak.asarray([1.0, -1.0])
    for _ in range(2):  # the second time from the cache
        assert_same(x * 0.0, np.array([0.0, -0.0], "float32"))
        assert_same(x * -0.0, np.array([-0.0, 0.0], "float32"))
        assert_same(ak.where(x > 0.0, -0.0, 0.0), np.array([-0.0, 0.0], "float32"))
    both = ak.jit(lambda t: (t * 0.0, t * -0.0))(x)
    assert_same(both[0], np.array([0.0, -0.0], "float32"))
    assert_same(both[1], np.array([-0.0, 0.0], "float32"))
