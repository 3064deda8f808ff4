"""Running out of memory in the first step of a device with memory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from accelkit_numpy import NumpyBackend

import accelkit as ak
from accelkit import losses, nn, optim, registry, train
from accelkit.device import DeviceInfo
from accelkit.errors import OutOfMemoryError, StateLostError

SHAPE = (4, 3)
BATCH = (np.ones(SHAPE, np.float32), np.arange(4))


class Card(NumpyBackend):
    """NumPy as a card: donated inputs are overwritten, and the first executions fail."""

    name: ClassVar[str] = "card"
    failures: ClassVar[int] = 0

    def devices(self) -> list[DeviceInfo]:
        return [DeviceInfo(ak.Device("card", "gpu", 0), "card", 2**30, "0")]

    def device_of(self, array: Any) -> ak.Device:
        return ak.Device("card", "gpu", 0)

    def compile(self, *args: Any, donate: frozenset[int] = frozenset(), **options: Any) -> Any:
        executable = super().compile(*args, donate=donate, **options)
        original = executable._run

        def run(*arrays: Any) -> Any:
            if Card.failures:
                Card.failures -= 1
                for position in donate:
                    arrays[position][...] = 0
                raise MemoryError("the card is full")
            return original(*arrays)

        executable._run = run
        return executable


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Iterator[train.TrainStep]:
    monkeypatch.setattr(registry, "_registered_backends", {"card": Card})
    monkeypatch.setattr(registry, "_instances", dict(registry._instances))
    model = nn.Sequential(nn.Linear(6), nn.ReLU(), nn.Linear(5))
    optimizer = optim.sgd(0.1, momentum=0.9)
    yield train.TrainStep(model, losses.SoftmaxCrossEntropy(), optimizer, device="card")
    Card.failures = 0


def test_a_rehearsal_that_does_not_fit_changes_nothing(step: train.TrainStep) -> None:
    """It needs the state twice; the step itself may fit."""
    expected = step(step.init(0, SHAPE), BATCH)[1]["loss"]
    again = train.TrainStep(step.recipe.model, step.recipe.loss, step.optimizer, device=step.device)
    state = again.init(0, SHAPE)
    Card.failures = 1
    state, report = again(state, BATCH)
    assert report["loss"] == expected
    assert state.step == 1


@pytest.mark.parametrize("compiled_ahead", [False, True])
def test_a_first_step_that_does_not_fit_leaves_the_state_whole(
    step: train.TrainStep, compiled_ahead: bool
) -> None:
    state = step.init(0, SHAPE)
    if compiled_ahead:
        step.compile(state, BATCH)
    before = state.to_host()
    Card.failures = 2
    with pytest.raises(OutOfMemoryError, match=r"(?s)needs: arena.*Step 0 .* the state survived"):
        step(state, BATCH)
    after = state.to_host()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    Card.failures = 2
    with pytest.raises(OutOfMemoryError, match="the state survived"):  # nothing has run yet
        step(state, BATCH)
    assert step(state, BATCH)[1]["loss"] > 0.0


def test_a_later_step_that_fails_says_that_the_state_is_lost(step: train.TrainStep) -> None:
    state, _ = step(step.init(0, SHAPE), BATCH)
    Card.failures = 1
    with pytest.raises(OutOfMemoryError, match=r"the state is lost\. No checkpoint was saved"):
        step(state, BATCH)
    with pytest.raises(StateLostError, match="the card is full"):
        _ = state.parameters
