"""The own elementary functions: error in units of the last place, special values, large arguments.

The oracle is mpmath with 40 digits for errors, NumPy for special values. All functions of a dtype
run as one program, because building one takes longer than running it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
from accelkit_opencl.kernels.elementary import FUNCTIONS, NEAR_MOST
from accelkit_opencl.kernels.loops import element_loop
from accelkit_opencl.kernels.polynomials import horner
from accelkit_opencl.runtime import Runtime
from backends.last_places import COUNT, DTYPES, SPECIAL, errors, on_device

import accelkit as ak


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
