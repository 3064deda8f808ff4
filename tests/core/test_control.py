"""cond and scan: values and derivatives, eagerly and compiled, on every installed backend."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import accelkit as ak
from accelkit.errors import DTypeError, OptionError, ShapeError

DEVICES = ["numpy"] + [
    f"{name}:cpu" for name in ("torch", "jax", "tensorflow") if importlib.util.find_spec(name)
]


def both(function: Any, *args: Any) -> Any:
    """The result, after checking that eager and compiled ones are equal."""
    eager, compiled = function(*args), ak.jit(function)(*args)
    np.testing.assert_allclose(compiled.numpy(), eager.numpy(), rtol=1e-6)
    return eager


# --- cond -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_cond_takes_one_branch_and_its_derivative(device: str) -> None:
    scale = ak.asarray(3.0, device=device)

    def choose(x: ak.Tensor) -> ak.Tensor:
        # Both capture scale, one captures x too.
        return ak.cond(x.sum() > 0.0, lambda v: v * scale, lambda v: v * v * scale - x, x).sum()

    for values in ([1.0, 2.0], [-1.0, -2.0]):
        x = ak.asarray(values, device=device)
        positive = values[0] > 0
        value = 9.0 if positive else 18.0
        assert float(both(choose, x)) == value
        slope = [3.0, 3.0] if positive else [6 * v - 1 for v in values]
        assert both(ak.grad(choose), x).tolist() == slope
        second = ak.grad(lambda t: ak.grad(choose)(t).sum())
        assert both(second, x).tolist() == ([0.0, 0.0] if positive else [6.0, 6.0])


def test_cond_with_pytrees_integers_and_numbers() -> None:
    def step(flag: Any, n: ak.Tensor) -> ak.Tensor:
        found = ak.cond(
            flag, lambda t: {"n": t["n"] + 1, "x": 1.0}, lambda t: {"n": t["n"], "x": 2.0}, {"n": n}
        )
        return found["n"].astype("float32") * found["x"]

    assert float(step(True, ak.asarray(4))) == 5.0
    assert float(both(step, ak.asarray(False), ak.asarray(4))) == 8.0


def test_conds_nest() -> None:
    def sign(x: ak.Tensor) -> ak.Tensor:
        return ak.cond(
            x > 0.0,
            lambda: ak.cond(x > 10.0, lambda: x * 100.0, lambda: x),
            lambda: -x,
        )

    for value, slope in ((20.0, 100.0), (2.0, 1.0), (-3.0, -1.0)):
        assert float(both(sign, ak.asarray(value))) == value * slope
        assert float(both(ak.grad(sign), ak.asarray(value))) == slope


def test_cond_refusals() -> None:
    x = ak.ones(2)
    with pytest.raises(
        ShapeError, match=r"same shapes and dtypes, got float32\[2\] and float32\[\]"
    ):
        ak.cond(True, lambda v: v, lambda v: v.sum(), x)
    with pytest.raises(ShapeError, match="same structure"):
        ak.cond(True, lambda v: v, lambda v: (v, v), x)
    for predicate in (x > 0.0, x[0]):
        with pytest.raises(DTypeError, match=r"cond needs a bool\[\] predicate"):
            ak.cond(predicate, lambda: x, lambda: x)


# --- scan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_recurrence_and_its_derivatives(device: str, reverse: bool) -> None:
    generator = np.random.default_rng(0)
    w, h, xs = (generator.standard_normal(s) * 0.5 for s in ((3, 3), (3,), (5, 3)))

    def last(w: Any, h: Any, xs: Any, lib: Any) -> Any:
        outputs = []
        for i in reversed(range(5)) if reverse else range(5):
            h = lib.tanh(h @ w + xs[i])
            outputs.append(h * xs[i])
        total = outputs[0].sum() * 0.0
        for i, y in enumerate(reversed(outputs) if reverse else outputs):
            total = total + y.sum() * float(i)
        return total + h.sum()

    def scanned(w: ak.Tensor, h: ak.Tensor, xs: ak.Tensor) -> ak.Tensor:
        def body(h: ak.Tensor, x: ak.Tensor) -> Any:
            h = ak.tanh(h @ w + x)  # w is captured
            return h, h * x

        h, ys = ak.scan(body, h, xs, reverse=reverse)
        weights = ak.arange(5.0, dtype="float64", device=None if w.is_traced else w.device)
        return (ys.sum(axis=1) * weights).sum() + h.sum()

    tensors = [ak.asarray(a, device=device) for a in (w, h, xs)]
    assert float(ak.jit(scanned)(*tensors)) == pytest.approx(last(w, h, xs, np), rel=1e-12)
    slopes = ak.jit(ak.grad(scanned, argnums=(0, 1, 2)))(*tensors)
    here = [ak.asarray(a) for a in (w, h, xs)]
    expected = ak.grad(lambda *a: last(*a, ak), argnums=(0, 1, 2))(*here)
    for found, wanted in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-10, atol=1e-12)

    def along(*a: Any, of: Any = scanned) -> ak.Tensor:
        return sum((g * g).sum() for g in ak.grad(of, argnums=(0, 1, 2))(*a))

    second = ak.jit(ak.grad(along))(*tensors)
    wanted = ak.grad(lambda *a: along(*a, of=lambda *b: last(*b, ak)))(*here)
    np.testing.assert_allclose(second.numpy(), wanted.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("donated", [(2,), (0, 1, 2)])
def test_what_the_backward_loop_reads_is_not_overwritten(
    device: str, donated: tuple[int, ...]
) -> None:
    """The results have the shapes of donated inputs, which the second loop still needs."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((3, 3), (3,), (5, 3))]

    def recurrence(w: ak.Tensor, h: ak.Tensor, xs: ak.Tensor) -> Any:
        def body(h: ak.Tensor, x: ak.Tensor) -> Any:
            h = ak.tanh(h @ w + x)
            return h, h * x

        return ak.scan(body, h, xs)

    def function(*tensors: ak.Tensor) -> list[ak.Tensor]:
        def loss(*a: ak.Tensor) -> ak.Tensor:
            h, ys = recurrence(*a)
            return h.sum() + ys.sum()

        slopes = ak.grad(loss, argnums=(0, 1, 2))(*tensors)
        return [*recurrence(*tensors), tensors[0] - 0.1 * slopes[0], *slopes]

    wanted = ak.jit(function)(*map(ak.asarray, arrays))
    given = [ak.asarray(a, device=device) for a in arrays]
    found = ak.jit(function, donate_argnums=donated)(*given)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


