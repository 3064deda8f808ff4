"""Functions with a derivative of the user's own."""

from __future__ import annotations

from typing import Any

import pytest

import accelkit as ak
from accelkit.errors import DifferentiationError, OptionError


@ak.custom_vjp
def safe_sqrt(x: ak.Tensor) -> ak.Tensor:
    """The square root, with derivative 0 at 0."""
    return ak.sqrt(x)


def _backward(residuals: Any, g: ak.Tensor) -> tuple[ak.Tensor]:
    (y,) = residuals
    return (ak.where(y == 0.0, 0.0, g * 0.5 / ak.where(y == 0.0, 1.0, y)),)


safe_sqrt.defvjp(lambda x: ((y := ak.sqrt(x)), (y,)), _backward)


def test_values_and_derivatives_eagerly_and_compiled() -> None:
    x = ak.asarray([0.0, 4.0])
    assert safe_sqrt(x).tolist() == ak.jit(safe_sqrt)(x).tolist() == [0.0, 2.0]
    slope = ak.grad(lambda t: safe_sqrt(t).sum())
    assert slope(x).tolist() == ak.jit(slope)(x).tolist() == [0.0, 0.25]
    assert safe_sqrt.__name__ == "safe_sqrt"
    assert "derivative 0" in (safe_sqrt.__doc__ or "")


def test_second_order_differentiates_the_rule() -> None:
    @ak.custom_vjp
    def cube(x: ak.Tensor) -> ak.Tensor:
        return x * x * x

    cube.defvjp(lambda x: (x * x * x, x), lambda x, g: (g * 30.0 * x * x,))  # ten times too much
    x = ak.asarray(2.0)
    assert float(ak.grad(cube)(x)) == 120.0
    assert float(ak.grad(ak.grad(cube))(x)) == 120.0
    assert float(ak.jit(ak.grad(ak.grad(ak.grad(cube))))(x)) == 60.0


def test_inside_scan_and_cond() -> None:
    def loss(x: ak.Tensor) -> ak.Tensor:
        total, _ = ak.scan(lambda c, t: (c + safe_sqrt(t), None), ak.asarray(0.0), x)
        return total

    assert ak.grad(loss)(ak.asarray([0.0, 4.0, 16.0])).tolist() == [0.0, 0.25, 0.125]
    branch = ak.grad(lambda x: ak.cond(x > 1.0, safe_sqrt, lambda v: v, x))
    assert float(branch(ak.asarray(4.0))) == 0.25
    assert float(ak.jit(branch)(ak.asarray(0.5))) == 1.0


def test_residuals_and_arguments_that_are_no_tensors() -> None:
    @ak.custom_vjp
    def scaled(tree: dict[str, Any], factor: float, mode: str) -> ak.Tensor:
        return tree["x"] * factor

    def forward(tree: dict[str, Any], factor: float, mode: str) -> Any:
        return tree["x"] * factor, (tree["x"].shape, factor, mode, tree["x"])

    def backward(residuals: Any, g: ak.Tensor) -> Any:
        shape, factor, mode, x = residuals
        assert (shape, mode) == ((2,), "plain")
        assert x.shape == (2,)
        return {"x": g * factor, "unused": None}, None, None

    scaled.defvjp(forward, backward)
    tree = {"x": ak.asarray([1.0, 2.0]), "unused": ak.ones(3)}
    slope = ak.grad(lambda t: scaled(t, 3.0, "plain").sum())(tree)
    assert slope["x"].tolist() == [3.0, 3.0]
    assert slope["unused"].tolist() == [0.0, 0.0, 0.0]


def test_several_outputs_integers_and_unused_ones() -> None:
    @ak.custom_vjp
    def parts(x: ak.Tensor) -> Any:
        return x * 2.0, ak.argmax(x), "label"

    def backward(residuals: Any, g: Any) -> tuple[ak.Tensor]:
        double, index, label = g
        assert index.dtype == "int64"
        assert label == "label"
        return (double * 2.0,)

    parts.defvjp(lambda x: (parts.function(x), ()), backward)
    assert ak.grad(lambda x: parts(x)[0].sum())(ak.ones(2)).tolist() == [2.0, 2.0]
    value = ak.jit(parts)(ak.asarray([1.0, 5.0]))
    assert (int(value[1]), value[2]) == (1, "label")


def test_several_arguments() -> None:
    @ak.custom_vjp
    def product(a: ak.Tensor, b: ak.Tensor) -> ak.Tensor:
        return a * b

    product.defvjp(lambda a, b: (a * b, (a, b)), lambda r, g: (g * r[1], None))
    a, b = ak.grad(product, argnums=(0, 1))(ak.asarray(2.0), ak.asarray(5.0))
    assert (float(a), float(b)) == (5.0, 0.0)


@pytest.mark.parametrize(
    ("forward", "backward", "text"),
    [
        (lambda x: x, lambda r, g: (g,), r"must return a pair \(value, residuals\), got Tensor"),
        (lambda x: (x, ()), lambda r, g: g, "must return a tuple of 1 cotangents"),
        (lambda x: (x, ()), lambda r, g: (g, g), "must return a tuple of 1 cotangents"),
        (lambda x: (x, ()), lambda r, g: (g.sum(),), r"gave a cotangent float32\[\] for .*\[2\]"),
        (lambda x: (x, ()), lambda r, g: ([g],), r"gave a cotangent|another structure"),
    ],
)
def test_wrong_rules(forward: Any, backward: Any, text: str) -> None:
    @ak.custom_vjp
    def same(x: ak.Tensor) -> ak.Tensor:
        return x

    same.defvjp(forward, backward)
    with pytest.raises(DifferentiationError, match=text):
        ak.grad(lambda x: same(x).sum())(ak.ones(2))


def test_a_missing_rule_and_keywords_are_refused() -> None:
    @ak.custom_vjp
    def same(x: ak.Tensor) -> ak.Tensor:
        return x

    assert same(ak.ones(1)).tolist() == [1.0]
    with pytest.raises(DifferentiationError, match=r"'same' has no rule yet. Call same.defvjp"):
        ak.grad(lambda x: same(x).sum())(ak.ones(2))
    with pytest.raises(OptionError, match="'same' takes positional arguments only"):
        same(x=ak.ones(1))
