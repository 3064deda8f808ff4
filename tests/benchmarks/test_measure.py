"""Turns, paces, failures and statistics of the benchmark."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import measure as measuring
from benchmarks.measure import Plan, Result, deviations, ratio, samples_of
from benchmarks.processes import ProgramError, ProgramProcess, environment
from benchmarks.program import PROGRAMS
from benchmarks.workload import Workload

MLP = Workload("mlp", 32, 2)
QUICK = Plan(turns=2, samples=2, budget_s=1e6, sample_s=1e-6)  # whatever the machine is doing


@pytest.mark.timeout(120)
def test_two_programs_take_turns():
    lines: list[str] = []
    names = ["torch-eager", "torch-channels-last"]
    missing = PROGRAMS[names[0]].missing()
    if missing is not None:
        pytest.skip(missing)
    results = measuring.measure(names, MLP, QUICK, log=lines.append)
    assert [result.name for result in results] == names
    for result in results:
        assert result.error is None
        assert result.turns_s.keys() == {0, 1}
        assert min(samples_of([result])) > 0
        assert result.import_s > 0
        assert result.first_step_s > 0
        assert result.peak_memory_bytes > 50e6
        assert result.version.startswith("torch 2.")
        assert result.loss == pytest.approx(results[0].loss, rel=1e-5)
        assert Result.from_json(result.to_json()) == result
    order = [line.split(":")[0] for line in lines if "turn" in line]
    assert order == [*names, *reversed(names)]


def test_programs_that_compute_something_else_are_not_timed(monkeypatch):
    answers = {"torch-eager": [1.0, 2.0], "jax-jit": [1.0, 2.0], "torch-compile": [1.0, 2.1]}
    timed = []

    class Process:
        def __init__(self, name: str, threads: int) -> None:
            self.name = name

        def request(self, do: str, **arguments):
            if do == "load":
                return {"version": "1", "import_s": 1.0}
            if do == "losses":
                return answers[self.name]
            if do == "build":
                return {"build_s": 1.0, "first_step_s": 1.0, "step_s": 0.1, "loss": 1.0}
            if do == "run":
                timed.append(self.name)
                return [0.1] * arguments["samples"]
            return 2**20

        def close(self) -> None:
            pass

    monkeypatch.setattr(measuring, "ProgramProcess", Process)
    results = measuring.measure(list(answers), MLP, Plan(turns=2))
    assert set(timed) == {"torch-eager", "jax-jit"}
    assert "torch-compile computes something else" in results[2].error
    assert "deviate by 5.0e-02" in results[2].error
    # With little memory, processes end with their turns, and are built again.
    monkeypatch.setattr(measuring, "_RESERVE_BYTES", 2**63)
    timed.clear()
    again = measuring.measure(["torch-eager", "jax-jit"], MLP, Plan(turns=2))
    assert timed == ["torch-eager", "jax-jit", "jax-jit", "torch-eager"]
    assert all(result.turns_s.keys() == {0, 1} for result in again)
    # When time is over, what was measured stays.
    (result,) = measuring.measure(["jax-jit"], MLP, Plan(turns=2, time_limit_s=-1.0))
    assert result.error is None
    assert not result.turns_s


@pytest.mark.parametrize(
    ("step_s", "turns", "samples", "steps"),
    [(1e-4, 4, 5, 1000), (0.5, 4, 5, 1), (1.0, 4, 4, 1), (3.0, 4, 1, 1), (30.0, 1, 1, 1)],
)
def test_slow_programs_get_less(step_s, turns, samples, steps):
    found = Plan(turns=4, samples=5, budget_s=20.0, sample_s=0.1).pace(step_s)
    assert found[:3] == (turns, samples, steps)
    assert found[0] * (found[1] + found[3]) * step_s * steps <= max(20.0, step_s)


def test_failure_of_a_request_is_reported_and_survived():
    process = ProgramProcess("accelkit-numpy", 1)
    try:
        with pytest.raises(ProgramError, match="run was asked for before build"):
            process.request("run", samples=1, steps_per_sample=1, warm_up=0)
        assert process.request("peak_memory") > 1e6
    finally:
        process.close()


def test_death_of_a_process_is_reported():
    process = ProgramProcess("accelkit-numpy", 1)
    try:
        process._process.kill()
        with pytest.raises(ProgramError, match="accelkit-numpy died with exit code -9"):
            process.request("peak_memory")
    finally:
        process.close()


def test_ratios_are_formed_within_shared_turns():
    slow = Result("a", turns_s={0: [2.0, 4.0, 3.0], 1: [30.0, 30.0, 30.0], 2: [5.0]})
    fast = Result("b", turns_s={0: [1.0, 2.0, 3.0], 1: [10.0, 10.0, 10.0]})
    assert ratio([slow], [fast]) == pytest.approx((1.5 + 3) / 2)
    # Of another run, which the rival was not part of, nothing counts.
    assert ratio([slow, slow], [fast, Result("b")]) == pytest.approx((1.5 + 3) / 2)
    assert ratio([Result("a"), slow], [fast, Result("b")]) is None


def test_deviations_are_from_the_median():
    results = [
        Result("a", losses=[1.0, 2.0]),
        Result("b", losses=[1.0, 2.0]),
        Result("c", losses=[1.0, 2.2]),
        Result("failed"),
    ]
    assert deviations(results) == pytest.approx({"a": 0, "b": 0, "c": 0.1})


def test_all_programs_get_the_same_threads_and_allocator():
    variables = environment(3)
    assert variables["MALLOC_MMAP_MAX_"] == "0"
    assert {v for k, v in variables.items() if "THREADS" in k} == {"3"}


def test_the_check_differs_only_in_size_and_update():
    check = measuring.agreement_workload(MLP)
    assert (
        dataclasses.replace(MLP, batch_size=8, dropout=False, weight_decay=0.5, learning_rate=0.002)
        == check
    )
