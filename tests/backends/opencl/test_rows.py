"""Normalisations of rows: one kernel each, whatever the shape, and the right numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from accelkit_opencl.runtime import Runtime

import accelkit as ak
from accelkit.primitives.shaping import iota


def compiled(runtime: Runtime, function: Callable, *arrays: np.ndarray):
    """Sources of the kernels of a function, and its results as NumPy arrays."""
    jitted = ak.jit(function)
    found = jitted(*(ak.asarray(a, device=str(runtime.device)) for a in arrays))
    (program,) = jitted._programs.values()
    results = found if isinstance(found, tuple) else (found,)
    sources = [launch.source for launch in program.executable.program.plan.launches]
    return sources, [result.numpy() for result in results]


def matrix(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x: ak.Tensor, scale: ak.Tensor, bias: ak.Tensor) -> ak.Tensor:
    centred = x - ak.mean(x, axis=-1, keepdims=True)
    var = ak.mean(centred * centred, axis=-1, keepdims=True)
    return centred * ak.rsqrt(var + 1e-5) * scale + bias


@pytest.mark.parametrize(
    "shape", [(3, 2), (5, 17), (40, 64), (7, 1000), (2, 3, 130), (4, 2, 2, 65), (3, 9000)]
)
def test_softmax_is_one_kernel(runtime: Runtime, shape: tuple[int, ...]) -> None:
    x = 10 * matrix(*shape)
    sources, (found,) = compiled(runtime, lambda x: ak.softmax(x, axis=-1), x)
    assert [source.name.partition("_")[0] for source in sources] == ["rowwise"]
    assert sources[0].arguments == ("a0", "a1", "scratch")
    ahead = -(-8192 // (4 * shape[-1]))  # a row to come, while this one is computed
    assert f"FETCH(a0 + (row + {ahead}) * {shape[-1]} + k)" in sources[0].source
    assert "sum[" not in sources[0].source  # a row is one block: no partial results
    # The sum is taken where the exponentials are computed: side by side, and what is left over.
    exponentials = sources[0].source.count("= ak_exp_nonpositive_f(")
    assert exponentials == (2 if shape[-1] >= 16 else 1)
    np.testing.assert_allclose(found, softmax(x), rtol=3e-6, atol=1e-8)


def test_layer_norm_is_one_kernel(runtime: Runtime) -> None:
    x, scale, bias = matrix(33, 200), matrix(200, seed=1), matrix(200, seed=2)
    sources, (found,) = compiled(runtime, layer_norm, x, scale, bias)
    assert [source.name.partition("_")[0] for source in sources] == ["rowwise"]
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    wanted = centred / np.sqrt(wide.var(axis=-1, keepdims=True) + 1e-5) * scale + bias
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("columns", [5, 17, 64, 1000])
def test_cross_entropy_goes_through_its_rows_twice(
    runtime: Runtime, columns: int, smoothing: float
) -> None:
    """For the maximum, and for all sums about it; the label's logit is read where it is."""
    logits = 5 * matrix(50, columns)
    labels = (np.arange(50, dtype=np.int64) * 7) % columns
    sources, (found,) = compiled(
        runtime,
        lambda x, y: ak.softmax_cross_entropy(x, y, label_smoothing=smoothing),
        logits,
        labels,
    )
    assert len(sources) == 1
    if columns >= 16:
        assert sources[0].arguments == ("a0", "a1", "a2")  # nothing is stored on the way
        loops = sources[0].source.count("for (; k0 + ")
        assert loops == 3  # the one for the maximum a second time, for rows that may hold NaN
        assert sources[0].source.count("FETCH(a0") == 1
    probabilities = softmax(logits)
    target = np.full(logits.shape, smoothing / columns)
    target[np.arange(50), labels] += 1 - smoothing
    wanted = -(target * np.log(probabilities)).sum(axis=-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_labels_that_are_no_columns(runtime: Runtime) -> None:
    logits = matrix(6, 40)
    logits[2, 30], logits[3, 1] = -np.inf, np.nan
    labels = np.array([-1, 40, 5, 5, 39, 2**31 - 1], np.int32)
    _, (found,) = compiled(runtime, ak.softmax_cross_entropy, logits, labels)
    assert np.isfinite(found[[0, 1, 2, 4, 5]]).all()
    assert np.isnan(found[3])


@pytest.mark.parametrize(
    ("other", "shift", "reversed_", "recognised"),
    [
        (0.0, 0, False, True),
        (0.0, 0, True, True),
        (1.0, 0, False, False),
        (0.0, 1, False, False),
    ],
)
def test_one_column_of_each_row(
    runtime: Runtime, other: float, shift: int, reversed_: bool, recognised: bool
) -> None:
    """A sum of a choice by the column's number reads that column; what resembles one does not."""
    x, labels = matrix(9, 33), (np.arange(9, dtype=np.int32) * 5) % 33

    def function(x: ak.Tensor, labels: ak.Tensor) -> ak.Tensor:
        columns = iota(shape=(9, 33 + shift), axis=1, dtype=ak.int32)[:, shift:]
        rows = ak.broadcast_to(labels[:, None], (9, 33))
        scaled = x / ak.sum(x * x, axis=-1, keepdims=True)
        own = columns == rows if reversed_ else rows == columns
        return ak.sum(ak.where(own, scaled, other), axis=-1)

    sources, (found,) = compiled(runtime, function, x, labels)
    assert ("label >= 0" in sources[0].source) == recognised
    own = labels[:, None] == np.arange(33) + shift
    wanted = np.where(own, x / (x * x).sum(axis=-1, keepdims=True), other).sum(axis=-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_reductions_that_do_not_need_each_other_share_a_loop(runtime: Runtime) -> None:
    def function(x: ak.Tensor) -> tuple[ak.Tensor, ...]:
        high, total = ak.max(x, axis=-1), ak.sum(x * x, axis=-1)
        return high, total, ak.sum(x - high[:, None], axis=-1)

    x = matrix(12, 300)
    sources, found = compiled(runtime, function, x)
    loops = sum(source.source.count("for (; k0 + ") for source in sources)
    assert loops == 2
    high = x.max(axis=-1)
    wanted = [high, (x * x).sum(axis=-1), (x - high[:, None]).sum(axis=-1)]
    for actual, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_what_is_wanted_elsewhere_is_stored(runtime: Runtime) -> None:
    def function(x: ak.Tensor) -> tuple[ak.Tensor, ...]:
        e = ak.exp(x)
        total = ak.sum(e, axis=-1, keepdims=True)
        return e, total, e / total, ak.sum(e / total, axis=0)

    x = matrix(20, 70)
    sources, (e, total, share, columns) = compiled(runtime, function, x)
    assert sum(source.name.startswith("rowwise") for source in sources) == 1
    wide = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(e, wide, rtol=1e-6)
    np.testing.assert_allclose(total, wide.sum(axis=-1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(share, softmax(x), rtol=3e-6)
    np.testing.assert_allclose(columns, softmax(x).sum(axis=0), rtol=3e-6)


def test_nan_and_infinity_stay_in_their_rows(runtime: Runtime) -> None:
    x = matrix(4, 50)
    x[1, 7], x[2, 9] = np.nan, np.inf
    _, (found,) = compiled(runtime, lambda x: ak.softmax(x, axis=-1), x)
    assert np.isnan(found[1]).all()
    assert np.isnan(found[2]).any()
    np.testing.assert_allclose(found[[0, 3]], softmax(x[[0, 3]]), rtol=3e-6)


@pytest.mark.parametrize("columns", [12, 64, 200])
def test_extrema_heed_nan_and_infinities(runtime: Runtime, columns: int) -> None:
    """Rows with infinities of both signs have no NaN, though their sums are."""
    x = matrix(9, columns)
    x[1, 3], x[2, columns - 1] = np.nan, -np.nan
    x[3, 2], x[4, 5] = np.inf, -np.inf
    x[5, 0], x[5, 7] = np.inf, -np.inf
    x[6], x[7] = -np.inf, np.inf
    x[8, ::2], x[8, 1::2] = 3e38, -3e38  # whose sum overflows
    _, found = compiled(runtime, lambda x: (ak.max(x, axis=-1), ak.min(x, axis=-1)), x)
    np.testing.assert_array_equal(found[0], x.max(axis=-1))
    np.testing.assert_array_equal(found[1], x.min(axis=-1))


@pytest.mark.parametrize("columns", [12, 64, 200])
@np.errstate(all="ignore")
def test_special_rows_of_normalisations(runtime: Runtime, columns: int) -> None:
    """Masked columns are exact zeros; a row of nothing else, or with +inf or NaN, is NaN."""
    x = 30 * matrix(6, columns)
    x[1, ::3], x[2], x[3, 4], x[4, 5] = -np.inf, -np.inf, np.inf, np.nan
    x[5, 1:] = x[5, 0] - 1e4
    _, (shares, losses) = compiled(
        runtime,
        lambda x, y: (ak.softmax(x, axis=-1), ak.softmax_cross_entropy(x, y)),
        x,
        np.array([1, 1, 1, 1, 1, 0], np.int32),
    )
    wanted = softmax(x)
    np.testing.assert_allclose(shares[[0, 1, 5]], wanted[[0, 1, 5]], rtol=2e-5, atol=1e-37)
    assert (shares[1, ::3] == 0).all()
    np.testing.assert_array_equal(shares[5], wanted[5])
    np.testing.assert_array_equal(np.isnan(losses), [False, False, True, True, True, False])
    assert np.isnan(shares[[2, 4]]).all()
    assert np.isnan(shares[3]).any()
    np.testing.assert_array_equal(losses[5], 0.0)


def test_strided_and_broadcast_operands(runtime: Runtime) -> None:
    x, y, z = matrix(60, 24), matrix(24, 1, seed=1), matrix(60, seed=2)

    def function(x: ak.Tensor, y: ak.Tensor, z: ak.Tensor) -> ak.Tensor:
        a = x.T * 2.0 + y - z
        return (
            a - ak.max(a, axis=-1, keepdims=True) + ak.sum(a[:, ::-1] * a, axis=-1, keepdims=True)
        )

    _, (found,) = compiled(runtime, function, x, y, z)
    a = x.T * 2.0 + y - z
    wanted = a - a.max(axis=-1, keepdims=True) + (a[:, ::-1] * a).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_reads_across_rows_are_not_fused(runtime: Runtime) -> None:
    """The last step reads the sums of other rows, which other work-items compute."""

    def function(x: ak.Tensor) -> ak.Tensor:
        y = x - ak.sum(x, axis=-1, keepdims=True)
        return y + ak.flip(ak.sum(y, axis=-1), axis=0)[:, None] + ak.sum(y, axis=-1)[None, :]

    x = matrix(40, 40)
    _, (found,) = compiled(runtime, function, x)
    y = x - x.sum(axis=-1, keepdims=True)
    sums = y.sum(axis=-1)
    np.testing.assert_allclose(found, y + sums[::-1][:, None] + sums[None, :], rtol=1e-3, atol=0.05)


def test_donated_rows_are_not_overwritten_while_they_are_read(runtime: Runtime) -> None:
    x = matrix(64, 100)
    jitted = ak.jit(lambda x: (ak.softmax(x, axis=-1), x * 2.0), donate_argnums=(0,))
    found, twice = jitted(ak.asarray(x, device=str(runtime.device)))
    np.testing.assert_allclose(found.numpy(), softmax(x), rtol=3e-6)
    np.testing.assert_array_equal(twice.numpy(), x * 2.0)


def test_same_bits_every_time(runtime: Runtime) -> None:
    x = matrix(100, 333)
    _, (first,) = compiled(runtime, lambda x: ak.softmax(x, axis=-1), x)
    for _ in range(3):
        np.testing.assert_array_equal(
            compiled(runtime, lambda x: ak.softmax(x, axis=-1), x)[1][0], first
        )


def test_few_steps_stay_apart(runtime: Runtime) -> None:
    """One pass over the matrix gains nothing, nor do rows that outgrow the cache."""
    sources, _ = compiled(runtime, lambda x: ak.sum(x, axis=-1) * 2.0, matrix(10, 10))
    assert not any(source.name.startswith("rowwise") for source in sources)
    sources, _ = compiled(runtime, lambda x: ak.softmax(x, axis=-1), matrix(2, 20000))
    assert not any(source.name.startswith("rowwise") for source in sources)
