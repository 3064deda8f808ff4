"""Profiles: every primitive once, and sums that add up."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

import accelkit as ak
from accelkit import Device, bench, registry
from accelkit.bench.profile import PHASES, chrome_trace, group, profile_graph
from accelkit.bench.report import print_profile
from accelkit.bench.workload import Workload
from accelkit.graph import node_flops

SETTINGS = bench.Settings("numpy", "lenet5", batch_size=2)


@pytest.fixture(scope="module")
def profile() -> dict:
    return bench.profile(SETTINGS, passes=2)


def test_every_node_of_the_prepared_graph_appears_once_in_order(profile):
    graph = Workload(SETTINGS, Device("numpy")).compile().graph
    assert [n["primitive"] for n in profile["nodes"]] == [n.primitive.name for n in graph.nodes]
    assert [n["layer"] for n in profile["nodes"]] == [n.scope for n in graph.nodes]
    assert [n["flops"] for n in profile["nodes"]] == [node_flops(n) for n in graph.nodes]
    assert {n["phase"] for n in profile["nodes"]} == set(PHASES)


def test_nodes_follow_each_other_without_gap(profile):
    end = 0.0
    for node in profile["nodes"]:
        assert node["start_s"] == pytest.approx(end)
        assert node["duration_s"] > 0.0
        end += node["duration_s"]


@pytest.mark.parametrize("key", ["layer", "primitive"])
def test_groups_add_up_to_the_whole(profile, key):
    nodes = profile["nodes"]
    rows = group(nodes, key)
    assert set(rows) == {node[key] for node in nodes}
    assert sum(row["count"] for row in rows.values()) == len(nodes)
    for total, part in (("total", "duration_s"), ("flops", "flops")):
        whole = sum(node[part] for node in nodes)
        assert sum(row[total] for row in rows.values()) == pytest.approx(whole)
    for row in rows.values():
        assert row["total"] == pytest.approx(sum(row[phase] for phase in PHASES))


def test_layers_hold_their_own_primitives(profile):
    fc1 = [node for node in profile["nodes"] if node["layer"] == "fc1"]
    assert {node["phase"] for node in fc1} == set(PHASES)
    assert "matmul" in {node["primitive"] for node in fc1}


@pytest.mark.parametrize("backend", sorted({info.device.backend for info in ak.devices()}))
def test_every_backend_can_be_profiled(backend):
    settings = bench.Settings(f"{backend}:cpu", "lenet5", batch_size=2, mode="infer")
    found = bench.profile(settings, passes=1)
    layers = group(found["nodes"], "layer")
    assert {"conv1", "conv2", "fc1", "fc2", "fc3"} <= layers.keys()
    assert {"conv2d", "matmul"} <= group(found["nodes"], "primitive").keys()
    assert layers["conv2"]["flops"] >= 2 * 2 * 10 * 10 * 25 * 6 * 16
    events = [e for e in chrome_trace([found])["traceEvents"] if e["ph"] == "X"]
    assert len(events) == len(found["nodes"])
    assert found["compiled_step_s"] > 0.0


def test_profiling_changes_neither_inputs_nor_state():
    workload = Workload(SETTINGS, Device("numpy"))
    arrays = [tensor.native for tensor in workload.operands()]
    before = [np.array(array) for array in arrays]
    profile_graph(workload.compile().graph, arrays, workload.device, passes=1)
    for old, new in zip(before, arrays, strict=True):
        np.testing.assert_array_equal(old, new)
    workload.state.require_usable()


def test_inference_can_be_profiled():
    settings = bench.Settings("numpy", "lenet5", batch_size=2, mode="infer")
    found = bench.profile(settings, passes=1)
    assert {node["phase"] for node in found["nodes"]} == {"forward"}


def test_the_trace_is_in_chromes_format(profile):
    trace = json.loads(json.dumps(chrome_trace([profile, profile])))
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    names = {e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    assert len(complete) == 2 * len(profile["nodes"])
    assert names == {"numpy:cpu:0, node by node", *PHASES}
    assert {event["pid"] for event in complete} == {0, 1}
    for event in complete:
        assert event["ts"] >= 0.0
        assert event["dur"] > 0.0
        assert PHASES[event["tid"]] == event["cat"]
    total = sum(node["duration_s"] for node in profile["nodes"])
    assert sum(event["dur"] for event in complete) == pytest.approx(2e6 * total)


def test_the_printed_profile_names_layers_primitives_and_its_limits(profile):
    from rich.console import Console

    stream = io.StringIO()
    print_profile(Console(width=160, file=stream), profile)
    for word in ("conv2", "conv2d_weight_grad", "sgd_update", "nothing was fused"):
        assert word in stream.getvalue()


def test_the_reference_backend_is_registered():
    from accelkit.bench.report import REFERENCE_BACKEND

    assert registry.backend_names()[0] == REFERENCE_BACKEND