@given(st.integers(0, 5), st.booleans())
@settings(max_examples=12)
def test_integers_in_the_carry_and_zero_lengths(length: int, reverse: bool) -> None:
    xs = ak.arange(float(length), dtype="float64") + 1.0

    def total(x: ak.Tensor) -> Any:
        def body(carry: Any, item: Any) -> Any:
            count, value = carry
            return (count + 1, value + item * count.astype("float64")), count

        (count, value), counts = ak.scan(body, (ak.asarray(0), x.sum() * 0.0), x, reverse=reverse)
        return value, (count, counts)

    (value, (count, counts)), slope = ak.value_and_grad(total, has_aux=True)(xs)
    order = list(range(length))[::-1] if reverse else list(range(length))
    assert int(count) == length
    assert counts.tolist() == order
    assert float(value) == sum(n * (i + 1.0) for i, n in enumerate(order))
    assert slope.tolist() == [float(n) for n in order]
    np.testing.assert_array_equal(ak.jit(ak.grad(lambda x: total(x)[0]))(xs).numpy(), slope.numpy())


def test_a_loop_without_inputs_or_outputs() -> None:
    final, nothing = ak.scan(lambda c, _: (c * 2.0, None), ak.asarray(1.0), length=10)
    assert float(final) == 1024.0
    assert nothing is None
    final, ys = ak.scan(lambda c, _: (c + 1, c), 0, length=3)  # a Python number as carry
    assert (int(final), ys.tolist()) == (3, [0, 1, 2])
    power = ak.grad(lambda x: ak.scan(lambda c, _: (c * x, None), 1.0, length=4)[0])
    assert float(power(ak.asarray(2.0))) == 32.0


def test_scans_nest() -> None:
    def outer(x: ak.Tensor) -> ak.Tensor:
        def row(c: ak.Tensor, r: ak.Tensor) -> Any:
            inner, _ = ak.scan(lambda d, v: (d * v + x[0, 0], None), c, r)
            return inner, inner

        return ak.scan(row, ak.asarray(1.0), x)[0]

    def loop(x: ak.Tensor) -> ak.Tensor:
        c = x[0, 0] * 0.0 + 1.0
        for i in range(2):
            for j in range(3):
                c = c * x[i, j] + x[0, 0]
        return c

    x = ak.asarray([[1.0, 2.0, 0.5], [3.0, 1.0, 2.0]])
    assert float(both(outer, x)) == float(loop(x))
    np.testing.assert_allclose(both(ak.grad(outer), x).numpy(), ak.grad(loop)(x).numpy(), rtol=1e-6)


def test_a_gradient_inside_of_a_loop() -> None:
    """Gradient descent, differentiated by its start."""

    def descend(x: ak.Tensor) -> ak.Tensor:
        slope = ak.grad(lambda v: (v * v).sum())
        return ak.scan(lambda c, _: (c - 0.1 * slope(c), None), x, length=3)[0].sum()

    x = ak.asarray([1.0, 2.0])
    np.testing.assert_allclose(both(descend, x).numpy(), 3.0 * 0.8**3, rtol=1e-6)
    np.testing.assert_allclose(both(ak.grad(descend), x).numpy(), [0.8**3] * 2, rtol=1e-6)


@pytest.mark.parametrize("device", DEVICES[1:2])
def test_numbers_go_to_the_device_of_the_tensors(device: str) -> None:
    xs = ak.asarray([1.0, 2.0], device=device)
    total, _ = ak.scan(lambda c, x: (c + x, None), 0.0, xs)
    assert total.device is xs.device
    assert ak.cond(True, lambda v: v, lambda v: -v, xs).device is xs.device


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: ak.scan(lambda c, v: (c, v), 0.0, x[0]), ShapeError, "a scalar has none"),
        (lambda x: ak.scan(lambda c, v: (c, v), 0.0), ShapeError, "got neither"),
        (lambda x: ak.scan(lambda c, v: (c, v), 0.0, (x, x[:2])), ShapeError, r"got \[2, 3\]"),
        (lambda x: ak.scan(lambda c, v: (c, v), 0.0, x, length=2), ShapeError, r"got \[2, 3\]"),
        (lambda x: ak.scan(lambda c, v: (c, v), 0.0, length=-1), OptionError, "at least 0, got -1"),
        (lambda x: ak.scan(lambda c, v: c, 0.0, x), OptionError, r"pair \(carry, y\), got Tensor"),
        (lambda x: ak.scan(lambda c, v: ((c, c), v), 0.0, x), ShapeError, "changes its structure"),
        (
            lambda x: ak.scan(lambda c, v: (x, v), 0.0, x),
            ShapeError,
            r"from float32\[\] to float32\[3\]",
        ),
        (
            lambda x: ak.scan(lambda c, v: (c > 0.0, v), 0.0, x),
            ShapeError,
            r"float32\[\] to bool\[\]",
        ),
    ],
)
def test_scan_refusals(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(ak.asarray([1.0, 2.0, 3.0]))
