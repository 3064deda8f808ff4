"""The tuner: what it keeps, what a crash costs, and that its table is used afterwards."""

from __future__ import annotations

import math
import os
from contextlib import closing
from typing import Any

import pytest
from accelkit_opencl import profile_of
from accelkit_opencl.command import main
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.products import Choice, Profile, candidates, choice_key, lower_matmul
from accelkit_opencl.runtime import Runtime
from accelkit_opencl.trials import Trials
from accelkit_opencl.tuning import load_choices, tune

PROFILE = Profile(cpu=True, compute_units=2)
PRODUCT = Matmul(1, 100, 96, 64)


class Crash:
    """Aborts the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return os.abort, ()


def test_a_crash_costs_one_choice(runtime: Runtime) -> None:
    with closing(Trials(runtime.device, PROFILE, limit_s=100.0)) as trials:
        assert 0 < trials("matmul", PRODUCT, Choice()) < math.inf
        assert trials("matmul", Crash(), Choice()) == math.inf  # type: ignore[arg-type]
        assert trials.crashes == 1
        assert 0 < trials("matmul", PRODUCT, Choice(6, 2)) < math.inf
        assert trials.crashes == 1


def test_a_choice_that_takes_too_long_is_stopped(runtime: Runtime) -> None:
    with closing(Trials(runtime.device, PROFILE, limit_s=0.0)) as trials:
        assert trials("matmul", PRODUCT, Choice()) == math.inf
        assert trials.crashes == 1


def test_the_fastest_is_kept_if_it_is_clearly_faster() -> None:
    other = candidates("matmul", PRODUCT, PROFILE)[1]

    def measured(gain: float) -> Choice:
        (found,) = tune(
            [("matmul", PRODUCT)], lambda *trial: gain if trial[2] == other else 1.0, PROFILE
        )
        assert found.key == choice_key("matmul", PRODUCT)
        return found.choice

    assert measured(0.5) == other
    assert measured(0.99) == Choice()
    assert measured(math.inf) == Choice()


def test_no_candidate_is_begun_after_the_budget_and_none_without_choice() -> None:
    def never(*trial: Any) -> float:
        raise AssertionError("measured")

    assert list(tune([("matmul", PRODUCT)], never, PROFILE, budget_s=-1.0)) == []
    assert list(tune([("matmul", PRODUCT)], never, Profile(cpu=False))) == []


def test_the_command_writes_a_table_that_is_used_afterwards(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = ["--model", "lenet5", "--batch-size", "2", "--device", str(runtime.device)]
    assert main(["tune", *arguments, "--budget", "6"]) == 0
    assert "products tuned; written to" in capsys.readouterr().out
    choices = load_choices(runtime)
    assert choices
    assert profile_of(runtime).choices == choices


def test_a_tuned_choice_decides_the_kernel() -> None:
    tuned = Profile(
        cpu=True, compute_units=2, choices={choice_key("matmul", PRODUCT): Choice(5, 2)}
    )
    named = lower_matmul(PRODUCT, tuned).launches[-1].source.name
    assert named == lower_matmul(PRODUCT, PROFILE, Choice(5, 2)).launches[-1].source.name
    assert named != lower_matmul(PRODUCT, PROFILE).launches[-1].source.name
