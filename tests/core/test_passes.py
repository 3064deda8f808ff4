"""Passes keep every bit, and do what they are for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from accelkit_numpy import NumpyBackend
from core.arrays import arrays
from hypothesis import given, settings
from hypothesis import strategies as st

import accelkit as ak
from accelkit import passes
from accelkit.backend import evaluate
from accelkit.errors import CapabilityError
from accelkit.graph import Graph
from accelkit.passes import (
    eliminate_dead_code,
    inline_composites,
    prepare,
    simplify,
    split_grouped_convolutions,
)
from accelkit.primitives import PRIMITIVES
from accelkit.registry import backend


def evaluated(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The graph's results, node by node, without any pass."""
    numpy = backend("numpy")
    device = ak.device("numpy")
    with np.errstate(all="ignore"):
        results = evaluate(graph, arrays, lambda node: numpy.implementation(node.primitive, device))
    return [np.asarray(result) for result in results]


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if actual.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected)
        return
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    known = ~np.isnan(actual)
    assert actual[known].tobytes() == expected[known].tobytes()


# --- random programs ------------------------------------------------------------------------------

CONSTANTS = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, math.inf, -math.inf, math.nan, 3e38, 0.1]


@st.composite
def programs(draw: st.DrawFn) -> Any:
    """A function of two (2, 3) tensors that strings operations together, many of them idle."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(sorted(STEPS)),
                st.integers(0, 30),
                st.integers(0, 30),
                st.sampled_from(CONSTANTS),
            ),
            min_size=1,
            max_size=12,
        )
    )

    def program(x: ak.Tensor, y: ak.Tensor) -> list[ak.Tensor]:
        pool = [x, y]
        for name, first, second, constant in steps:
            number = (
                constant if x.dtype.is_floating else int(np.clip(np.nan_to_num(constant), -9, 9))
            )
            if x.dtype.kind == "u":
                number = abs(number)
            result = STEPS[name](pool[first % len(pool)], pool[second % len(pool)], number)
            assert result.shape == (2, 3)
            pool.append(result)
        return pool

    program.__name__ = "_".join(step[0] for step in steps)
    return program


def _full(x: ak.Tensor, c: Any) -> ak.Tensor:
    return ak.full((2, 3), c, dtype=x.dtype)


STEPS: dict[str, Any] = {
    "add": lambda x, y, c: x + y,
    "add_number": lambda x, y, c: x + c,
    "subtract_number": lambda x, y, c: x - c,
    "subtract_from": lambda x, y, c: c - x,
    "multiply": lambda x, y, c: x * y,
    "scale": lambda x, y, c: x * c,
    "one": lambda x, y, c: x * 1,
    "one_times": lambda x, y, c: _full(x, 1) * x,
    "divide": lambda x, y, c: x / c if x.dtype.is_floating else x,
    "negate": lambda x, y, c: -x,
    "negate_twice": lambda x, y, c: ak.negative(-x),
    "constants": lambda x, y, c: (_full(x, c) * 3 + 1) - _full(x, 2) * c,
    "constants_alone": lambda x, y, c: _full(x, c) + _full(x, 1) * 2,
    "quotient": lambda x, y, c: _full(x, c) / _full(x, 3) if x.dtype.is_floating else x,
    "broadcast": lambda x, y, c: ak.broadcast_to(ak.full((), c, dtype=x.dtype), (2, 3)) * x,
    "broadcast_twice": lambda x, y, c: ak.broadcast_to(ak.broadcast_to(x[:1, :1], (1, 3)), (2, 3)),
    "broadcast_one": lambda x, y, c: x[:1] * ak.ones((2, 3), dtype=x.dtype),
    "reshape": lambda x, y, c: x.reshape(6).reshape(3, 2).reshape(2, 3),
    "reshape_number": lambda x, y, c: ak.full((6,), c, dtype=x.dtype).reshape(2, 3) + x,
    "transpose": lambda x, y, c: x.T.T,
    "transpose_three": lambda x, y, c: ak.permute_dims(
        ak.permute_dims(x.reshape(2, 3, 1), (2, 0, 1)), (1, 2, 0)
    ).reshape(2, 3),
    "transpose_compose": lambda x, y, c: ak.permute_dims(
        ak.permute_dims(x.reshape(1, 2, 3), (1, 2, 0)), (2, 0, 1)
    ).reshape(2, 3),
    "transpose_number": lambda x, y, c: ak.full((3, 2), c, dtype=x.dtype).T,
    "slice_all": lambda x, y, c: x[:, :],
    "slice": lambda x, y, c: ak.concat([x[:1], y[1:]]),
    "concat_one": lambda x, y, c: ak.concat([x]),
    "pad": lambda x, y, c: ak.pad(x[1:], [(1, 0), (0, 0)], value=c),
    "pad_nothing": lambda x, y, c: ak.pad(x, [(0, 0), (0, 0)], value=c),
    "sum_nothing": lambda x, y, c: ak.sum(x, axis=(), dtype=x.dtype),
    "max_nothing": lambda x, y, c: ak.max(x, axis=()),
    "sum": lambda x, y, c: x + ak.sum(x, axis=0, dtype=x.dtype),
    "cast": lambda x, y, c: x.astype("float64").astype(x.dtype) if x.dtype.is_floating else x,
    "cast_number": lambda x, y, c: (
        _full(x, c).astype("float32").astype(x.dtype)
        if x.dtype.is_floating
        else _full(x, c).astype("int64").astype(x.dtype)
    ),
    "select": lambda x, y, c: ak.where(x > y, x, c),
    "select_known": lambda x, y, c: ak.where(ak.equal(_full(x, c), 0), x, y),
    "maximum": lambda x, y, c: ak.maximum(x, y),
    "relu": lambda x, y, c: ak.relu(x) if x.dtype.is_floating else x,
    "stop": lambda x, y, c: ak.stop_gradient(x),
    "same_again": lambda x, y, c: (x + y) * (x + y),
    "dead": lambda x, y, c: (x * y, y)[1],
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int8", "uint8"])
@given(program=programs(), data=st.data())
@settings(max_examples=60)
def test_simplification_keeps_every_bit(dtype: str, program: Any, data: st.DataObject) -> None:
    operands = [data.draw(arrays(dtype, (2, 3))) for _ in range(2)]
    if dtype == "uint8" and "subtract_from" in program.__name__:
        operands = [np.minimum(x, 9) for x in operands]
    graph = ak.trace(program, *map(ak.asarray, operands))
    optimised = eliminate_dead_code(simplify(graph))
    for actual, expected in zip(
        evaluated(optimised, operands), evaluated(graph, operands), strict=True
    ):
        assert_same_bits(actual, expected)
    # Whatever is left over is left over by a second run too.
    assert str(eliminate_dead_code(simplify(optimised))) == str(optimised)


# --- what simplification does ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("one", {}),
        ("one_times", {}),
        ("negate_twice", {}),
        ("reshape", {}),
        ("transpose", {}),
        ("transpose_three", {}),
        ("slice_all", {}),
        ("concat_one", {}),
        ("pad_nothing", {}),
        ("sum_nothing", {}),
        ("max_nothing", {}),
        ("constants_alone", {"full": 1}),
        ("reshape_number", {"full": 1, "add": 1}),
        ("transpose_number", {"full": 1}),
        ("broadcast_twice", {"slice": 1, "broadcast_to": 1}),
        ("cast_number", {"full": 1}),
        ("select_known", {}),
        ("same_again", {"add": 1, "multiply": 1}),
        ("dead", {}),
        # Not these: x + 0 and x - -0 change -0.0, x * 0 changes infinities.
        ("add_number", {"full": 1, "add": 1}),
        ("scale", {"full": 1, "multiply": 1}),
        ("broadcast_one", {"slice": 1, "full": 1, "multiply": 1}),
    ],
)
def test_what_is_left(name: str, left: dict[str, int]) -> None:
    x = ak.zeros((2, 3))
    graph = ak.trace(lambda x, y: STEPS[name](x, y, 0.0), x, x)
    assert eliminate_dead_code(simplify(graph)).counts() == left


def test_numbers_of_16_bits_are_folded_as_the_device_rounds() -> None:
    for dtype in ("float16", "bfloat16"):
        graph = ak.trace(lambda dtype=dtype: ak.full((), 1.0, dtype=dtype) / 3.0)
        (node,) = eliminate_dead_code(simplify(graph)).nodes
        value = node.parameters["value"]
        assert type(value) is float
        assert value == float(ak.full((), 1.0, dtype=dtype) / 3.0)


def test_equal_expressions_merge_and_others_do_not() -> None:
    key = ak.asarray(np.array([1, 2], "uint32"))

    def program(x: ak.Tensor) -> Any:
        return (
            ak.exp(x) + ak.exp(x),
            ak.sum(x, axis=0),
            ak.sum(x, axis=1),
            x * 0.0,
            x * -0.0,
            PRIMITIVES["dropout"](x, key, rate=0.5, offset=0),
            PRIMITIVES["dropout"](x, key, rate=0.5, offset=0),
            PRIMITIVES["dropout"](x, key, rate=0.25, offset=0),
        )

    graph = eliminate_dead_code(simplify(ak.trace(program, ak.zeros((2, 2)))))
    assert graph.counts() == {
        "dropout": 2, "full": 2, "multiply": 2, "reduce_sum": 2, "add": 1, "exp": 1,
    }  # fmt: skip


# --- dead code ------------------------------------------------------------------------------------


@pytest.fixture
def noisy() -> Any:
    """A primitive with a side effect."""
    made = ak.primitive("noisy", lambda x: x, has_side_effect=True)
    made.lowering("numpy")(lambda x: x)
    yield made
    del PRIMITIVES["noisy"]


def test_dead_code_goes_and_side_effects_stay(noisy: Any) -> None:
    def program(x: ak.Tensor, unused: ak.Tensor) -> ak.Tensor:
        ak.exp(ak.sin(x))  # dead, and so is what only it needs
        noisy(ak.cos(x))
        noisy(ak.cos(x))
        return x + 1.0

    graph = ak.trace(program, ak.zeros(2), ak.zeros(3))
    cleaned = eliminate_dead_code(graph)
    assert cleaned.counts() == {"cos": 2, "noisy": 2, "add": 1, "full": 1}
    assert cleaned.inputs == graph.inputs  # the interface stays
    assert simplify(cleaned).counts() == {"noisy": 2, "add": 1, "cos": 1, "full": 1}


# --- composites -----------------------------------------------------------------------------------


class BareBackend(NumpyBackend):
    """NumPy without a native form of any composite."""

    name: ClassVar[str] = "numpy"
    table = {  # noqa: RUF012 - as in the base class
        name: function
        for name, function in NumpyBackend.table.items()
        if PRIMITIVES[name].definition is None
    }
    capabilities = frozenset({"float64"})


def test_composites_are_inlined_where_they_are_missing() -> None:
    def loss(x: ak.Tensor, w: ak.Tensor) -> ak.Tensor:
        trace = ak.tracing.active_trace()
        with trace.labelled(scope="layer"):
            h = ak.local_response_norm(ak.relu(ak.conv2d(x, w)), size=3)
            h = ak.max_pool2d(h, 2, strides=1)
        return ak.softmax_cross_entropy(h.reshape(2, -1), ak.asarray([0, 1])).sum()

    generator = np.random.default_rng(0)
    x, w = generator.standard_normal((2, 4, 4, 2)), generator.standard_normal((2, 2, 2, 4))
    graph = ak.trace(ak.value_and_grad(loss, argnums=(0, 1)), ak.asarray(x), ak.asarray(w))
    bare = prepare(graph, BareBackend())
    composites = {name for name, p in PRIMITIVES.items() if p.definition is not None}
    assert composites & set(graph.counts())
    assert not composites & set(bare.counts())
    scopes = {node.scope for node in bare if node.primitive.name in ("sqrt", "conv2d")}
    assert scopes == {"layer"}
    assert {node.phase for node in bare} == {"forward", "backward"}
    for actual, expected in zip(evaluated(bare, [x, w]), evaluated(graph, [x, w]), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_definitions_with_other_parameters_are_not_confused() -> None:
    def program(x: ak.Tensor) -> Any:
        return [ak.local_response_norm(x, beta=b, k=k) for b in (0.5, 0.75) for k in (1.0, 2.0)]

    x = np.random.default_rng(0).standard_normal((1, 1, 1, 7))
    graph = ak.trace(program, ak.asarray(x))
    results = evaluated(prepare(graph, BareBackend()), [x])
    for actual, expected in zip(results, evaluated(graph, [x]), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert len({r.tobytes() for r in results}) == 4


def test_bodies_of_loops_are_prepared_too() -> None:
    class Looping(BareBackend):
        table = {**BareBackend.table, "scan": None, "cond": None}  # noqa: RUF012

    def program(xs: ak.Tensor) -> ak.Tensor:
        return ak.scan(lambda c, x: (ak.relu(c * 1.0 + x), None), ak.asarray(0.0), xs)[0]

    prepared = prepare(ak.trace(program, ak.zeros(3)), Looping())
    (loop,) = [node for node in prepared if node.primitive.name == "scan"]
    assert loop.parameters["body"].counts() == {"add": 1, "full": 1, "less": 1, "select": 1}


def test_a_missing_primitive_is_named_with_its_layer() -> None:
    class Less(BareBackend):
        table = {k: v for k, v in BareBackend.table.items() if k != "exp"}  # noqa: RUF012

    def program(x: ak.Tensor) -> ak.Tensor:
        with ak.tracing.active_trace().labelled(scope="block.2"):
            return ak.softmax(x)

    with pytest.raises(
        CapabilityError,
        match=r"does not implement the primitive 'exp' \(used in block\.2\).*lowering",
    ):
        inline_composites(ak.trace(program, ak.zeros(2)), Less())


# --- grouped convolutions -------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize(("strides", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2)])
def test_split_convolutions_are_equal(
    groups: int, strides: int, padding: int, dilation: int
) -> None:
    generator = np.random.default_rng(groups)
    # Small integers: sums are exact in any order.
    x = generator.integers(-4, 5, (2, 6, 7, 2 * groups)).astype("float64")
    w = generator.integers(-4, 5, (3, 2, 2, 3 * groups)).astype("float64")
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}

    def loss(x: ak.Tensor, w: ak.Tensor) -> Any:
        y = ak.conv2d(x, w, **options)
        weights = ak.arange(float(y.size), dtype="float64").reshape(y.shape)
        return (y * weights).sum(), y

    both = ak.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    graph = ak.trace(both, ak.asarray(x), ak.asarray(w))
    split = split_grouped_convolutions(graph)
    for node in split:
        assert node.parameters.get("groups", 1) == 1
    assert split.counts()["conv2d"] == groups
    for actual, expected in zip(evaluated(split, [x, w]), evaluated(graph, [x, w]), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_backend_with_fast_groups_keeps_them() -> None:
    graph = ak.trace(
        lambda x, w: ak.conv2d(x, w, groups=2), ak.zeros((1, 3, 3, 4)), ak.zeros((1, 1, 2, 4))
    )
    assert prepare(graph, backend("numpy")).counts() == {"conv2d": 1}
    assert prepare(graph, BareBackend()).counts() == {"slice": 4, "conv2d": 2, "concatenate": 1}


# --- order ----------------------------------------------------------------------------------------


def test_updates_follow_their_gradients_and_the_reads_of_their_parameter() -> None:
    def step(w1: ak.Tensor, w2: ak.Tensor, x: ak.Tensor) -> Any:
        loss, (g1, g2) = ak.value_and_grad(
            lambda a, b: ak.tanh(ak.tanh(x @ a) @ b).sum(), argnums=(0, 1)
        )(w1, w2)
        with ak.tracing.active_trace().labelled(phase="update"):
            return w1 - g1, w2 - g2, loss

    arrays = [np.random.default_rng(i).standard_normal((3, 3)) for i in range(3)]
    graph = ak.trace(step, *map(ak.asarray, arrays))
    moved = passes.update_early(graph)
    assert sorted(map(id, moved.nodes)) == sorted(map(id, graph.nodes))
    position = {node: i for i, node in enumerate(moved.nodes)}
    for node in moved:
        assert all(v.node is None or position[v.node] < position[node] for v in node.inputs)
    for node in (n for n in moved if n.phase == "update"):
        parameter = node.inputs[0]
        assert all(
            position[n] < position[node] for n in moved if parameter in n.inputs and n is not node
        )
    first = next(i for i, n in enumerate(moved) if n.phase == "update")
    assert first < len(moved) - 2
    for actual, expected in zip(evaluated(moved, arrays), evaluated(graph, arrays), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_constants_of_updates_are_made_where_they_are_read() -> None:
    def step(p: ak.Tensor) -> list[ak.Tensor]:
        with ak.tracing.active_trace().labelled(phase="update"):
            factor = ak.full((3, 3), 0.5)
        hidden = ak.tanh(ak.tanh(p))
        with ak.tracing.active_trace().labelled(phase="update"):
            return [hidden * factor]

    graph = ak.trace(step, ak.asarray(np.ones((3, 3), np.float32)))
    names = [node.primitive.name for node in passes.update_early(graph)]
    assert [n for n in names if n in ("full", "tanh", "multiply")] == [
        "tanh",
        "tanh",
        "full",
        "multiply",
    ]
