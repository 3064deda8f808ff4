"""All measured programs compute the same: the comparison that every benchmark begins with."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks import native, peers
from benchmarks.measure import (
    AGREEMENT_BOUND,
    AGREEMENT_STEPS,
    Result,
    agreement_workload,
    deviations,
)
from benchmarks.processes import ProgramProcess
from benchmarks.program import KINDS, PROGRAMS
from benchmarks.workload import MODELS, Workload

ALL = [Workload(model, 8, 2) for model in MODELS if model != "vit-tiny"]
ALL += [dataclasses.replace(workload, task="infer") for workload in ALL]
MLP = [workload for workload in ALL if workload.model == "mlp"]
FEW = [w for w in ALL if w.model in ("mlp", "alexnet-2012", "vit-micro")]
# Compilers need up to minutes for the rest, which every run of the benchmark checks itself.
CHECKED = {
    "torch-eager": ALL,
    "torch-channels-last": FEW,
    "jax-jit": FEW,
    "tensorflow-graph": ALL,
    "tensorflow-xla": MLP,
    "keras-torch": FEW,
    "keras-jax": MLP,
    "keras-tensorflow": MLP,
    "tinygrad-opencl": MLP,
}


@pytest.fixture(scope="module")
def reference() -> dict[Workload, list[float]]:
    """The losses of accelkit's program on the reference backend, by workload."""
    found = {}
    for workload in map(agreement_workload, ALL):
        program = PROGRAMS["accelkit-numpy"].builder()(workload, workload.weights())
        found[workload] = [float(program.step()) for _ in range(AGREEMENT_STEPS)]
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CHECKED)
def test_losses_agree_with_accelkits(name, reference):
    missing = PROGRAMS[name].missing()
    if missing is not None:
        pytest.skip(missing)
    process = ProgramProcess(name, 2)
    try:
        for workload in map(agreement_workload, CHECKED[name]):
            losses = process.request("losses", workload=workload.to_json(), steps=AGREEMENT_STEPS)
            np.testing.assert_allclose(losses, reference[workload], rtol=AGREEMENT_BOUND)
    finally:
        process.close()


def test_inference_does_not_train(reference):
    for workload, losses in reference.items():
        assert (len(set(losses)) == 1) == (not workload.is_training)


@pytest.mark.parametrize(
    "change", [{"weight_decay": 0.0}, {"momentum": 0.85}, {"learning_rate": 0.0021}]
)
def test_the_comparison_notices_another_update(change):
    correct = agreement_workload(Workload("mlp", 32, 2))
    weights = correct.weights()
    curves = []
    for workload in (correct, correct, dataclasses.replace(correct, **change)):
        program = PROGRAMS["accelkit-numpy"].builder()(workload, weights)
        losses = [float(program.step()) for _ in range(AGREEMENT_STEPS)]
        curves.append(Result(str(len(curves)), losses=losses))
    first, second, changed = deviations(curves).values()
    assert first == second == 0
    assert changed > 3 * AGREEMENT_BOUND


@pytest.mark.parametrize("package", [native, peers])
def test_rivals_do_not_use_accelkit(package):
    for path in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0].startswith("accelkit") for name in names), path


def test_every_accelkit_program_has_a_rival_in_its_group():
    for name, entry in PROGRAMS.items():
        assert entry.kind in KINDS
        group = {e.kind for e in PROGRAMS.values() if e.group == entry.group}
        if name != "accelkit-numpy" and entry.kind == "accelkit":
            assert group & {"native", "peer"}, name


def test_every_framework_has_its_peer():
    peers_ = {e.group for e in PROGRAMS.values() if e.kind == "peer"}
    assert {"torch", "jax", "tensorflow", "opencl"} <= peers_


def test_what_is_missing_is_named():
    entry = PROGRAMS["jax-jit"]
    assert dataclasses.replace(entry, requires=("no_such",)).missing() == "no_such is not installed"
    found = dataclasses.replace(entry, command="no-such-command").missing()
    assert found == "the command no-such-command is not installed"
