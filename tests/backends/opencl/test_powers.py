"""Powers: their error in units of the last place, and special values, in each of their forms.

The oracle is mpmath with 40 digits for errors, NumPy or C for special values.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from accelkit_opencl.kernels.powers import constant_power
from accelkit_opencl.runtime import Runtime
from backends.last_places import COUNT, DTYPES, SPECIAL, errors, on_device

import accelkit as ak


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
