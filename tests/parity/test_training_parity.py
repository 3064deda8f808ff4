"""``python -m accelkit.parity``: models train alike on every backend, and differences are seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelkit_numpy.table import TABLE
from parity.toy_backend import ToyBackend, WrongBackend

import accelkit as ak
from accelkit import dtypes, losses, models, nn, optim, registry, train
from accelkit.bench.settings import Settings
from accelkit.compilation import compile_graph, run
from accelkit.errors import BackendUnavailableError
from accelkit.graph import Graph
from accelkit.ops.coercion import put
from accelkit.parity import TRAINING_BOUNDS, command
from accelkit.parity.branches import impose_branches, observe_branches
from accelkit.parity.report import failures, to_json
from accelkit.parity.training import (
    Comparison,
    Flips,
    Worst,
    compare_training,
    gradient_deviation,
)

pytestmark = pytest.mark.usefixtures("toys")

FRAMEWORKS = ("torch", "jax", "tensorflow")


def installed(names: tuple[str, ...]) -> list[str]:
    """The backends that can be loaded."""
    found = []
    for name in names:
        try:
            registry.backend(name)
        except BackendUnavailableError:
            continue
        found.append(name)
    return found


@dataclasses.dataclass(frozen=True)
class Workload:
    model: str
    variant: str | None
    image_size: int | None
    width: float | None


WORKLOADS = {
    "alexnet-2012": Workload("alexnet", "2012", 67, 0.05),
    "alexnet-torchvision": Workload("alexnet", "torchvision", 63, 0.05),
    "lenet5": Workload("lenet5", None, None, None),
    "resnet18": Workload("resnet18", None, 32, 0.1),
    "vit": Workload("vit", None, 32, None),
}


def settings_of(name: str, **options: Any) -> Settings:
    values = {"device": "numpy", "batch_size": 3, "steps": 3, "warmup": 0, "seed": 1, **options}
    return Settings(**dataclasses.asdict(WORKLOADS[name]), **values)


# What XLA compiles slowly is compared in one precision, or on one framework. ResNet in float32 is
# left out: the variances of so small a batch are near zero in places, and dividing by them turns
# one rounding into 1e-4, on every backend alike.
RUNS = [
    ("alexnet-2012", "float32", FRAMEWORKS),
    ("alexnet-2012", "float64", FRAMEWORKS),
    ("resnet18", "float64", FRAMEWORKS),
    ("vit", "float32", ("torch",)),
    ("vit", "float64", ("torch",)),
]


@pytest.mark.parametrize(("name", "precision", "frameworks"), RUNS)
def test_models_train_alike_on_every_backend(
    name: str, precision: str, frameworks: tuple[str, ...]
) -> None:
    settings = settings_of(name, precision=precision, steps=2)
    names = ["numpy", *installed(frameworks)]
    comparisons, oracle = compare_training(settings, names)
    assert [c.backend for c in comparisons] == names
    assert len(set(oracle)) == settings.steps
    for found in comparisons:
        assert failures(found, TRAINING_BOUNDS[precision]) == []
        assert len(found.losses) == settings.steps
        assert found.gradient.deviation > 0.0 or (found.backend, precision) == ("numpy", "float64")


@pytest.mark.parametrize("name", ["alexnet-torchvision", "lenet5"])
def test_other_models_train_alike_on_the_reference(name: str) -> None:
    (found,), _ = compare_training(settings_of(name), ["toy"])
    assert failures(found, TRAINING_BOUNDS["float32"]) == []


def test_a_wrong_backend_is_found_and_the_tensor_named() -> None:
    (wrong, right), _ = compare_training(settings_of("lenet5"), ["wrong", "toy"])
    assert failures(right, TRAINING_BOUNDS["float32"]) == []
    problems = failures(wrong, TRAINING_BOUNDS["float32"])
    assert any("gradients deviate" in text for text in problems)
    assert "." in wrong.gradient.tensor


def test_a_backend_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arrays: Any, **parameters: Any) -> Any:
        raise ValueError("no products today")

    monkeypatch.setattr(WrongBackend, "table", {**ToyBackend.table, "matmul": broken})
    (wrong, right), _ = compare_training(settings_of("lenet5"), ["wrong", "toy"])
    assert "no products today" in wrong.error
    assert failures(wrong, TRAINING_BOUNDS["float32"]) == [wrong.error]
    assert len(right.losses) == 3


# --- branches -------------------------------------------------------------------------------------


def _step_graph() -> tuple[Graph, train.TrainStep]:
    layers = nn.Conv2d(4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3)
    step = train.TrainStep(
        nn.Sequential(*layers), losses.SoftmaxCrossEntropy(), optim.sgd(0.1), device="numpy"
    )
    images = np.ones((2, 8, 8, 3), np.float32)
    state = step.init(0, images.shape)
    return step.graph(state, (images, np.zeros(2, np.int32))), step


def test_imposed_branches_replace_piecewise_functions_and_their_gradients() -> None:
    graph, _ = _step_graph()
    imposed = impose_branches(graph)
    counts = imposed.graph.counts()
    piecewise = {"max_pool2d", "max_pool2d_grad", "relu", "relu_grad"}
    assert piecewise <= set(graph.counts())
    assert not piecewise & set(counts)
    assert counts["max_pool2d_gather"] == counts["max_pool2d_scatter"] == 1
    assert counts["select"] == graph.counts().get("select", 0) + 2
    assert [(b.kind, b.spec.dtype) for b in imposed.branches] == [
        ("relu", dtypes.bool_),
        ("max-pool", dtypes.int32),
    ]
    assert len(imposed.graph.inputs) == len(graph.inputs) + 2
    assert len(imposed.graph.outputs) == len(graph.outputs) + 2


def test_imposed_branches_of_the_same_run_change_nothing() -> None:
    graph, step = _step_graph()
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    batch = images, np.zeros(2, np.int32)
    operands = step.operands(step.init(0, images.shape), batch)
    plain = run(compile_graph(observe_branches(graph), step.device), operands)
    branches = [put(b.numpy(), step.device) for b in plain[-2:]]
    again = run(compile_graph(impose_branches(graph).graph, step.device), [*operands, *branches])
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_sign_that_rounding_turned_is_imposed_and_counted() -> None:
    def gradient(x: ak.Tensor) -> ak.Tensor:
        return ak.grad(lambda x: ak.sum(ak.relu(x) * 3.0))(x)

    x = np.array([-1.0, -1e-9, 1e-9, 1.0], np.float32)
    graph = ak.trace(gradient, ak.asarray(x))
    executable = compile_graph(impose_branches(graph).graph, ak.device("numpy"))
    wanted = np.array([True, False, True, False])  # the oracle's: both small ones the other way
    result, own = run(executable, [put(a, ak.device("numpy")) for a in (x, wanted)])
    np.testing.assert_array_equal(result.numpy(), [0.0, 3.0, 0.0, 3.0])
    np.testing.assert_array_equal(own.numpy(), [True, True, False, False])
    assert Flips(1, 10).plus(own.numpy(), wanted) == Flips(3, 14)


def test_a_vanishing_gradient_is_measured_by_the_largest() -> None:
    rounding = np.array([1e-18])
    assert gradient_deviation(np.array([3e-9]), rounding, largest=1.0) < 1e-8
    assert gradient_deviation(np.array([2e-3]), np.array([1e-3]), largest=1.0) == pytest.approx(1.0)


def _turning_small_sums(a: Any, b: Any) -> Any:
    """Sums of images and biases, of which those near zero come out with the other sign."""
    result = np.add(a, b)
    if result.ndim != 4:
        return result
    small = np.abs(result) < 5e-5 * np.max(np.abs(result))
    return np.where(small, -result, result)


def _relu_grad_slightly_off(y: Any, g: Any) -> Any:
    return TABLE["relu_grad"](y, g) * g.dtype.type(1.01)


def test_a_flip_parts_the_free_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WrongBackend, "table", {**ToyBackend.table, "add": _turning_small_sums})
    settings = settings_of("alexnet-torchvision", steps=4)
    (turned,), _ = compare_training(settings, ["wrong"])
    assert turned.flips["relu"].differ > 0
    assert turned.parted is not None
    assert turned.parted_loss.step > turned.parted >= turned.free_loss.step
    assert turned.free_weight == Worst()
    assert turned.weight.deviation < 1e-5
    assert failures(turned, TRAINING_BOUNDS["float32"]) == []


def test_the_free_run_is_bounded_until_it_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # A fault that runs on the oracle's branches cannot show: they hold no ReLU of the backend's.
    table = {**ToyBackend.table, "relu_grad": _relu_grad_slightly_off}
    monkeypatch.setattr(WrongBackend, "table", table)
    settings = settings_of("alexnet-torchvision", precision="float64")
    (wrong,), _ = compare_training(settings, ["wrong"])
    assert wrong.parted is None
    assert wrong.gradient.deviation < 1e-10
    found = failures(wrong, TRAINING_BOUNDS["float64"])
    assert [text.split(" deviate")[0] for text in found] == ["free losses", "free weights"]


def test_losses_after_a_flip_are_reported_without_a_bound() -> None:
    bounds = TRAINING_BOUNDS["float32"]
    off = Worst(1e-3, "loss", 4)
    assert failures(Comparison("toy", parted=3, parted_loss=off), bounds) == []
    (text,) = failures(Comparison("toy", parted=3, free_loss=off), bounds)
    assert text == "free losses to first flip deviate by 1.00e-03, the bound is 1e-05"
    (text,) = failures(Comparison("toy", loss=off), bounds)
    assert text.startswith("losses deviate")


# --- the command ----------------------------------------------------------------------------------

SMALL = ["--model", "lenet5", "--batch-size", "2", "--steps", "2"]


def test_the_command_prints_a_table_and_writes_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "parity.json"
    assert command.main(["--device", "numpy:cpu:0,toy", *SMALL, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "lenet5, float32, batch 2, 2 steps, seed 0" in printed
    for word in ("numpy:cpu:0", "toy:cpu:0", "losses", "gradients", "final weights", "free losses"):
        assert word in printed
    report = json.loads(path.read_text())
    assert report["schema_version"] == 3
    assert [entry["backend"] for entry in report["results"]] == ["numpy", "toy"]
    assert len(report["oracle_losses"]) == 2
    assert report["results"][0]["gradient"]["deviation"] < 1e-5
    assert report["bounds"] == {"losses": 1e-5, "gradients": 1e-5, "weights": None}
    assert command.main(["--device", "toy", *SMALL, "--json", "/dev/full"]) == 2
    assert "/dev/full could not be written: No space left" in capsys.readouterr().err


def test_flips_are_counted_by_the_kind_of_function() -> None:
    settings = settings_of("alexnet-torchvision", steps=1)
    comparisons, losses = compare_training(settings, ["numpy"])
    report = to_json(settings, comparisons, losses, {}, TRAINING_BOUNDS["float32"])
    flips = report["results"][0]["flips"]
    assert set(flips) == {"relu", "max-pool"}
    assert all(0 <= f["differ"] < 0.01 * f["total"] for f in flips.values())


def test_the_command_exits_1_when_a_bound_is_passed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--backend", "wrong", *SMALL]) == 1
    assert "the bound is 1e-05" in " ".join(capsys.readouterr().out.split())


def test_isolated_processes_report_the_same(tmp_path: Path) -> None:
    path = tmp_path / "parity.json"
    names = ["numpy", *installed(("torch",))]
    arguments = ["--backend", ",".join(names), *SMALL, "--precision", "float64"]
    assert command.main([*arguments, "--isolate", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [entry["backend"] for entry in report["results"]] == names
    assert report["bounds"]["weights"] == 1e-10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "trch"], "Did you mean 'torch'?"),
        (["--model", "alexnett"], "Did you mean 'alexnet'"),
        (["--variant", "2013"], "Did you mean '2012'?"),
        (["--precision", "bfloat16"], "Unknown precision 'bfloat16'"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--batch-size", "-1"], "batch_size must be at least 1"),
        (["--variant", "2012", "--image-size", "20"], "features."),
        (["--json", "/nowhere/at/all.json"], "there is no folder"),
    ],
)
def test_bad_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--backend", "numpy", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_nan_is_worse_than_anything() -> None:
    worst = Worst().or_worse(1e-3, "a", 0).or_worse(float("nan"), "b", 1).or_worse(1.0, "c", 2)
    assert worst.tensor == "b"
    found = Comparison("toy", gradient=worst)
    assert failures(found, TRAINING_BOUNDS["float32"])


def test_reports_are_plain_values() -> None:
    settings = settings_of("lenet5")
    report = to_json(settings, [Comparison("toy")], [1.0], {}, TRAINING_BOUNDS["float32"])
    assert json.loads(json.dumps(report)) == report


def test_every_model_is_covered() -> None:
    assert {w.model for w in WORKLOADS.values()} == set(models.names())
