"""Optimizers and schedules: the rates they give, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit import optim
from accelkit.errors import OptionError


def rates(schedule: Any, steps: int) -> list[float]:
    return [optim.rate_at(schedule, step) for step in range(steps)]


def test_schedules_give_the_rates_of_their_formulas() -> None:
    assert rates(0.5, 3) == rates(optim.ConstantSchedule(0.5), 3) == [0.5, 0.5, 0.5]
    assert rates(optim.StepSchedule(1.0, [2, 3], factor=0.5), 5) == [1.0, 1.0, 0.5, 0.25, 0.25]
    cosine = [0.2 + 0.8 * 0.5 * (1.0 + math.cos(math.pi * i / 4)) for i in range(5)]
    assert rates(optim.CosineSchedule(1.0, 4, final=0.2), 7) == [*cosine, 0.2, 0.2]


@pytest.mark.parametrize("after", [0.8, optim.ConstantSchedule(0.8), lambda step: 0.8])
def test_warm_up_rises_to_what_comes_after(after: Any) -> None:
    assert rates(optim.WarmUp(after, 4), 6) == [0.2, 0.4, 0.6000000000000001, 0.8, 0.8, 0.8]


def test_what_follows_a_warm_up_starts_at_its_own_step_0() -> None:
    assert rates(optim.WarmUp(optim.StepSchedule(1.0, [1], factor=0.5), 2), 4) == [
        0.5,
        1.0,
        1.0,
        0.5,
    ]


def test_numbers_of_numpy_are_numbers() -> None:
    assert optim.sgd(np.float32(0.5), momentum=np.float64(0.9)).scalars(0) == {"learning_rate": 0.5}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.sgd(0.0), r"`learning_rate` must be positive and finite, got 0\.0"),
        (lambda: optim.sgd(-0.1), r"`learning_rate` must be positive and finite, got -0\.1"),
        (lambda: optim.adam(math.nan), r"`learning_rate` must be positive and finite, got nan"),
        (lambda: optim.adamw(math.inf), r"`learning_rate` must be positive and finite, got inf"),
        (lambda: optim.sgd("0.1"), r"`learning_rate` must be positive and finite, got '0\.1'"),
        (lambda: optim.sgd(0.1, momentum=1.0), r"`momentum` must be in \[0, 1\), got 1\.0"),
        (lambda: optim.sgd(0.1, weight_decay=-1), r"`weight_decay` must be a finite number of at"),
        (lambda: optim.sgd(0.1, nesterov=True), r"`nesterov` needs a momentum above 0"),
        (lambda: optim.sgd(0.1, clip_norm=0), r"`clip_norm` must be positive and finite, got 0"),
        (lambda: optim.adam(clip_norm=math.inf), r"`clip_norm` must be positive and finite"),
        (lambda: optim.adamw(decays="weight"), r"`decays` must be a function, got str\. It"),
        (lambda: optim.clip_by_global_norm({}, 1.0), r"norm of no tensors"),
        (lambda: optim.clip_by_global_norm({}, -1.0), r"`norm` must be positive and finite"),
        (lambda: optim.adam(beta1=1.0), r"`beta1` must be in \[0, 1\), got 1\.0"),
        (lambda: optim.adam(beta2=-0.1), r"`beta2` must be in \[0, 1\), got -0\.1"),
        (lambda: optim.adam(epsilon=-1e-8), r"`epsilon` must be a finite number of at least 0"),
        (lambda: optim.ConstantSchedule(0), r"`rate` must be positive and finite, got 0"),
        (lambda: optim.StepSchedule(0.1, [5, 5]), r"`boundaries` must increase, got \(5, 5\)"),
        (lambda: optim.StepSchedule(0.1, [5], factor=0), r"`factor` must be positive and finite"),
        (lambda: optim.CosineSchedule(0.1, 0), r"`steps` must be a positive integer, got 0"),
        (lambda: optim.CosineSchedule(0.1, 10, final=-1), r"`final` must be a finite number"),
        (lambda: optim.WarmUp(0.1, -3), r"`steps` must be a positive integer, got -3"),
    ],
)
def test_rates_and_shares_out_of_range_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build()


@pytest.mark.parametrize("given", [-1.0, math.nan, math.inf, None, "0.1"])
def test_a_schedule_that_gives_no_rate_is_named_with_its_step(given: Any) -> None:
    optimizer = optim.sgd(lambda step: given if step == 3 else 0.1)
    assert optimizer.scalars(2) == {"learning_rate": 0.1}
    with pytest.raises(OptionError, match=rf"`learning_rate of step 3` must be .* got {given!r}"):
        optimizer.scalars(3)


def test_a_schedule_may_pause_the_training() -> None:
    assert optim.adam(lambda step: 0.0).scalars(0)["learning_rate"] == 0.0


def test_an_update_of_ones_own() -> None:
    class SignDescent(optim.Optimizer):
        learning_rate = 0.25

        def update(self, parameter, gradient, slots, scalars):  # type: ignore[no-untyped-def]
            return parameter - ak.sign(gradient) * scalars["learning_rate"], {}

    optimizer = SignDescent()
    numbers = {n: ak.asarray(v) for n, v in optimizer.scalars(0).items()}
    new, slots = optimizer.update(ak.ones(2), ak.asarray([3.0, -0.5]), {}, numbers)
    assert new.tolist() == [0.75, 1.25]
    assert slots == {}
