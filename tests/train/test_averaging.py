"""Averages of the weights: against the weighted mean written out, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import accelkit as ak
from accelkit import losses, nn, optim, train
from accelkit.errors import OptionError, StateError
from accelkit.nn.module import flatten_names

BACKENDS = sorted({info.device.backend for info in ak.devices()})
MODEL = nn.Sequential(
    body=nn.Linear(6), norm=nn.BatchNorm(), relu=nn.ReLU(), drop=nn.Dropout(0.3), head=nn.Linear(3)
)
SHAPE = (8, 4)
DECAY = 0.7
STEPS = 4


def mean_of(weights: list[np.ndarray], decay: float) -> np.ndarray:
    """The mean in which what is s steps old weighs decay^s."""
    shares = np.array([decay**s for s in reversed(range(len(weights)))])
    return np.einsum("s...,s->...", np.stack(weights).astype(np.float64), shares / shares.sum())


@given(
    st.sampled_from([0.0, 0.5, 0.9, 0.999]),
    st.sampled_from([optim.sgd(0.3), optim.sgd(0.3, momentum=0.9), optim.adamw(0.05)]),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_the_average_is_the_weighted_mean_and_training_is_unchanged(
    decay: float, optimizer: optim.Optimizer, steps: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    both = optim.averaged(optimizer, decay)
    p = alone = ak.asarray(rng.standard_normal((3, 2)))
    slots, own = both.initial_slots(p), optimizer.initial_slots(p)
    assert slots["average"].tolist() == p.tolist()
    weights = []
    for step in range(steps):
        g = ak.asarray(rng.standard_normal((3, 2)))
        numbers = {n: ak.asarray(v, dtype="float64") for n, v in both.scalars(step).items()}
        p, slots = both.update(p, g, slots, numbers)
        alone, own = optimizer.update(alone, g, own, numbers)
        weights.append(p.numpy())
        assert p.numpy().tobytes() == alone.numpy().tobytes()
    np.testing.assert_allclose(slots["average"].numpy(), mean_of(weights, decay), atol=1e-13)


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE).astype(np.float32), rng.integers(0, 3, SHAPE[0])


def make(device: str = "numpy", **options: Any) -> train.TrainStep:
    options.setdefault("optimizer", optim.averaged(optim.sgd(0.2, momentum=0.9), DECAY))
    model = options.pop("model", MODEL)
    return train.TrainStep(model, losses.SoftmaxCrossEntropy(), device=device, **options)


def named(nested: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in flatten_names(nested)}


def history(
    step: train.TrainStep, state: train.TrainState, start: int = 0
) -> tuple[train.TrainState, list[dict[str, np.ndarray]]]:
    """The state after some steps, and the weights after each of them."""
    found = []
    for index in range(start, STEPS):
        state, report = step(state, batch(index))
        assert np.isfinite(report["loss"])
        found.append(named(state.parameters))
    return state, found


@pytest.mark.parametrize("device", BACKENDS)
def test_steps_average_and_evaluations_use_it(device: str) -> None:
    step = make(device, trainable=lambda name: not name.startswith("norm"))
    state, weights = history(step, step.init(5, SHAPE))
    averages = named(state.averaged_parameters)
    for name, average in averages.items():
        wanted = mean_of([each[name] for each in weights], DECAY)
        np.testing.assert_allclose(average, wanted, atol=2e-6)
    options: dict[str, Any] = {"device": device}
    loss = losses.SoftmaxCrossEntropy()
    by_average = train.EvalStep(MODEL, loss, averaged=True, **options)
    by_weights = train.EvalStep(MODEL, loss, **options)
    found = by_average(state, batch(9))["loss"]
    substituted = {f"parameters.{n}": a for n, a in averages.items()}
    other = train.TrainState.from_host(
        {**state.to_host(), **substituted}, step=0, seed=0, device=device
    )
    assert found == by_weights(other, batch(9))["loss"]
    assert abs(found - by_weights(state, batch(9))["loss"]) > 1e-4
    tensors = tuple(ak.asarray(part, device=device) for part in batch(9))
    tensors = tensors[0], ak.astype(tensors[1], "int32")
    for _ in range(2):  # the second call takes the short way
        assert by_average(state, tensors)["loss"] == found
    _, report = step(state, batch(STEPS))
    assert np.isfinite(report["loss"])


@pytest.mark.parametrize("device", [name for name in BACKENDS if name != "numpy"])
def test_a_run_that_averages_moves_between_backends(device: str) -> None:
    step, other = make("numpy"), make(device)
    straight, _ = history(step, step.init(5, SHAPE))
    state = step.init(5, SHAPE)
    for index in range(2):
        state, _ = step(state, batch(index))
    moved, _ = history(other, state.to(device), start=2)
    for name, expected in named(straight.averaged_parameters).items():
        found = named(moved.averaged_parameters)[name]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:host_state=True saves no memory")
def test_averages_on_the_host_and_of_micro_batches_are_the_same() -> None:
    model = nn.Sequential(body=nn.Linear(6), relu=nn.ReLU(), head=nn.Linear(3))
    plain = make(model=model)
    expected = named(history(plain, plain.init(5, SHAPE))[0].averaged_parameters)
    for options in ({"host_state": True}, {"accumulate": 2}):
        step = make("torch" if "torch" in BACKENDS else "numpy", model=model, **options)
        state, _ = history(step, step.init(5, SHAPE))
        for name, found in named(state.averaged_parameters).items():
            np.testing.assert_allclose(found, expected[name], atol=1e-5)
        evaluate = train.EvalStep(
            model, losses.SoftmaxCrossEntropy(), averaged=True, device=step.device
        )
        assert np.isfinite(evaluate(state, batch(9))["loss"])


def test_a_skipped_step_leaves_the_average_alone() -> None:
    step = make(on_nonfinite="skip")
    state, _ = history(step, step.init(5, SHAPE))
    before = named(state.averaged_parameters)
    inputs, labels = batch(0)
    inputs[0, 0] = np.inf
    state, _ = step(state, (inputs, labels))
    for name, found in named(state.averaged_parameters).items():
        assert found.tobytes() == before[name].tobytes()


def test_what_cannot_be_averaged_is_refused() -> None:
    inner = optim.sgd(0.1)
    with pytest.raises(OptionError, match=r"`decay` must be in \[0, 1\), got 1\.0"):
        optim.averaged(inner, 1.0)
    with pytest.raises(OptionError, match="keeps a slot 'average' already"):
        optim.averaged(optim.averaged(inner, 0.9), 0.9)
    with pytest.raises(OptionError, match="`optimizer` must be"):
        optim.averaged("sgd", 0.9)  # type: ignore[arg-type]
    step = make(optimizer=inner)
    state = step.init(5, SHAPE)
    evaluate = train.EvalStep(MODEL, losses.SoftmaxCrossEntropy(), averaged=True)
    for ask in (lambda: state.averaged_parameters, lambda: evaluate(state, batch(0))):
        with pytest.raises(StateError, match=r"no averages .*`optim\.averaged\(optim"):
            ask()
    with pytest.raises(StateError, match=r"it lacks 'optimizer\.average"):
        make()(state, batch(0))
