"""Memory plans: no two living blocks overlap, and little is wasted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import accelkit as ak
from accelkit.passes import eliminate_dead_code, plan_memory, plan_values, simplify
from accelkit.passes.arena import ALIGNMENT_BYTES, Interval

INTERVALS = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 8)).map(
        lambda t: Interval(t[0], t[1], t[1] + t[2])
    ),
    max_size=30,
)


@given(INTERVALS)
def test_living_blocks_do_not_overlap(intervals: list[Interval]) -> None:
    plan = plan_memory(intervals)
    placed = list(zip(intervals, plan.offsets, strict=True))
    for position, (a, start) in enumerate(placed):
        assert start % ALIGNMENT_BYTES == 0
        assert start + a.memory_bytes <= plan.peak_bytes
        for b, other in placed[position + 1 :]:
            if a.first <= b.last and b.first <= a.last:
                assert start + a.memory_bytes <= other or other + b.memory_bytes <= start


@given(INTERVALS)
def test_the_lower_bound_is_one(intervals: list[Interval]) -> None:
    plan = plan_memory(intervals)
    steps = {step for a in intervals for step in (a.first, a.last)}
    rounded = [-(-a.memory_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for a in intervals]
    alive = [
        sum(size for a, size in zip(intervals, rounded, strict=True) if a.first <= s <= a.last)
        for s in steps
    ]
    assert plan.lower_bound_bytes == max(alive, default=0)
    assert plan.peak_bytes >= plan.lower_bound_bytes
    # No plan needs more than all blocks side by side.
    assert plan.peak_bytes <= sum(rounded)


def test_a_chain_needs_two_blocks() -> None:
    plan = plan_memory([Interval(1000, i, i + 1) for i in range(50)])
    assert plan.peak_bytes == plan.lower_bound_bytes == 2048


@given(
    st.lists(st.integers(1, 60), min_size=3, max_size=8), st.integers(2, 8), st.integers(0, 2**31)
)
def test_repeated_programs_waste_little(layers: list[int], repeats: int, seed: int) -> None:
    """Forth and back through layers, several times, with a sum that stays for each of them."""
    rng = np.random.default_rng(seed)
    length = 2 * len(layers)
    blocks = []
    for start in range(0, repeats * length, length):
        for depth, size in enumerate(layers):
            made, read = start + depth, start + length - 1 - depth
            blocks.append(Interval(size << 20, made, read))
            blocks.append(Interval(size << 19, read, min(read + 1, repeats * length)))
            if start == 0:
                blocks.append(Interval(int(rng.integers(1, 8)) << 20, read, repeats * length))
    plan = plan_memory(blocks)
    assert plan.peak_bytes <= 1.15 * plan.lower_bound_bytes


def network(x: ak.Tensor, parameters: list[ak.Tensor]) -> ak.Tensor:
    for w in parameters[:3]:
        x = ak.max_pool2d(ak.relu(ak.conv2d(x, w, padding=1)), 2)
    return ak.softmax_cross_entropy(
        x.reshape(x.shape[0], -1) @ parameters[3], ak.asarray(np.zeros(8, "int32"))
    ).sum()


def training_graph() -> ak.graph.Graph:
    shapes = [(3, 3, 3, 8), (3, 3, 8, 16), (3, 3, 16, 32), (4 * 4 * 32, 10)]
    parameters = [ak.zeros(s) for s in shapes]
    graph = ak.trace(
        lambda x, p: ak.grad(lambda q: network(x, q))(p), ak.zeros((8, 32, 32, 3)), parameters
    )
    return eliminate_dead_code(simplify(graph))


def test_the_plan_of_a_training_step_is_near_its_lower_bound() -> None:
    graph = training_graph()
    plan = plan_values(graph)
    assert plan.lower_bound_bytes <= plan.arena_bytes <= 1.1 * plan.lower_bound_bytes
    everything = sum(v.spec.memory_bytes for n in graph for v in n.outputs)
    assert plan.arena_bytes < 0.7 * everything
    assert plan.input_bytes == sum(v.spec.memory_bytes for v in graph.inputs)
    assert "conv2d" in str(plan) or "relu" in str(plan)
    assert plan.largest == tuple(sorted(plan.largest, key=lambda item: -item[0]))


def test_living_values_of_a_training_step_do_not_overlap() -> None:
    graph = training_graph()
    plan = plan_values(graph)
    last = graph.last_uses()
    born = {v: i for i, n in enumerate(graph.nodes) for v in n.outputs}
    assert set(plan.offsets) <= set(born)

    def source(value: ak.graph.Value) -> ak.graph.Value:
        while value.node is not None and value.node.primitive.name == "reshape":
            value = value.node.inputs[0]
        return value

    values = [v for v in born if source(v).node is not None]
    assert set(values) == set(plan.offsets)
    for position, a in enumerate(values):
        for b in values[position + 1 :]:
            together = born[a] <= last.get(b, born[b]) and born[b] <= last.get(a, born[a])
            if not together or source(a) is source(b):
                continue
            low, high = sorted((a, b), key=lambda v: plan.offsets[v])
            assert plan.offsets[low] + low.spec.memory_bytes <= plan.offsets[high]


def test_views_of_inputs_need_no_memory() -> None:
    graph = ak.trace(lambda x: x.reshape(6), ak.zeros((2, 3)))
    plan = plan_values(graph)
    assert plan.arena_bytes == 0
    assert plan.offsets == {}


def test_a_view_keeps_its_source_alive() -> None:
    def program(x: ak.Tensor) -> ak.Tensor:
        view = ak.exp(x).reshape(6)  # exp's memory is the view's
        other = ak.sin(x)
        return view * ak.cos(other).reshape(6)

    graph = ak.trace(program, ak.zeros((2, 3)))
    plan = plan_values(graph)
    by_name = {
        n.primitive.name: plan.offsets[n.outputs[0]] for n in graph if n.outputs[0] in plan.offsets
    }
    assert len({by_name["exp"], by_name["sin"], by_name["cos"]}) == 3
