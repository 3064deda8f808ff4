"""The own elementary functions: error in units of the last place, special values, large arguments.

The oracle is mpmath with 40 digits for errors, NumPy for special values. All functions of a dtype
run as one program, because building one takes longer than running it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
from accelkit_opencl.kernels.elementary import FUNCTIONS, NEAR_MOST
from accelkit_opencl.kernels.loops import element_loop
from accelkit_opencl.kernels.polynomials import horner
from accelkit_opencl.kernels.powers import constant_power
from accelkit_opencl.runtime import Runtime

import accelkit as ak

COUNT = 600  # samples of each range
DTYPES = (np.float32, np.float64)
SPECIAL = (
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.0,
    -2.0,
    3.0,
    -3.0,
    2.5,
    1e30,
)


@dataclass(frozen=True)
class Range:
    """Samples between two numbers, evenly spread or by their logarithm, then with both signs."""

    low: float
    high: float
    logarithmic: bool = False

    def draw(self, rng: np.random.Generator, dtype: type) -> np.ndarray:
        if not self.logarithmic:
            return rng.uniform(self.low, self.high, COUNT).astype(dtype)
        drawn = np.exp(rng.uniform(np.log(self.low), np.log(self.high), COUNT))
        return drawn.astype(dtype)


def both(low: float, high: float) -> tuple[Range, ...]:
    return (Range(low, high), Range(-high, -low))


SMALL = (Range(1e-6, 1.0, logarithmic=True), Range(-1.0, 1.0))


@dataclass(frozen=True)
class Function:
    """An elementary function: its largest error in ulp, and where that is tested.

    ``single`` and ``double`` hold the ranges of the two dtypes.
    """

    ulp: float
    exact: Callable[[mpmath.mpf], mpmath.mpf]
    single: tuple[Range, ...]
    double: tuple[Range, ...]
    numpy: Callable[[np.ndarray], np.ndarray]

    def ranges(self, dtype: type) -> tuple[Range, ...]:
        return self.single if dtype is np.float32 else self.double


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


_ERF = np.vectorize(math.erf, otypes=[np.float64])
_POSITIVE = (Range(1.2e-38, 3e38, logarithmic=True), Range(0.5, 2.0))
_TURNS = (*both(0.0, 10.0), Range(-float(NEAR_MOST["f"]), float(NEAR_MOST["f"])))
_TURNS_DOUBLE = (*both(0.0, 10.0), Range(-float(NEAR_MOST["d"]), float(NEAR_MOST["d"])))
_ALL = (Range(-3.0, 3.0), Range(1e-6, 1e30, logarithmic=True))
F = mpmath
FUNCTIONS_TESTED: dict[str, Function] = {
    "exp": Function(1, F.exp, both(0, 87.3), (*both(0, 708), Range(708, 709.78)), np.exp),
    "expm1": Function(2, F.expm1, (*SMALL, *both(0, 87)), (*SMALL, *both(0, 700)), np.expm1),
    "log": Function(1, F.log, _POSITIVE, (Range(1e-307, 1e308, True), Range(0.5, 2)), np.log),
    "log1p": Function(1, F.log1p, (*SMALL, *_POSITIVE), (*SMALL, *_POSITIVE), np.log1p),
    "tanh": Function(2.5, F.tanh, (*SMALL, *both(0, 12)), (*SMALL, *both(0, 25)), np.tanh),
    "sigmoid": Function(2.5, lambda x: 1 / (1 + F.exp(-x)), both(0, 87), both(0, 700), _sigmoid),
    "sinh": Function(2.5, F.sinh, (*SMALL, *both(0, 89.4)), (*SMALL, *both(0, 710.4)), np.sinh),
    "cosh": Function(1.5, F.cosh, (*SMALL, *both(0, 89.4)), (*SMALL, *both(0, 710.4)), np.cosh),
    "asinh": Function(2, F.asinh, (*SMALL, *_ALL), (*SMALL, *_ALL), np.arcsinh),
    "acosh": Function(2.5, F.acosh, (Range(1, 2), Range(1, 1e38, True)),
                      (Range(1, 2), Range(1, 1e308, True)), np.arccosh),
    "atanh": Function(2.5, F.atanh, SMALL, SMALL, np.arctanh),
    "atan": Function(2, F.atan, (*SMALL, *_ALL), (*SMALL, *_ALL), np.arctan),
    "asin": Function(2.5, F.asin, SMALL, SMALL, np.arcsin),
    "acos": Function(1.5, F.acos, SMALL, SMALL, np.arccos),
    "sin": Function(3, F.sin, _TURNS, _TURNS_DOUBLE, np.sin),
    "cos": Function(3, F.cos, _TURNS, _TURNS_DOUBLE, np.cos),
    "tan": Function(4.5, F.tan, _TURNS, _TURNS_DOUBLE, np.tan),
    "erf": Function(2, F.erf, (*SMALL, *both(0, 5)), (*SMALL, *both(0, 7)), _ERF),
    "sqrt": Function(0.5, F.sqrt, _POSITIVE, _POSITIVE, np.sqrt),
}  # fmt: skip


def public(name: str) -> Callable[[ak.Tensor], ak.Tensor]:
    function: Callable[[ak.Tensor], ak.Tensor] = getattr(ak, name)
    return function


@dataclass(frozen=True)
class Results:
    """Arguments and results of all functions in one dtype, by name."""

    dtype: type
    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray]
    special: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=DTYPES, ids=lambda d: d.__name__)
def results(request: pytest.FixtureRequest, runtime: Runtime) -> Results:
    dtype = request.param
    rng = np.random.default_rng(5)
    x = {
        name: np.concatenate([r.draw(rng, dtype) for r in function.ranges(dtype)])
        for name, function in FUNCTIONS_TESTED.items()
    }
    device = str(runtime.device)

    def everything(x: dict[str, ak.Tensor], special: ak.Tensor) -> tuple[dict, dict]:
        found = {name: public(name)(tensor) for name, tensor in x.items()}
        return found, {name: public(name)(special) for name in x}

    tensors = {name: ak.asarray(array, device=device) for name, array in x.items()}
    special = ak.asarray(np.array(SPECIAL, dtype), device=device)
    found, at_special = ak.jit(everything)(tensors, special)
    return Results(
        dtype,
        x,
        {name: tensor.numpy() for name, tensor in found.items()},
        {name: tensor.numpy() for name, tensor in at_special.items()},
    )


def errors(found: np.ndarray, exact: list[mpmath.mpf]) -> Iterator[float]:
    """Distances in units of the last place of the exact results, where these are normal."""
    tiny = np.finfo(found.dtype).tiny
    for y, wanted in zip(found, exact, strict=True):
        if abs(wanted) < tiny:
            yield 0.0 if abs(y) <= 2 * tiny else float("inf")
            continue
        unit = np.spacing(np.abs(found.dtype.type(float(wanted))))
        yield float(abs(mpmath.mpf(float(y)) - wanted) / mpmath.mpf(float(unit)))


@pytest.mark.parametrize("name", FUNCTIONS_TESTED)
def test_error_in_units_of_the_last_place(name: str, results: Results) -> None:
    function, x = FUNCTIONS_TESTED[name], results.x[name]
    with mpmath.workdps(40):
        exact = [function.exact(mpmath.mpf(float(value))) for value in x]
        worst, at = max(zip(errors(results.y[name], exact), x.tolist(), strict=True))
    assert worst <= function.ulp, f"{worst:.2f} ulp at {at!r}"


@pytest.mark.parametrize("name", FUNCTIONS_TESTED)
@np.errstate(all="ignore")
def test_special_values(name: str, results: Results) -> None:
    """NaN, infinities and signed zeros as in C99, Annex F."""
    wanted = FUNCTIONS_TESTED[name].numpy(np.array(SPECIAL, results.dtype)).astype(results.dtype)
    found = results.special[name]
    rounding = 8 * float(np.finfo(results.dtype).eps)
    np.testing.assert_allclose(found, wanted, rtol=rounding, atol=0 if name != "tan" else 1e-6)
    zero = wanted == 0
    np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(wanted[zero]))


def test_every_function_of_one_argument_is_tested() -> None:
    kernels = {"arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "arctan": "atan",
               "arcsin": "asin", "arccos": "acos"}  # fmt: skip
    parts = ("core", "half", "quarter", "quadrant", "near", "far", "nonpositive", "normal",
             "ratio", "error", "add_product", "rest_of_multiple")  # fmt: skip
    whole = {n[:-2] for n in FUNCTIONS if not n[:-2].endswith(parts)}
    binary = {"power", "power_small", "power_medium", "arctan2", "remainder", "floor_divide"}
    assert {kernels.get(name, name) for name in whole - binary} <= set(FUNCTIONS_TESTED)


def on_device(runtime: Runtime, function: Callable[..., ak.Tensor], *x: np.ndarray) -> np.ndarray:
    device = str(runtime.device)
    found: np.ndarray = ak.jit(function)(*(ak.asarray(a, device=device) for a in x)).numpy()
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_power(runtime: Runtime, dtype: type) -> None:
    """Where y log x is large, an error of log x shows that many times."""
    rng = np.random.default_rng(6)
    most = float(np.log(np.finfo(dtype).max)) - 0.1
    x = np.concatenate([np.exp(rng.uniform(-80, 80, 2 * COUNT)), rng.uniform(0.5, 2, 2 * COUNT)])
    x = np.concatenate([x, 1 + rng.uniform(-1e-3, 1e-3, 2 * COUNT)]).astype(dtype)
    y = rng.uniform(-most, most, x.size) / np.log(x.astype(np.float64))
    y[::3] = rng.uniform(-8, 8, y[::3].size)
    kept = np.isfinite(y) & (np.abs(y * np.log(x.astype(np.float64))) < most)
    x, y = x[kept], y[kept].astype(dtype)
    found = on_device(runtime, ak.pow, x, y)
    with mpmath.workdps(40):
        exact = [mpmath.mpf(float(a)) ** mpmath.mpf(float(b)) for a, b in zip(x, y, strict=True)]
        worst, at = max(zip(errors(found, exact), zip(x, y, strict=True), strict=True))
    assert worst <= 1.5, f"{worst:.2f} ulp at {at!r}"


@pytest.mark.parametrize("exponent", [None, 1.7, 11.3, 3.0])
@np.errstate(all="ignore")
def test_few_special_arguments_of_powers_among_many(
    runtime: Runtime, exponent: float | None
) -> None:
    """Blocks of positive normal numbers take the short form, others the general one."""
    rng = np.random.default_rng(17)
    x = np.exp(rng.uniform(-5, 5, 2000)).astype(np.float32)
    y = rng.uniform(-8, 8, x.size).astype(np.float32) if exponent is None else np.full_like(x, 1)
    tiny = np.finfo(np.float32).tiny
    x[600 : 600 + len(SPECIAL)] = SPECIAL
    x[1000:1004] = tiny, np.nextafter(tiny, np.float32(0)), np.finfo(np.float32).max, 1.0
    x[1999] = -2.0
    if exponent is None:
        y[1300 : 1300 + len(SPECIAL)], y[1600] = SPECIAL, 1e13
        found, wanted = on_device(runtime, ak.pow, x, y), np.power(x.astype(np.float64), y)
    else:
        found = on_device(runtime, lambda x: ak.pow(x, exponent), x)
        wanted = np.power(x.astype(np.float64), np.float32(exponent))
    wanted = wanted.astype(np.float32)
    small = np.abs(wanted) < tiny
    np.testing.assert_allclose(found[~small], wanted[~small], rtol=1e-6)
    assert (np.abs(found[small]) <= tiny).all()


# With forms of their own, within the short form's bounds, beyond them.
EXPONENTS = (
    0.5,
    -1.0,
    2.0,
    3.0,
    -0.5,
    0.1,
    0.75,
    -0.75,
    1.7,
    1.999,
    -1.999,
    1e-30,
    2.5,
    -3.0,
    11.3,
    -2.0,
    4.0,
    -15.9,
    100.3,
)
# Largest errors in ulp, on processors without a fused multiply-add too.
MEDIUM = {-2.0: 1.4, 4.0: 1.4, 11.3: 1.4, -15.9: 1.5, 31.9: 1.8, -45.6: 2.7, 57.3: 2.7, 64.0: 2.7}


@pytest.mark.parametrize("dtype", DTYPES)
@np.errstate(all="ignore")
def test_constant_exponents(runtime: Runtime, dtype: type) -> None:
    """Known exponents have shorter forms: as exact, at the ends of the range as well."""
    rng = np.random.default_rng(16)
    info, device = np.finfo(dtype), str(runtime.device)
    most = float(np.log(info.max))
    x = [np.exp(rng.uniform(-most, most, COUNT // 4)), rng.uniform(0.5, 2, COUNT // 4)]
    x += [rng.uniform(0.999, 1.001, 32), np.array(SPECIAL)]
    tiny = [info.tiny / 8, info.smallest_subnormal, -info.tiny / 8, info.max, -info.max]
    x = np.concatenate([*x, tiny]).astype(dtype)
    functions = ak.jit(lambda x: [ak.pow(x, y) for y in EXPONENTS])
    found = [tensor.numpy() for tensor in functions(ak.asarray(x, device=device))]
    for exponent, powers in zip(EXPONENTS, found, strict=True):
        y = dtype(exponent)
        wanted = np.vectorize(_c_power, otypes=[dtype])(x, y)
        with mpmath.workdps(40):
            exact = [mpmath.mpf(float(a)) ** mpmath.mpf(float(y)) for a in x[: COUNT // 2 + 32]]
        normal = np.isfinite(wanted[: len(exact)])
        exact = [e for e, kept in zip(exact, normal, strict=True) if kept]
        assert max(errors(powers[: len(normal)][normal], exact)) <= 1.5, exponent
        wanted[np.abs(wanted) < info.tiny] = powers[np.abs(wanted) < info.tiny]  # zero, or not
        np.testing.assert_allclose(powers, wanted, rtol=8 * float(info.eps), err_msg=str(exponent))


def _c_power(x: float, y: float) -> float:
    """As C99, Annex F: NumPy takes a square root for 0.5, of which -0 and -inf are no powers."""
    infinite = math.copysign(math.inf, x) if y % 2 == 1 else math.inf
    try:
        return math.pow(x, y)
    except OverflowError:
        return infinite
    except ValueError:
        return infinite if x == 0 else math.nan


@np.errstate(over="ignore", under="ignore")
def test_errors_of_constant_exponents_of_medium_size(runtime: Runtime) -> None:
    """Up to the ends of the range; the bounds grow with the exponent."""
    rng = np.random.default_rng(19)
    info, device = np.finfo(np.float32), str(runtime.device)
    ends = 1 + 1e-4 * rng.uniform(-1, 1, 64)  # of the results, relative
    xs = []
    for y in MEDIUM:
        least, most = sorted(float(np.log(end)) / y for end in (info.tiny, info.max))
        x = [np.exp(rng.uniform(least, most, 4096)), rng.uniform(np.exp(-0.4), np.exp(0.35), 4096)]
        x += [(ends * float(end)) ** (1 / y) for end in (info.tiny, info.max)]
        xs.append(np.concatenate(x).astype(np.float32))
    functions = ak.jit(lambda xs: [ak.pow(x, y) for x, y in zip(xs, MEDIUM, strict=True)])
    found = functions([ak.asarray(x, device=device) for x in xs])
    for x, (y, bound), tensor in zip(xs, MEDIUM.items(), found, strict=True):
        powers, exact = tensor.numpy(), x.astype(np.float64) ** np.float32(y)
        inner = (exact > 1.00002 * info.tiny) & (exact < 0.99998 * info.max)
        unit = np.spacing(exact[inner].astype(np.float32)).astype(np.float64)
        assert np.max(np.abs(powers[inner] - exact[inner]) / unit) <= bound, y
        assert (powers[exact > 1.00002 * info.max] == np.inf).all(), y
        assert (powers[exact < 0.9999 * info.tiny] == 0).all(), y


def test_the_short_form_of_powers_is_used_where_it_is_exact_enough() -> None:
    names = {y: constant_power("x", y, "y", "f") for y in (*EXPONENTS, *MEDIUM)}
    short = {y for y, name in names.items() if name.startswith("ak_power_small_f(")}
    assert short == {-0.5, 0.1, 0.75, -0.75, 1.7, 1.999, -1.999, 1e-30}
    medium = {y for y, name in names.items() if name.startswith("ak_power_medium_f(")}
    assert medium == {*MEDIUM, 2.5, -3.0}
    assert names[100.3] == "ak_power_f(x, y)"
    assert constant_power("x", 0.75, "y", "d") == "ak_power_d(x, y)"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("function", "numpy"), [(ak.pow, np.power), (ak.atan2, np.arctan2)], ids=["pow", "atan2"]
)
@np.errstate(all="ignore")
def test_special_pairs(runtime: Runtime, dtype: type, function, numpy) -> None:
    a, b = (grid.ravel() for grid in np.meshgrid(*[np.array(SPECIAL, dtype)] * 2))
    found, wanted = on_device(runtime, function, a, b), numpy(a, b)
    np.testing.assert_allclose(found, wanted, rtol=8 * float(np.finfo(dtype).eps), atol=0)
    zero = wanted == 0
    np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(wanted[zero]))


@pytest.mark.parametrize("scale", [None, "c"])
def test_a_long_polynomial_is_that_of_even_and_that_of_odd_powers(scale: str | None) -> None:
    coefficients = tuple(float(3 * k % 7 - 3) for k in range(24))
    expression = horner(coefficients, "x", scale)
    assert expression.count("(x * x)") == 22  # two chains of 11, not one of 23
    value = eval(expression, {"x": 3, "c": 2})
    assert value == (2 if scale else 1) * sum(c * 3**k for k, c in enumerate(coefficients))
    assert "(x * x)" not in horner(coefficients[:16], "x", scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arctan2(runtime: Runtime, dtype: type) -> None:
    rng = np.random.default_rng(7)
    y, x = (np.exp(rng.uniform(-12, 12, 1000)) * rng.choice([-1, 1], 1000) for _ in range(2))
    y, x = y.astype(dtype), x.astype(dtype)
    found = on_device(runtime, ak.atan2, y, x)
    with mpmath.workdps(40):
        pairs = zip(y, x, strict=True)
        exact = [mpmath.atan2(mpmath.mpf(float(a)), mpmath.mpf(float(b))) for a, b in pairs]
        assert max(errors(found, exact)) <= 2.5
    huge = np.array([np.finfo(dtype).max], dtype)
    np.testing.assert_allclose(on_device(runtime, ak.atan2, huge, huge), np.pi / 4, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_overflows_and_vanishes(runtime: Runtime, dtype: type) -> None:
    """Results below the smallest normal number are zero."""
    info = np.finfo(dtype)
    top = dtype(mpmath.log(mpmath.mpf(float(info.max))))
    top = (
        top if mpmath.exp(float(top)) < mpmath.mpf(float(info.max)) else np.nextafter(top, dtype(0))
    )
    over = [np.nextafter(np.nextafter(top, info.max), info.max), dtype(2 * top), info.max]
    under = [dtype(1.01 * mpmath.log(mpmath.mpf(float(info.tiny)))), -info.max]
    found = on_device(runtime, ak.exp, np.array([top, *over, *under], dtype))
    assert np.isfinite(found[0])
    np.testing.assert_array_equal(found[1:], [np.inf] * 3 + [0.0] * 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponentials_of_what_is_not_positive(runtime: Runtime, dtype: type) -> None:
    """The form without comparisons has the other one's bits, and keeps NaN whatever its bits."""
    rng = np.random.default_rng(9)
    info, word = np.finfo(dtype), {4: np.uint32, 8: np.uint64}[dtype().itemsize]
    least = float(mpmath.log(mpmath.mpf(float(info.tiny))))
    kept = np.concatenate([rng.uniform(least + 1e-3, 0, COUNT), [0.0, -0.0, -info.tiny]])
    gone = [least - 1.0, 2 * least, -1e30, info.min, -np.inf]  # far below the smallest number
    quiet = np.array(np.nan, dtype).view(word)
    payload = np.array([quiet + 1, quiet + 511, quiet | word(1 << (8 * quiet.itemsize - 1))], word)
    x = np.concatenate([kept.astype(dtype), np.array(gone, dtype), payload.view(dtype)])
    device = str(runtime.device)
    functions = ak.jit(lambda x: (ak.exp(x), ak.exp(ak.minimum(x, 0.0))))
    wanted, found = (tensor.numpy() for tensor in functions(ak.asarray(x, device=device)))
    np.testing.assert_array_equal(found[: kept.size], wanted[: kept.size])
    np.testing.assert_array_equal(found[kept.size : -payload.size], [0.0] * len(gone))
    assert np.isnan(found[-payload.size :]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_arguments_of_periodic_functions(runtime: Runtime, dtype: type) -> None:
    """Few large arguments, NaN and infinities among many small ones, also inside of a chain."""
    rng = np.random.default_rng(8)
    x = rng.uniform(-100, 100, 5000).astype(dtype)
    x[700:720] = np.exp(rng.uniform(9, 80, 20))
    x[4999], x[1300], x[1301] = 0.9 * np.finfo(dtype).max, np.nan, np.inf

    def chain(x: ak.Tensor) -> ak.Tensor:
        return ak.sin(x * 0.5) + ak.cos(ak.tan(x) * 2.0)

    for name in ("sin", "cos", "tan"):
        found = on_device(runtime, public(name), x)
        np.testing.assert_array_equal(np.isnan(found), ~np.isfinite(x))
        with mpmath.workdps(360):
            exact = [FUNCTIONS_TESTED[name].exact(mpmath.mpf(float(v))) for v in x[690:740]]
            exact.append(FUNCTIONS_TESTED[name].exact(mpmath.mpf(float(x[4999]))))
            assert max(errors(np.append(found[690:740], found[4999]), exact)) <= 4.5, name
    finite = np.abs(x) < 100
    wide = x[finite].astype(np.float64)
    wanted = np.sin(wide * 0.5) + np.cos(np.tan(wide) * 2.0)
    scale = np.finfo(dtype).eps * (1.0 + np.tan(wide) ** 2) * 100.0  # condition of the tangent
    assert np.all(np.abs(on_device(runtime, chain, x)[finite] - wanted) <= 8 * scale)


def test_large_arguments_do_not_disturb_what_is_computed_in_place(runtime: Runtime) -> None:
    x = np.array([1.0, 1e8, 3.0] * 300, np.float32)
    jitted = ak.jit(lambda x: ak.sin(x) + 1.0, donate_argnums=(0,))
    found = jitted(ak.asarray(x, device=str(runtime.device))).numpy()
    np.testing.assert_allclose(found, np.sin(x.astype(np.float64)) + 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("expression", "looked_at"),
    [("x * x + 1", True), ("ak_sqrt_f(x)", True), ("ak_exp_f(x)", False), ("ak_sin_f(x)", True)],
)
def test_arguments_are_looked_at_unless_they_take_long(expression: str, looked_at: bool) -> None:
    lines = ["const float x = p[o + k];", f"const float u = {expression};"]
    lines.append("const float v = ak_power_f(u, x);")
    loop = element_loop(lines, "w[k] = v;\n", ("start", "end"), "int", strided=False)
    assert ("far |= ak_power_far_f(u, x);" in loop) == looked_at
    assert ("= ak_power_near_f(u, x);" in loop) == looked_at
    assert "= ak_power_f(u, x);" in loop


@pytest.mark.parametrize(
    ("expression", "ahead", "beside"),
    [
        ("x < 0 ? 0 : x", False, False),
        ("ak_sqrt_f(x)", False, False),
        ("ak_exp_f(x)", True, False),
        ("ak_sin_f(x)", True, False),
        ("ak_erf_f(x)", True, True),
        ("ak_power_small_f(x, y)", True, True),
        ("ak_power_medium_f(x, y)", True, True),
        ("ak_power_f(x, y)", True, True),
    ],
)
def test_loops_with_much_to_compute_ask_for_memory_ahead(
    expression: str, ahead: bool, beside: bool
) -> None:
    lines = ["const float x = p[o + k];", f"const float v = {expression};"]
    streams = [("p + o", 4)]
    loop = element_loop(
        lines, "w[k] = v;\n", ("start", "end"), "int", strided=False, streams=streams
    )
    assert ("for (int k = 0; k < 256; k += 16) FETCH(p + o + block + 1024 + k);" in loop) == ahead
    assert ("block += 256" in loop) == ahead
    assert ("interleave_count(4)" in loop) == beside  # several chains of operations at a time
