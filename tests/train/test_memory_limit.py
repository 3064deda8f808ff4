"""A limit on memory: what is chosen under it, and what is said when it is passed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from train.memory_steps import (
    BACKENDS,
    WIDE_SHAPE,
    peak_of,
    wide_batch,
    wide_curve,
    wide_step,
)

import accelkit as ak
from accelkit import host, losses, nn, optim, registry, train
from accelkit.backend import Executable, MemoryStatistics
from accelkit.errors import OptionError
from accelkit.train.memory import format_bytes, parse_bytes


def test_a_limit_takes_the_fastest_means_that_fit() -> None:
    peak = peak_of(wide_step())
    limited = wide_step(memory_limit=peak // 2)
    assert peak_of(limited) <= peak // 2
    choice = limited.memory_choice
    assert choice is not None
    assert choice.predicted_peak_bytes <= peak // 2
    assert choice.unplanned_peak_bytes == peak
    assert choice.predicted_slowdown > 1.0
    assert str(choice.means) in str(choice)
    assert choice.means.early_update
    roomy = wide_step(memory_limit=2 * peak)
    peak_of(roomy)
    assert roomy.memory_choice is not None
    assert str(roomy.memory_choice.means) == "nothing to be done"
    assert roomy.memory_choice.predicted_slowdown == 1.0


def test_what_a_compiler_needs_for_one_plan_is_not_said_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peak = peak_of(wide_step())
    limit = int(0.7 * peak)
    compiled: list[int] = []

    def temporary_memory_bytes(self: Executable) -> int:
        """The first plan turns out to need a quarter more than there is."""
        compiled.append(len(self.graph))
        return int(1.25 * (limit - self.graph.input_bytes)) if len(compiled) == 1 else 0

    monkeypatch.setattr(Executable, "temporary_memory_bytes", temporary_memory_bytes)
    step = wide_step(memory_limit=limit)
    step.compile(step.init(0, WIDE_SHAPE), wide_batch())
    assert len(compiled) == 2
    assert step.memory_choice is not None
    assert step.memory_choice.unplanned_peak_bytes == peak


def test_the_smallest_limit_is_told_and_can_be_met() -> None:
    state, batch = wide_step().init(0, WIDE_SHAPE), wide_batch()
    with pytest.raises(OptionError, match=r"smallest limit that can be met") as caught:
        wide_step(memory_limit="10KiB").compile(state, batch)
    found = re.search(
        r"within 10\.0 KiB: with every means it needs (\S+ MiB|\S+ KiB)", str(caught.value)
    )
    assert found is not None
    smallest = parse_bytes(found[1])
    step = wide_step(memory_limit=smallest)
    assert peak_of(step) <= smallest
    state, report = step(state, batch)
    assert np.isfinite(report["loss"])


@pytest.mark.parametrize(
    "device",
    [name for name in BACKENDS if "workspaces" in registry.backend(name).capabilities],
)
def test_a_tight_limit_leaves_workspaces_out(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "has_intel_processor", lambda: True)  # torch takes workspaces there
    model = nn.Sequential(nn.Conv2d(256, 3, padding=1), nn.Flatten(), nn.Linear(4))
    shape = (1, 32, 32, 256)  # nothing to accumulate, and Winograd's weights are most of it
    batch = np.full(shape, 0.5, np.float32), np.array([2])

    def step(limit: int | str) -> train.TrainStep:
        loss, rule = losses.SoftmaxCrossEntropy(), optim.sgd(0.05, momentum=0.9)
        return train.TrainStep(model, loss, rule, device=device, memory_limit=limit)

    roomy = step("8GiB")
    _state, report = roomy(roomy.init(0, shape), batch)
    assert roomy.memory_choice is not None
    assert roomy.memory_choice.means.workspaces
    with pytest.raises(OptionError, match="smallest limit") as caught:
        step("10KiB").compile(step("8GiB").init(0, shape), batch)
    found = re.search(r"with every means it needs (\S+ MiB)", str(caught.value))
    assert found is not None
    tight = step(found[1])
    _state, same = tight(tight.init(0, shape), batch)
    assert tight.memory_choice is not None
    assert not tight.memory_choice.means.workspaces
    assert peak_of(tight) <= parse_bytes(found[1])
    np.testing.assert_allclose(float(same["loss"]), float(report["loss"]), rtol=1e-5)


@pytest.mark.parametrize("device", BACKENDS)
def test_a_limit_changes_nothing_but_memory(device: str) -> None:
    free = wide_step(device, precision="float64")
    whole, state = wide_curve(free)
    assert free.measured_peak_bytes is None
    limit = int(0.7 * peak_of(free))
    step = wide_step(device, precision="float64", memory_limit=limit)
    parts, other = wide_curve(step)
    measured = step.measured_peak_bytes
    assert measured is not None
    if "ledger" in registry.backend(device).memory(step.device).method:  # no other tenant
        assert measured <= limit
    assert step.memory_choice is not None
    assert str(step.memory_choice.means) != "nothing to be done"
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    for name, value in state.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-9, atol=1e-13, err_msg=name)


def test_batch_statistics_are_kept_whole_under_a_limit() -> None:
    layers = (nn.Conv2d(8, 3, padding=1), nn.BatchNorm(), nn.ReLU())
    model = nn.Sequential(*layers * 4, nn.GlobalAvgPool2d(), nn.Linear(5))
    whole, state = wide_curve(wide_step(model=model))
    peak = peak_of(wide_step(model=model))
    step = wide_step(model=model, memory_limit=int(0.9 * peak))
    parts, other = wide_curve(step)
    assert step.memory_choice is not None
    assert step.memory_choice.accumulate == 1
    assert step.memory_choice.means.remat is not False
    assert parts == whole
    for name, value in state.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_a_limit_on_a_device_of_its_own_may_move_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(registry.backend("numpy")), "has_own_memory", lambda self, d: True)
    model = nn.Sequential(*(nn.Linear(64) for _ in range(6)), nn.Linear(5))
    inputs, labels = np.ones((4, 64), np.float32), np.zeros(4, np.int32)
    free = wide_step(model=model)
    graph = free.compile(free.init(0, inputs.shape), (inputs, labels)).graph
    step = wide_step(model=model, memory_limit=int(0.75 * graph.input_bytes))
    state = step.init(0, inputs.shape)
    state, report = step(state, (inputs, labels))
    assert np.isfinite(report["loss"])
    assert step.memory_choice is not None
    assert step.memory_choice.means.host_state
    assert "optimizer state on the host" in str(step.memory_choice)


@pytest.mark.parametrize(
    ("text", "count"), [("8GiB", 8 * 2**30), ("500MB", 500_000_000), (123, 123), ("1.5KiB", 1536)]
)
def test_amounts(text: int | str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("count", [1, 1023, 1024, 30_000, 2**20 - 1, 2**20, 12_345_678, 9 << 30])
def test_amounts_are_printed_in_the_unit_that_fits(count: int) -> None:
    assert not format_bytes(count).startswith("0")
    assert count <= parse_bytes(format_bytes(count)) <= 1.1 * count


@pytest.mark.parametrize("text", ["", "8 parsecs", "-1GiB", 0, "0MB", True])
def test_bad_amounts(text: int | str) -> None:
    with pytest.raises(OptionError, match="8GiB"):
        parse_bytes(text)


def test_more_than_the_limit_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = MemoryStatistics(10_000_000, 10_000_000, "a ledger", 2_000_000, 1_000)
    monkeypatch.setattr(type(registry.backend("numpy")), "memory", lambda self, device: found)
    step, batch = wide_step(memory_limit="1MiB"), wide_batch()
    state, _ = step(step.init(0, WIDE_SHAPE), batch)
    held = sum(t.spec.memory_bytes for t in state.tensors.values())
    assert step.measured_peak_bytes == held
    found = found._replace(peak_bytes=found.peak_bytes + 2**20 - held + 1_000)
    state, _ = step(state, batch)  # as much as it may be wrong by
    found = found._replace(peak_bytes=found.peak_bytes + 1, file_bytes=2_000_000)
    with pytest.warns(train.MemoryLimitWarning, match=r"more than its memory limit of 1\.0 MiB"):
        state, _ = step(state, batch)
    state, report = step(state, batch)
    assert np.isfinite(report["loss"])


def test_what_a_compilation_in_the_first_step_takes_is_not_the_steps_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numpy, found = registry.backend("numpy"), MemoryStatistics(10_000_000, 10_000_000, "resident")

    def reset(self: object, device: ak.Device) -> None:
        nonlocal found
        found = found._replace(peak_bytes=found.in_use_bytes)

    monkeypatch.setattr(type(numpy), "memory", lambda self, device: found)
    monkeypatch.setattr(type(numpy), "reset_peak_memory", reset)
    monkeypatch.setattr(Executable, "compiles_in_first_call", True)
    step, batch = wide_step(memory_limit="1MiB"), wide_batch()
    state = step.init(0, WIDE_SHAPE)
    step.compile(state, batch)  # a check before the first step finds nothing either
    state, _ = step(state, batch)
    held = sum(t.spec.memory_bytes for t in state.tensors.values())
    found = found._replace(in_use_bytes=12_000_000, peak_bytes=90_000_000)  # the compiler, its code
    state, _ = step(state, batch)
    assert step.measured_peak_bytes == held
    found = found._replace(peak_bytes=found.peak_bytes + 2**20)
    with pytest.warns(train.MemoryLimitWarning, match=r"took 1\.1 MiB, more than"):
        step(state, batch)


def test_code_that_comes_in_is_not_the_steps_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = MemoryStatistics(10_000_000, 10_000_000, "resident", 2_000_000)
    monkeypatch.setattr(type(registry.backend("numpy")), "memory", lambda self, device: found)
    step, batch = wide_step(memory_limit="1MiB"), wide_batch()
    state, _ = step(step.init(0, WIDE_SHAPE), batch)
    before = step.measured_peak_bytes
    found = found._replace(peak_bytes=30_000_000, file_bytes=22_000_000)
    assert step.measured_peak_bytes == before
    step(state, batch)
