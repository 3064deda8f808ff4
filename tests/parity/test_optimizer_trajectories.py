"""Optimizers against torch.optim, over steps whose learning rate changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit import losses, nn, optim, train
from accelkit.parity import deviation, tolerance

torch = pytest.importorskip("torch")

STEPS = 12
SHAPES = ((4, 3), (5,), ())
BOUND = tolerance(ak.float64, gradient=True, length=STEPS * STEPS)


def rate(step: int) -> float:
    """Falls, jumps up, and is zero once."""
    return 0.0 if step == 5 else 0.1 * 0.7**step + (0.05 if step > 7 else 0.0)


def gradient(shape: tuple[int, ...], parameter: np.ndarray, step: int) -> np.ndarray:
    """Of a bumpy bowl: it depends on the parameter, so that errors would feed back."""
    noise = np.random.default_rng((step, len(shape))).standard_normal(shape)
    return np.asarray(parameter + np.sin(3.0 * parameter) + 0.1 * noise)


def own_trajectory(optimizer: optim.Optimizer) -> list[np.ndarray]:
    found = []
    for position, shape in enumerate(SHAPES):
        p = ak.asarray(np.random.default_rng(position).standard_normal(shape))
        slots = {name: ak.zeros_like(p) for name in optimizer.slot_names()}
        for step in range(STEPS):
            scalars = {
                name: ak.asarray(value, dtype="float64")
                for name, value in optimizer.scalars(step).items()
            }
            g = ak.asarray(gradient(shape, p.numpy(), step))
            p, slots = optimizer.update(p, g, slots, scalars)
            found.append(p.numpy())
    return found


def torch_trajectory(make: Any) -> list[np.ndarray]:
    found = []
    for position, shape in enumerate(SHAPES):
        start = np.random.default_rng(position).standard_normal(shape)
        p = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
        optimizer = make([p])
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            p.grad = torch.tensor(gradient(shape, p.detach().numpy(), step))
            optimizer.step()
            found.append(p.detach().numpy().copy())
    return found


CASES: dict[str, tuple[optim.Optimizer, Any]] = {
    "sgd": (optim.sgd(rate), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (
        optim.sgd(rate, momentum=0.9),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    ),
    "momentum_and_weight_decay": (
        optim.sgd(rate, momentum=0.9, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.05),
    ),
    "nesterov": (
        optim.sgd(rate, momentum=0.8, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
    ),
    "adam": (optim.adam(rate), lambda p: torch.optim.Adam(p, 0.1)),
    "adam_with_weight_decay": (
        optim.adam(rate, beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "adamw": (
        optim.adamw(rate, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_trajectory(name: str) -> None:
    optimizer, make = CASES[name]
    for a, b in zip(own_trajectory(optimizer), torch_trajectory(make), strict=True):
        assert deviation(a, b) <= BOUND


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clipping_is_that_of_torch(scale: float) -> None:
    arrays = [gradient(shape, np.zeros(shape), 0) * scale for shape in SHAPES]
    given = {str(i): ak.asarray(a) for i, a in enumerate(arrays)}
    parameters = [torch.nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in SHAPES]
    for parameter, array in zip(parameters, arrays, strict=True):
        parameter.grad = torch.tensor(array)
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.3)  # divides by the norm + 1e-6
    assert deviation(optim.global_norm(given).numpy(), norm.numpy()) <= BOUND
    clipped = optim.clip_by_global_norm(given, 0.3)
    for found, parameter in zip(clipped.values(), parameters, strict=True):
        np.testing.assert_allclose(found.numpy(), parameter.grad.numpy(), rtol=2e-5)
    assert float(optim.global_norm(clipped)) <= 0.3 * (1 + 1e-12)


def test_weight_decay_of_some_parameters_is_that_of_torchs_groups() -> None:
    """In a whole step, with clipping, against a torch module of the same weights."""
    model = nn.Sequential(hidden=nn.Linear(5), tanh=nn.Tanh(), out=nn.Linear(3))
    optimizer = optim.adamw(
        0.05, weight_decay=0.3, decays=lambda name: name.endswith("weight"), clip_norm=0.1
    )
    step = train.TrainStep(model, losses.MeanSquaredError(), optimizer, precision="float64")
    state = step.init(0, (6, 4))
    start = {n.removeprefix("parameters."): a for n, a in state.to_host().items()}
    twin = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    twin = twin.double()
    with torch.no_grad():
        for index, name in ((0, "hidden"), (2, "out")):
            twin[index].weight.copy_(torch.tensor(start[f"{name}.weight"].T))
            twin[index].bias.copy_(torch.tensor(start[f"{name}.bias"]))
    groups = [
        {"params": [twin[0].weight, twin[2].weight], "weight_decay": 0.3},
        {"params": [twin[0].bias, twin[2].bias], "weight_decay": 0.0},
    ]
    rival = torch.optim.AdamW(groups, 0.05)
    rng = np.random.default_rng(0)
    for _ in range(5):
        inputs, targets = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
        state, report = step(state, (inputs, targets))
        rival.zero_grad()
        loss = torch.nn.functional.mse_loss(twin(torch.tensor(inputs)), torch.tensor(targets))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        rival.step()
        np.testing.assert_allclose(report["loss"], loss.item(), rtol=1e-4)
    found = state.to_host()
    for index, name in ((0, "hidden"), (2, "out")):
        weight = twin[index].weight.detach().numpy().T
        np.testing.assert_allclose(found[f"parameters.{name}.weight"], weight, rtol=1e-4)


def test_another_rule_is_told_apart() -> None:
    """Keras folds the learning rate into the velocity: another trajectory once it changes."""
    found = own_trajectory(optim.sgd(rate, momentum=0.9))
    other = torch_trajectory(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=1e-9))
    assert any(deviation(a, b) > BOUND for a, b in zip(found, other, strict=True))
