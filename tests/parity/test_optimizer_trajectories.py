"""Optimizers against torch.optim, over steps whose learning rate changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit import optim
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


def test_another_rule_is_told_apart() -> None:
    """Keras folds the learning rate into the velocity: another trajectory once it changes."""
    found = own_trajectory(optim.sgd(rate, momentum=0.9))
    other = torch_trajectory(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=1e-9))
    assert any(deviation(a, b) > BOUND for a, b in zip(found, other, strict=True))
