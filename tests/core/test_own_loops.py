"""Training loops of one's own: optimizers on pytrees, keys as arguments of compiled functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit import losses, nn, optim, train
from accelkit.errors import OptionError, ShapeError
from accelkit.parity import deviation
from accelkit.parity.tolerances import TRAINING_BOUNDS

MODEL = nn.Sequential(nn.Linear(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(2))
BACKENDS = sorted({info.device.backend for info in ak.devices()})
INPUTS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
TARGETS = np.random.default_rng(1).standard_normal((4, 2)).astype(np.float32)


def schedule(step: int) -> float:
    return 0.1 / (step + 1)


OPTIMIZERS = {
    "sgd": optim.sgd(schedule),
    "momentum": optim.sgd(schedule, momentum=0.9, weight_decay=0.1, clip_norm=0.5),
    "adamw": optim.adamw(schedule, decays=lambda name: name.endswith("weight")),
    "averaged": optim.averaged(optim.adam(schedule), 0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loop_of_ones_own_does_what_the_training_step_does(name: str) -> None:
    optimizer, model = OPTIMIZERS[name], nn.Sequential(nn.Linear(8), nn.Tanh(), nn.Linear(2))
    step = train.TrainStep(model, losses.MeanSquaredError(), optimizer, device="numpy")
    state = step.init(0, INPUTS.shape)
    parameters = model.init(0, INPUTS.shape, device="numpy")
    slots = optimizer.init(parameters)

    @ak.jit
    def update(parameters: Any, slots: Any, numbers: Any) -> Any:
        def loss(p: Any) -> ak.Tensor:
            return ak.mean(ak.square(model(p, INPUTS) - ak.asarray(TARGETS)))

        return optimizer.apply(parameters, ak.grad(loss)(parameters), slots, numbers)

    for i in range(3):
        state, _ = step(state, (INPUTS, TARGETS))
        parameters, slots = update(parameters, slots, optimizer.numbers(i, device="numpy"))
    assert update.cache_size == 1
    found, expected = (
        ak.tree.flatten([parameters, slots]),
        [state.parameters, state.optimizer_state],
    )
    for ours, theirs in zip(found[0], ak.tree.flatten(expected)[0], strict=True):
        assert deviation(ours.numpy(), theirs.numpy()) < TRAINING_BOUNDS["float32"].losses


def test_parameters_may_be_any_pytree() -> None:
    optimizer = optim.sgd(0.5, momentum=0.5)
    parameters = [(ak.asarray([1.0, 2.0]), {"b": ak.asarray(3.0)})]
    slots = optimizer.init(parameters)
    for step in range(2):
        numbers = optimizer.numbers(step)
        parameters, slots = optimizer.apply(parameters, parameters, slots, numbers)
    ((weight, others),) = parameters
    assert weight.tolist() == [0.0, 0.0]  # 1 - 0.5, then 0.5 - 0.5 * (0.5 * 1 + 0.5)
    assert slots["velocity"][0][1]["b"].tolist() == 3.0
    assert others["b"].tolist() == 0.0


P, ADAM = {"w": ak.ones((2,))}, optim.adam()
WRONG = {
    "no numbers": (lambda: ADAM.apply(P, P, ADAM.init(P), {}), "optimizer.numbers"),
    "a step": (lambda: ADAM.apply(P, P, ADAM.init(P), 3), "`optimizer.numbers.step.` returns"),
    "floats": (lambda: ADAM.apply(P, P, ADAM.init(P), ADAM.scalars(0)), "serves every step"),
    "no slots": (lambda: ADAM.apply(P, P, {}, ADAM.numbers(0)), r"`optimizer\.init\(parameters\)`"),
    "slots of another": (
        lambda: ADAM.apply(P, P, optim.sgd(0.1, momentum=0.9).init(P), ADAM.numbers(0)),
        "must hold first_moment, second_moment, .* got velocity",
    ),
    "other gradients": (
        lambda: ADAM.apply(P, {"v": P["w"]}, ADAM.init(P), ADAM.numbers(0)),
        "`gradients` must have the structure of the parameters",
    ),
    "arrays": (lambda: ADAM.init({"w": np.ones(2)}), "must be tensors, .* got ndarray"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(OptionError, match=message):
        call()


def test_shapes_must_fit() -> None:
    with pytest.raises(
        ShapeError, match=r"`gradients` holds \(3,\) for a parameter of shape \(2,\)"
    ):
        ADAM.apply(P, {"w": ak.ones((3,))}, ADAM.init(P), ADAM.numbers(0))


def test_an_update_returns_the_slots_that_it_declares() -> None:
    class Forgetful(optim.Optimizer):
        learning_rate = 0.1
        slots = ("kept",)

        def update(self, parameter, gradient, slots, scalars):  # type: ignore[no-untyped-def]
            return parameter, {}

    optimizer = Forgetful()
    with pytest.raises(
        OptionError, match=r"Forgetful returned the slots \[\], expected \['kept'\]"
    ):
        optimizer.apply(P, P, optimizer.init(P), optimizer.numbers(0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_key_as_an_argument_draws_anew_with_one_program(backend: str) -> None:
    parameters = MODEL.init(0, INPUTS.shape, device=backend)
    x = ak.asarray(INPUTS, device=backend)

    def masked(key: Any) -> ak.Tensor:
        return MODEL.apply(parameters, x, training=True, random=key)[0]

    compiled = ak.jit(masked)
    keys = [ak.random.key(0, step=step, device=backend) for step in range(3)]
    found = [compiled(key).numpy() for key in keys]
    assert compiled.cache_size == 1
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])
    eager = masked(keys[0]).numpy()
    assert deviation(found[0], eager) < TRAINING_BOUNDS["float32"].losses
    with ak.default_device("numpy"):
        host = ak.random.Stream(ak.random.key(0)).key("2")
    on_device = ak.random.Stream(keys[0]).key("2")
    assert on_device.tolist() == host.tolist() != keys[0].tolist()


@dataclass(frozen=True)
class Autoencoder(nn.Module):
    """A variational autoencoder: reconstruction, mean and logarithm of the variance."""

    def forward(self, scope: nn.Scope, x: ak.Tensor) -> dict[str, ak.Tensor]:
        mean, logarithm = ak.split(scope.run("encoder", nn.Linear(4), x), 2, axis=-1)
        scale = scope.parameter("scale", (), nn.ones)  # a number
        noise = ak.random.normal(scope.key(), mean.shape) if scope.training else 0.0
        latent = mean + ak.exp(logarithm * 0.5) * scale * noise
        y = scope.run("decoder", nn.Linear(x.shape[-1]), latent)
        return {"y": y, "mean": mean, "logarithm": logarithm}


class Bound(losses.Loss):
    def __call__(self, outputs: Any, targets: ak.Tensor) -> ak.Tensor:
        mean, logarithm = outputs["mean"], outputs["logarithm"]
        distance = ak.sum(ak.square(outputs["y"] - targets), axis=1)
        return distance + ak.sum(ak.exp(logarithm) + mean * mean - logarithm - 1.0, axis=1) * 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_with_several_outputs_trains(backend: str) -> None:
    model = Autoencoder()
    spec = model.specify(INPUTS.shape)
    assert spec.output["mean"].shape == (4, 2)
    assert "logarithm: float32[4,2]" in str(spec)
    assert model.init(0, INPUTS.shape)["scale"].shape == ()
    step = train.TrainStep(model, Bound(), optim.adam(0.05), device=backend)
    state = step.init(0, INPUTS.shape)
    found = []
    for _ in range(20):
        state, report = step(state, (INPUTS, INPUTS))
        found.append(report["loss"])
    assert found[-1] < found[0]
    evaluation = train.EvalStep(model, Bound(), device=backend)
    assert evaluation(state, (INPUTS, INPUTS))["loss"] < found[0]


def test_losses_of_one_output_say_so() -> None:
    step = train.TrainStep(Autoencoder(), losses.MeanSquaredError(), optim.sgd(0.1))
    state = step.init(0, INPUTS.shape)
    with pytest.raises(
        OptionError, match=r"got dict\. MeanSquaredError is of one output: write a Los"
    ):
        step(state, (INPUTS, INPUTS))


def test_a_module_returns_something() -> None:
    with pytest.raises(
        OptionError, match=r"Function\.forward must return a Tensor, .* got NoneType"
    ):
        nn.Function(lambda x: None).init(0, (1, 2))


def test_an_initializer_draws_the_shape_that_was_asked_for() -> None:
    with pytest.raises(
        ShapeError, match=r"of 'bias' drew an array of shape \(2,\), expected \(3,\)"
    ):
        nn.Linear(3, bias_init=lambda key, shape: np.zeros(2)).init(0, (1, 2))


def test_a_stream_of_a_key_takes_no_step() -> None:
    with pytest.raises(OptionError, match="A key has its step in itself"):
        ak.random.Stream(ak.random.key(0), step=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws(backend: str) -> None:
    key = ak.random.key(3, device=backend)
    integers = ak.random.integers(key, (4000,), low=-2, high=3)
    assert integers.dtype is ak.int32
    counts = np.bincount(integers.numpy() + 2, minlength=5)
    assert counts.size == 5
    assert counts.min() > 700
    assert 900 < int(ak.sum(ak.random.bernoulli(key, 0.25, (4000,)).astype("int32"))) < 1100
    logits = ak.log(ak.asarray([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], device=backend))
    drawn = ak.random.categorical(key, ak.broadcast_to(logits, (2000, 2, 3))).numpy()
    assert drawn.shape == (2000, 2)
    assert (drawn[:, 1] == 1).all()
    assert 900 < (drawn[:, 0] == 0).sum() < 1100
    with ak.default_device("numpy"):
        same = ak.random.integers(ak.random.key(3), (4000,), low=-2, high=3)
    np.testing.assert_array_equal(same.numpy(), integers.numpy())


@pytest.mark.parametrize(("low", "high"), [(0, 0), (3, 2), (0, 2**24 + 1), (0.5, 2), (0, True)])
def test_ranges_of_integers(low: Any, high: Any) -> None:
    with pytest.raises(OptionError, match=r"`(low|high)` must be"):
        ak.random.integers(ak.random.key(0), (2,), low=low, high=high)
