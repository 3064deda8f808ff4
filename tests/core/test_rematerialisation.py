"""Rematerialisation: the same bits, never more memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import accelkit as ak
from accelkit import dtypes, passes, registry
from accelkit.graph import Graph, TensorSpec
from accelkit.primitives import get
from accelkit.tensor import Tensor
from accelkit.tracing import active_trace, trace_graph

NUMPY = registry.backend("numpy")
DEVICE = ak.device("numpy")
KEY = np.array([1, 2], np.uint32)
SIDE = 8


def _mask(x: Tensor, _: Tensor, key: Tensor) -> Tensor:
    return get("dropout")(x, key, rate=0.5, offset=3)


def _product(x: Tensor, y: Tensor, key: Tensor) -> Tensor:
    return get("matmul")(x, y, transpose_a=False, transpose_b=True)


def _views(x: Tensor, y: Tensor, key: Tensor) -> Tensor:
    return ak.reshape(ak.tanh(ak.reshape(x, (SIDE * SIDE,))), (SIDE, SIDE)) + y


OPERATIONS: tuple[Callable[..., Tensor], ...] = (
    lambda x, y, key: x + y,
    lambda x, y, key: x * y,
    lambda x, y, key: ak.tanh(x),
    lambda x, y, key: x - ak.sum(y, axis=1, keepdims=True),
    lambda x, y, key: ak.concat([x[: SIDE // 2], y[SIDE // 2 :]]),
    _mask,
    _product,
    _views,
)
Recipe = list[tuple[int, int, int]]
RECIPES = st.lists(
    st.tuples(st.integers(0, len(OPERATIONS) - 1), st.integers(0, 30), st.integers(0, 30)),
    min_size=4,
    max_size=24,
)


def program(recipe: Recipe) -> Graph:
    """A chain that goes forth and comes back past all its values, and changes two parameters."""

    def function(key: Tensor, first: Tensor, second: Tensor) -> Sequence[Tensor]:
        trace = active_trace()
        assert trace is not None
        values = [first, second]
        for kind, i, j in recipe:
            values.append(
                OPERATIONS[kind](values[-1 - i % 3 % len(values)], values[j % len(values)], key)
            )
        with trace.labelled(phase="backward"):
            g = ak.tanh(values[-1])
            for value in reversed(values[2:]):
                g = ak.tanh(g * value)
            slope = g @ g
        with trace.labelled(phase="update"):
            new = [p - (p + slope) * 0.5 for p in (first, second)]
        return [*new, g]

    matrix = TensorSpec((SIDE, SIDE), dtypes.float32)
    specs = [TensorSpec((2,), dtypes.uint32), matrix, matrix]
    return passes.prepare(trace_graph(function, specs)[0], NUMPY)


def evaluate(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = [KEY, *(rng.standard_normal((SIDE, SIDE)).astype(np.float32) for _ in range(2))]
    return NUMPY.compile(graph, DEVICE)(arrays)


@given(RECIPES, st.sampled_from([0.0, 0.5, 0.9]), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_the_same_bits_and_never_more_memory(
    recipe: Recipe, share: float, fused: bool, barriers: bool
) -> None:
    graph = program(recipe)
    before = passes.plan_values(graph, donate=[1, 2], fused=fused).lower_bound_bytes
    found = passes.rematerialise(
        graph, target_bytes=int(share * before), donate=[1, 2], fused=fused, barriers=barriers
    )
    assert found.original_peak_bytes == before
    assert found.peak_bytes <= before
    after = passes.plan_values(found.graph, donate=[1, 2], fused=fused).lower_bound_bytes
    assert after <= before
    if not barriers:  # which cut a fused chain, and look like one more use
        assert after <= max(found.peak_bytes, 1)
    plain = passes.inline_composites(found.graph, NUMPY)
    for one, other in zip(evaluate(graph), evaluate(plain), strict=True):
        np.testing.assert_array_equal(one, other)


@given(RECIPES)
def test_nothing_is_computed_again_where_the_target_is_met(recipe: Recipe) -> None:
    graph = program(recipe)
    peak = passes.plan_values(graph, donate=[1, 2]).lower_bound_bytes
    found = passes.rematerialise(graph, target_bytes=peak, donate=[1, 2])
    assert found.dropped == 0
    assert len(found.graph) == len(graph)


@given(RECIPES)
def test_parameters_stay_updated_in_place(recipe: Recipe) -> None:
    graph = program(recipe)
    found = passes.rematerialise(graph, donate=[1, 2])
    before = passes.updated_in_place(graph, [1, 2])
    after = passes.updated_in_place(found.graph, [1, 2])
    assert len(after) == len(before)


def chain(length: int) -> Graph:
    """``length`` tanh forth, and back through all of their derivatives."""

    def function(x: Tensor) -> Sequence[Tensor]:
        def loss(x: Tensor) -> Tensor:
            for _ in range(length):
                x = ak.tanh(x)
            return ak.sum(x)

        return [ak.grad(loss)(x)]

    return passes.prepare(trace_graph(function, [TensorSpec((1000,), dtypes.float32)])[0], NUMPY)


def test_a_long_chain_needs_about_the_square_root_of_its_memory() -> None:
    graph = chain(49)
    found = passes.rematerialise(graph)
    assert found.original_peak_bytes > 49 * 4000
    assert found.peak_bytes < 24 * 4000  # Chen et al.: some 2 sqrt(n), and what is at work
    repeated = len(found.graph) - len(graph)
    assert 0 < repeated < 5 * 49


def test_choices_can_be_restricted() -> None:
    graph = chain(12)
    none = passes.rematerialise(graph, may_drop=lambda value: False)
    assert none.dropped == 0
    never = passes.rematerialise(graph, may_repeat=lambda node: node.primitive.name != "tanh")
    assert never.dropped == 0


def test_barriers_fence_what_is_computed_again() -> None:
    graph = chain(12)
    found = passes.rematerialise(graph, barriers=True).graph
    merged = passes.simplify(found)
    assert found.counts()["barrier"] > 0
    assert merged.counts()["tanh"] > graph.counts()["tanh"]
    unfenced = passes.simplify(passes.rematerialise(graph).graph)
    assert unfenced.counts()["tanh"] == graph.counts()["tanh"]


def test_a_barrier_is_nothing_where_nodes_run_in_order() -> None:
    x = ak.asarray([1.0, 2.0], device="numpy")
    graph, _ = trace_graph(lambda t: get("barrier")(t, t + 1.0), [x.spec])
    assert "barrier" not in passes.prepare(graph, NUMPY).counts()
    assert [y.tolist() for y in get("barrier")(x, x)] == [[1.0, 2.0]] * 2


@pytest.mark.parametrize("count", [2, 5])
def test_sums_of_products_become_one_product(count: int) -> None:
    def function(*operands: Tensor) -> Sequence[Tensor]:
        pairs = list(zip(operands[::2], operands[1::2], strict=True))
        total = None
        for a, b in pairs:
            product = get("matmul")(a, b, transpose_a=True, transpose_b=False)
            total = product if total is None else get("barrier")(total + product)[0]
        return [total * 2.0]

    specs = [TensorSpec((3, 40), dtypes.float64), TensorSpec((3, 50), dtypes.float64)] * count
    graph, _ = trace_graph(function, specs)
    merged = passes.merge_products(graph)
    assert merged.counts()["matmul"] == 1
    assert "barrier" not in merged.counts()
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(spec.shape) for spec in specs]
    results = [NUMPY.compile(passes.prepare(g, NUMPY), DEVICE)(arrays)[0] for g in (graph, merged)]
    assert np.abs(results[1] - results[0]).max() <= 1e-13 * np.abs(results[0]).max()


def test_small_products_are_added_up_as_they_are() -> None:
    def function(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Sequence[Tensor]:
        return [a @ b + c @ d]

    wide, tall = TensorSpec((2, 50), dtypes.float32), TensorSpec((50, 2), dtypes.float32)
    graph, _ = trace_graph(function, [wide, tall, wide, tall])
    assert passes.merge_products(graph).counts()["matmul"] == 2


def momentum_step(count: int, side: int = 400, **options: object) -> Graph:
    """Gradients of ``count`` micro-batches, added up, go into one update."""
    parameters = {"momentum": 0.9, "weight_decay": 1e-2, "nesterov": False, **options}

    def function(p: Tensor, v: Tensor, rate: Tensor, *xs: Tensor) -> Sequence[Tensor]:
        trace = active_trace()
        assert trace is not None
        total = None
        for x in xs:
            g = ak.tanh(x * ak.sum(p))
            with trace.labelled(phase="update"):
                total = g if total is None else get("barrier")(total + g)[0]
        assert total is not None
        with trace.labelled(phase="update"):
            return get("sgd_update")(p, total, v, rate, **parameters)

    matrix = TensorSpec((side, side), dtypes.float64)
    specs = [matrix, matrix, TensorSpec((), dtypes.float64), *[matrix] * count]
    return trace_graph(function, specs)[0]


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_momentum_takes_the_gradients_one_by_one(weight_decay: float) -> None:
    graph = momentum_step(4, weight_decay=weight_decay)
    changed = passes.accumulate_in_momentum(graph)
    before, after = (passes.prepare(g, NUMPY) for g in (graph, changed))
    block = graph.inputs[0].spec.memory_bytes
    peaks = [passes.peak_bytes(g, donate=[0, 1], fused=True) for g in (before, after)]
    assert peaks[1] <= peaks[0] - block  # no sum
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.spec.shape) for v in graph.inputs]
    for one, other in zip(
        *(NUMPY.compile(g, DEVICE)(arrays) for g in (before, after)), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("count", "options"), [(1, {}), (3, {"nesterov": True}), (3, {"momentum": 0.0}), (3, None)]
)
def test_other_sums_stay_as_they_are(count: int, options: dict[str, object] | None) -> None:
    small = options is None  # nothing to be saved
    graph = momentum_step(count, 8) if small else momentum_step(count, **options)
    assert passes.accumulate_in_momentum(graph) is graph
