"""Derivatives: against numeric ones, of every order, through every transform, and refusals."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit.errors import DifferentiationError, DTypeError, OptionError, ShapeError
from accelkit.primitives import PRIMITIVES


def numeric_slope(function: Any, x: np.ndarray, direction: np.ndarray) -> float:
    """The derivative along a direction by central differences of fourth order."""
    h = 1e-3

    def at(t: float) -> float:
        return float(function(ak.asarray(x + t * direction)))

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


FUNCTIONS = {
    "polynomial": lambda x: (x**3 - 2.0 * x).sum(),
    "quotient": lambda x: (1.0 / (x * x + 1.0)).sum(),
    "exponentials": lambda x: (ak.exp(x) + ak.expm1(x) + ak.tanh(x) + ak.sigmoid(x)).sum(),
    "logarithms": lambda x: (ak.log(x + 5.0) + ak.log1p(x * x) + ak.log2(x + 9.0)).sum(),
    "roots": lambda x: (ak.sqrt(x + 5.0) * ak.rsqrt(x + 6.0)).sum(),
    "angles": lambda x: (ak.sin(x) + ak.cos(x) * ak.tan(x / 4.0) + ak.atan2(x, x + 9.0)).sum(),
    "hyperbolic": lambda x: (ak.sinh(x) + ak.cosh(x) + ak.asinh(x)).sum(),
    "inverse": lambda x: (ak.asin(x / 9.0) + ak.acos(x / 9.0) + ak.atanh(x / 9.0)).sum(),
    "erf": lambda x: (ak.erf(x) + ak.gelu(x) + ak.silu(x)).sum(),
    "power": lambda x: ((x + 5.0) ** (x / 3.0)).sum(),
    "reductions": lambda x: ak.mean(x) * ak.var(x) + ak.prod(x, axis=0).sum() + ak.max(x),
    "logaddexp": lambda x: ak.logaddexp(x, x[::-1] * 2.0).sum() + ak.hypot(x, x + 4.0).sum(),
    "softmax": lambda x: (ak.softmax(x) * ak.log_softmax(x, axis=0)).sum(),
    "products": lambda x: ((x @ x.T) @ x).sum() + ak.einsum("ij,kj->", x, x * x),
    "shaping": lambda x: (
        ak.pad(ak.flip(x), [(1, 0), (0, 2)], value=3.0)[1:, ::2].T.reshape(-1)
        * ak.roll(ak.arange(9.0, dtype="float64"), 2)
    ).sum(),
    "joining": lambda x: (ak.concat([x, x * 2.0], axis=1) * ak.tile(x, (1, 2))).sum(),
    "sorting": lambda x: (
        ak.sort(x, axis=0) * ak.asarray([[1.0], [2.0], [3.0]], dtype="float64")
    ).sum(),
    "running": lambda x: (ak.cumulative_sum(x, axis=0) * ak.cumulative_prod(x, axis=1)).sum(),
    "selection": lambda x: ak.where(x > 0.0, x * x, ak.exp(x)).sum() + ak.clip(x, -0.3, 0.3).sum(),
    "indexing": lambda x: (
        x[ak.asarray([2, 0, 2])] * ak.take(x, ak.asarray([1, 1, 0]), axis=0)
    ).sum(),
    "remainder": lambda x: ((x + 0.1) % 1.7).sum() + abs(x).sum() + ak.relu(x).sum(),
    "norm": lambda x: ak.local_response_norm(x.reshape(1, 1, 3, 4), size=3, alpha=0.5).sum(),
    "entropy": lambda x: ak.softmax_cross_entropy(
        x, ak.asarray([1, 3, 0]), label_smoothing=0.1
    ).sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives_agree_with_numeric_ones(name: str) -> None:
    function = FUNCTIONS[name]
    generator = np.random.default_rng(1)
    x = generator.standard_normal((3, 4))
    direction = generator.standard_normal((3, 4))
    slope = (ak.grad(function)(ak.asarray(x)) * ak.asarray(direction)).sum()
    assert float(slope) == pytest.approx(numeric_slope(function, x, direction), rel=1e-7, abs=1e-7)

    def along(t: ak.Tensor) -> ak.Tensor:
        return (ak.grad(function)(t) * ak.asarray(direction)).sum()

    other = generator.standard_normal((3, 4))
    second = (ak.grad(along)(ak.asarray(x)) * ak.asarray(other)).sum()
    assert float(second) == pytest.approx(numeric_slope(along, x, other), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("order", range(6))
def test_higher_orders(order: int) -> None:
    function: Any = ak.sin
    for _ in range(order):
        function = ak.grad(function)
    expected = math.sin(0.7 + order * math.pi / 2)
    assert float(function(ak.asarray(0.7, dtype="float64"))) == pytest.approx(expected, rel=1e-12)
    assert float(ak.jit(function)(ak.asarray(0.7))) == pytest.approx(expected, rel=1e-5)


# --- the transforms' own behaviour ----------------------------------------------------------------


def test_values_arguments_and_pytrees() -> None:
    def loss(parameters: Any, x: ak.Tensor, scale: float, *, shift: float = 0.0) -> ak.Tensor:
        return ((parameters["w"] * x + parameters["b"][0]) * scale + shift).sum()

    parameters = {"w": ak.asarray([1.0, 2.0]), "b": [ak.asarray(3.0)], "frozen": None}
    x = ak.asarray([10.0, 20.0])
    value, slope = ak.value_and_grad(loss)(parameters, x, 2.0, shift=1.0)
    assert float(value) == 114.0
    assert slope["w"].tolist() == [20.0, 40.0]
    assert float(slope["b"][0]) == 4.0
    assert slope["frozen"] is None
    both = ak.grad(loss, argnums=(1, 0))(parameters, x, 1.0)
    assert both[0].tolist() == [1.0, 2.0]
    assert both[1]["w"].tolist() == [10.0, 20.0]
    assert ak.grad(loss, argnums=(-2,))(parameters, x, 1.0)[0].tolist() == [1.0, 2.0]
    assert float(ak.grad(lambda x: x * x)(3.0)) == 6.0  # a Python number becomes a tensor


def test_what_the_loss_does_not_depend_on_has_zeros() -> None:
    slope = ak.grad(lambda p: p["used"] * 2.0)({"used": ak.asarray(1.0), "unused": ak.ones(2)})
    assert float(slope["used"]) == 2.0
    assert slope["unused"].tolist() == [0.0, 0.0]


def test_has_aux() -> None:
    def loss(x: ak.Tensor) -> Any:
        return (x * x).sum(), {"double": x * 2.0, "count": 2, "outside": outside}

    outside = ak.asarray(7.0)
    (value, aux), slope = ak.value_and_grad(loss, has_aux=True)(ak.asarray([1.0, 2.0]))
    assert float(value) == 5.0
    assert aux["double"].tolist() == [2.0, 4.0]
    assert (aux["count"], float(aux["outside"])) == (2, 7.0)
    assert slope.tolist() == [2.0, 4.0]
    slope, aux = ak.grad(loss, has_aux=True)(ak.asarray([1.0, 2.0]))
    assert slope.tolist() == [2.0, 4.0]
    assert aux["count"] == 2
    with pytest.raises(OptionError, match=r"pair \(loss, aux\), got Tensor"):
        ak.grad(lambda x: x.sum(), has_aux=True)(ak.ones(2))


def test_one_tensor_in_two_places() -> None:
    x = ak.asarray(3.0)
    assert float(ak.grad(lambda p: p[0] * p[1])([x, x])[0]) == 3.0
    assert [float(g) for g in ak.grad(lambda a, b: a * b * b, argnums=(0, 1))(x, x)] == [9.0, 18.0]
    # By closure it is a constant.
    assert float(ak.grad(lambda a: a * x)(x)) == 3.0


def test_stop_gradient() -> None:
    x = ak.asarray([1.0, 2.0])
    assert ak.grad(lambda t: (t * ak.stop_gradient({"a": t, "b": 1})["a"]).sum())(x).tolist() == [
        1.0,
        2.0,
    ]
    assert ak.stop_gradient(x).tolist() == [1.0, 2.0]
    assert ak.stop_gradient(3) == 3


def test_integers_and_comparisons_have_no_derivative() -> None:
    def loss(x: ak.Tensor) -> ak.Tensor:
        rounded = x.astype("int32").astype("float32")
        mask = (x > 1.5).astype("float32")
        return (rounded * x + mask * x + ak.floor(x) + ak.sign(x)).sum()

    assert ak.grad(loss)(ak.asarray([1.0, 2.0])).tolist() == [1.0, 3.0]


def test_the_conventions_at_kinks() -> None:
    zero = ak.asarray(0.0)
    assert float(ak.grad(ak.relu)(zero)) == 0.0
    assert float(ak.grad(abs)(zero)) == 0.0
    assert float(ak.grad(lambda x: ak.maximum(x, 0.0))(zero)) == 0.5
    assert float(ak.grad(lambda x: ak.minimum(0.0, x))(zero)) == 0.5
    assert float(ak.grad(lambda x: ak.clip(x, 0.0, 1.0))(zero)) == 1.0
    assert math.isnan(float(ak.relu(ak.asarray(math.nan))))


def test_infinite_operands_have_finite_derivatives() -> None:
    x = ak.asarray([math.inf, -math.inf, 1.0])
    assert ak.grad(lambda t: ak.maximum(t, 0.0).sum())(x).tolist() == [1.0, 0.0, 1.0]
    assert ak.grad(lambda t: ak.minimum(t, t).sum())(x).tolist() == [1.0, 1.0, 1.0]
    slopes = ak.grad(lambda t: ak.minimum(t, 0.0) @ ak.asarray([math.inf] * 3))(x)
    assert slopes.tolist() == [0.0, math.inf, 0.0]
    base = ak.asarray([0.5, 2.0])
    assert ak.grad(lambda t: (t ** ak.asarray([math.inf, 0.0])).sum())(base).tolist()[1] == 0.0
    assert ak.grad(lambda t: (ak.asarray([0.0, 1.0]) ** t).sum())(base).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("name", "share"), [("maximum", (0.0, 1.0)), ("minimum", (1.0, 0.0))])
def test_extrema_need_no_operand_that_equals_the_result(
    name: str, share: tuple[float, float]
) -> None:
    """Computed again, an operand may differ from the result in the last place."""
    rounded = ak.asarray(np.nextafter(np.float32([2.0, 3.0]), np.float32(9.0)))
    a, b = ak.asarray([2.0, 3.0]), ak.asarray([3.0, 3.0])
    slopes = PRIMITIVES[name].vjp(ak.ones(2), rounded, a, b)
    assert [s.tolist() for s in slopes] == [[share[0], 0.5], [share[1], 0.5]]


def test_broadcast_operands_get_cotangents_of_their_own_shape() -> None:
    shapes = ((3, 1), (1, 4), (), (2, 1, 1))
    tensors = [ak.ones(s) for s in shapes]
    slopes = ak.grad(lambda *xs: sum(xs[1:], xs[0]).sum(), argnums=(0, 1, 2, 3))(*tensors)
    assert [s.shape for s in slopes] == list(shapes)
    assert [float(s.sum()) for s in slopes] == [24.0] * 4


@pytest.mark.parametrize("device", ["torch:cpu", "jax:cpu", "tensorflow:cpu"])
def test_eager_derivatives_stay_on_their_device(device: str) -> None:
    pytest.importorskip(device.partition(":")[0])
    x = ak.asarray([1.0, 2.0], device=device)

    def loss(t: ak.Tensor) -> ak.Tensor:
        return (ak.softmax(t) * ak.relu(t)).sum() + ak.local_response_norm(t).sum()

    slope = ak.grad(loss)(x)
    assert slope.device is x.device
    np.testing.assert_allclose(slope.numpy(), ak.grad(loss)(x.to("numpy")).numpy(), rtol=1e-5)


def test_eager_derivatives_free_what_they_no_longer_need(new_primitive: Any) -> None:
    alive: list[weakref.ref[Any]] = []
    most = [0]

    def lowering(x: Any) -> Any:
        result = x * 2
        alive.append(weakref.ref(result))
        most[0] = max(most[0], sum(ref() is not None for ref in alive))
        return result

    double = new_primitive("tracked_double", lambda x: x, vjp=lambda g, y, x: (double(g),))
    double.lowering("numpy")(lowering)

    def loss(x: ak.Tensor) -> ak.Tensor:
        for _ in range(20):
            x = double(x)
        return x.sum()

    assert ak.grad(loss)(ak.ones(3)).tolist() == [2.0**20] * 3
    assert len(alive) >= 20
    assert most[0] <= 3


# --- vjp ------------------------------------------------------------------------------------------


def test_vector_jacobian_products() -> None:
    x, y = ak.asarray([1.0, 2.0]), ak.asarray([3.0, 4.0])
    value, product = ak.vjp(lambda a, b: {"p": a * b, "s": a.sum(), "i": a.astype("int32")}, x, y)
    assert value["p"].tolist() == [3.0, 8.0]
    zero = ak.zeros(2, dtype="int32")
    da, db = product({"p": ak.asarray([1.0, 10.0]), "s": ak.asarray(100.0), "i": zero})
    assert da.tolist() == [103.0, 140.0]
    assert db.tolist() == [1.0, 20.0]
    second = ak.jit(lambda t: ak.vjp(lambda a: a * a, t)[1](ak.ones(2))[0])
    assert second(x).tolist() == [2.0, 4.0]


def test_a_cotangent_must_be_like_the_value() -> None:
    _, product = ak.vjp(lambda a: (a, a.sum()), ak.ones(2))
    with pytest.raises(ShapeError, match=r"must be like the value, float32\[2\], float32\[\] in"):
        product(ak.ones(2))
    with pytest.raises(ShapeError, match=r"got float32\[3\], float32\[\] in"):
        product((ak.ones(3), ak.asarray(1.0)))
    with pytest.raises(DTypeError, match="vjp needs a function that returns tensors, got int"):
        ak.vjp(lambda a: 3, ak.ones(2))
    with pytest.raises(DTypeError, match=r"Only floating tensors have gradients, got int64\[2\]"):
        ak.vjp(lambda a: a, ak.asarray([1, 2]))


# --- refusals -------------------------------------------------------------------------------------


def test_refusals() -> None:
    x = ak.ones(2)
    with pytest.raises(
        ShapeError, match=r"needs a floating scalar, got float32\[2\].*accelkit.vjp"
    ):
        ak.grad(lambda t: t * 2.0)(x)
    with pytest.raises(ShapeError, match=r"needs a floating scalar, got int64\[\]"):
        ak.grad(lambda t: ak.argmax(t))(x)
    with pytest.raises(DTypeError, match=r"returns a Tensor .*, got float"):
        ak.grad(lambda t: 1.0)(x)
    with pytest.raises(DTypeError, match=r"Only floating tensors have gradients, got int64\[1\]"):
        ak.grad(lambda t: t.sum())(ak.asarray([1]))
    with pytest.raises(
        OptionError, match=r"argnums=1 names no positional argument: .* called with 1"
    ):
        ak.grad(lambda t: t.sum(), argnums=1)(x)


@pytest.fixture
def new_primitive() -> Any:
    """Declares primitives that are forgotten after the test."""
    before = set(PRIMITIVES)
    yield ak.primitive
    for name in set(PRIMITIVES) - before:
        del PRIMITIVES[name]


def test_a_primitive_without_derivative_is_named(new_primitive: Any) -> None:
    opaque = new_primitive("opaque", lambda x: x)
    opaque.lowering("numpy")(lambda x: x + 1)
    assert ak.jit(opaque)(ak.zeros(2)).tolist() == [1.0, 1.0]
    with pytest.raises(DifferentiationError, match=r"'opaque' has no derivative.*stop_gradient"):
        ak.grad(lambda x: opaque(x).sum())(ak.zeros(2))
    # Where nothing depends on it, it does not matter.
    slope = ak.grad(lambda x: (x * opaque(ak.ones(2))).sum())(ak.zeros(2))
    assert slope.tolist() == [2.0, 2.0]
    assert ak.grad(lambda x: (x * opaque(ak.stop_gradient(x))).sum())(ak.zeros(2)).tolist() == [
        1.0,
        1.0,
    ]


def test_a_primitive_with_lowering_and_derivative(new_primitive: Any) -> None:
    cube = new_primitive("cube", lambda x: x, vjp=lambda g, y, x: (3.0 * g * x * x,))
    cube.lowering("numpy")(lambda x: x**3)
    x = ak.asarray(2.0)
    assert float(cube(x)) == float(ak.jit(cube)(x)) == 8.0
    assert float(ak.grad(cube)(x)) == 12.0
    assert float(ak.jit(ak.grad(ak.grad(cube)))(x)) == 12.0
    with pytest.raises(OptionError, match="A primitive named 'cube' exists already"):
        new_primitive("cube", lambda x: x)


def test_a_primitive_with_a_definition_only(new_primitive: Any) -> None:
    both = new_primitive(
        "sum_and_difference",
        lambda a, b: (a, b),
        definition=lambda a, b: (a + b, a - b),
        multiple_outputs=True,
    )
    x, y = ak.asarray(3.0), ak.asarray(2.0)
    assert [float(t) for t in both(x, y)] == [5.0, 1.0]
    assert [float(t) for t in ak.jit(both)(x, y)] == [5.0, 1.0]
    slopes = ak.grad(lambda a, b: both(a, b)[0] * both(a, b)[1], argnums=(0, 1))(x, y)
    assert [float(g) for g in slopes] == [6.0, -4.0]
    assert float(ak.grad(lambda a: both(a, y)[1])(x)) == 1.0  # one output unused


def test_wrong_rules_are_named(new_primitive: Any) -> None:
    wide = new_primitive(
        "wide", lambda x: x, vjp=lambda g, y, x: (g.sum(),), definition=lambda x: x
    )
    with pytest.raises(
        DifferentiationError, match=r"'wide' gave a cotangent float32\[\] for .*\[2\]"
    ):
        ak.grad(lambda x: wide(x).sum())(ak.zeros(2))
    many = new_primitive("many", lambda x: x, vjp=lambda g, y, x: (g, g), definition=lambda x: x)
    with pytest.raises(DifferentiationError, match="'many' returned 2 cotangents for 1 operands"):
        ak.grad(lambda x: many(x).sum())(ak.zeros(2))


def test_unhashable_parameters_of_a_primitive_still_compile(new_primitive: Any) -> None:
    scaled = new_primitive("scaled", lambda x, *, factors: x, vjp=lambda g, y, x, *, factors: (g,))
    scaled.lowering("numpy")(lambda x, *, factors: x * factors["a"])
    compiled = ak.jit(lambda x: scaled(x, factors={"a": 2}) + scaled(x, factors={"a": 3}))
    assert compiled(ak.ones(2)).tolist() == [5.0, 5.0]


def test_derivatives_say_of_what() -> None:
    def loss(x: ak.Tensor) -> ak.Tensor:
        return ak.sum(x * x)

    assert repr(ak.jit(ak.grad(loss))) == "<jit grad(loss), 0 programs compiled>"
    twice = ak.jit(ak.value_and_grad(lambda x: ak.sum(ak.grad(loss)(x))))
    assert twice.__name__ == "value_and_grad(<lambda>)"
    assert str(ak.trace(ak.grad(loss), ak.ones(2))).startswith("graph grad(loss)(")
