"""The order of parameter updates."""

from __future__ import annotations

import numpy as np

from accelkit import losses, nn, optim, passes, registry, train
from accelkit.graph import Graph

MODEL = nn.Sequential(nn.Linear(64), nn.ReLU(), nn.Linear(64), nn.ReLU(), nn.Linear(3))


def prepared() -> tuple[Graph, Graph]:
    step = train.TrainStep(MODEL, losses.SoftmaxCrossEntropy(), optim.adam(0.1), device="numpy")
    state = step.init(0, (2, 64))
    batch = np.ones((2, 64), np.float32), np.zeros(2, np.int32)
    graph = passes.simplify(step.graph(state, batch))
    backend = registry.backend("numpy")
    return passes.eliminate_dead_code(graph), passes.prepare(graph, backend)


def test_each_update_follows_what_it_waits_for() -> None:
    _, graph = prepared()
    defined = set(graph.inputs)
    read_later = {}
    for index, node in enumerate(graph.nodes):
        assert all(v in defined for v in node.inputs)
        defined.update(node.outputs)
        for value in node.inputs:
            read_later[value] = index
    updates = [i for i, n in enumerate(graph.nodes) if n.primitive.name == "adam_update"]
    assert len(updates) == 6
    assert updates[0] < max(i for i, n in enumerate(graph.nodes) if n.primitive.name == "matmul")
    for index in updates:
        parameter = graph.nodes[index].inputs[0]
        assert read_later[parameter] == index, "a parameter is read after its update"


def test_gradients_do_not_pile_up() -> None:
    late, early = prepared()
    donate = [i for i, name in enumerate(early.input_names) if "." in name]
    assert len(passes.updated_in_place(early, donate)) == 18
    planned = [passes.plan_values(g, donate=donate).arena_bytes for g in (late, early)]
    assert planned[1] < planned[0]
