"""Micro-batches: the same mathematics in less memory."""

from __future__ import annotations

import functools
import gc
import re

import numpy as np
import pytest

import accelkit as ak
from accelkit import losses, metrics, nn, optim, passes, registry, train
from accelkit.backend import Executable, MemoryStatistics
from accelkit.errors import OptionError
from accelkit.train.memory import format_bytes, parse_bytes, predicted_peak_bytes

BACKENDS = sorted({info.device.backend for info in ak.devices()})
MODEL = nn.Sequential(
    nn.Conv2d(6, 3, padding=1),
    nn.ReLU(),
    nn.Dropout(0.3),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(8),
    nn.Dropout(0.5),
    nn.Linear(5),
)
SHAPE = (8, 6, 6, 3)


SGD = optim.sgd(0.05, momentum=0.9)


def make(device: str, optimizer: optim.Optimizer = SGD, **options) -> train.TrainStep:
    return train.TrainStep(
        MODEL,
        losses.SoftmaxCrossEntropy(),
        optimizer,
        device=device,
        metrics=[metrics.TopKAccuracy(1)],
        precision="float64",
        **options,
    )


def batch(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal(SHAPE)
    return images, rng.integers(0, 5, 8), np.arange(8) / 8.0


def run(step: train.TrainStep) -> tuple[list[float], train.TrainState]:
    state, found = step.init(0, SHAPE), []
    for index in range(3):
        state, report = step(state, batch(index))
        found += [report["loss"], report["top1"]]
    return found, state


def curve(step: train.TrainStep) -> tuple[list[float], dict[str, np.ndarray]]:
    found, state = run(step)
    return found, state.to_host()


@functools.cache
def plain_curve(device: str) -> tuple[list[float], dict[str, np.ndarray]]:
    """What every means of saving memory must leave as it is."""
    return curve(make(device))


@pytest.mark.parametrize("device", BACKENDS)
def test_micro_batches_change_nothing(device: str) -> None:
    whole, state = plain_curve(device)
    parts, other = curve(make(device, accumulate=4))
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    for name, value in state.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-9, atol=1e-13, err_msg=name)


WIDE = nn.Sequential(
    nn.Conv2d(16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 3),
    nn.ReLU(),
    nn.GlobalAvgPool2d(),
    nn.Linear(5),
)
WIDE_SHAPE = (4, 24, 24, 3)


def wide_step(device: str = "numpy", model: nn.Module = WIDE, **options) -> train.TrainStep:
    return train.TrainStep(
        model,
        losses.SoftmaxCrossEntropy(),
        optim.sgd(0.01, momentum=0.9, weight_decay=1e-3),
        device=device,
        **options,
    )


def wide_batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(WIDE_SHAPE).astype(np.float32), rng.integers(0, 5, 4)


def wide_curve(step: train.TrainStep) -> tuple[list[float], dict[str, np.ndarray]]:
    state, found = step.init(0, WIDE_SHAPE), []
    for index in range(3):
        state, report = step(state, wide_batch(index))
        found.append(report["loss"])
    return found, state.to_host()


def peak_of(step: train.TrainStep) -> int:
    executable = step.compile(step.init(0, WIDE_SHAPE), wide_batch())
    donate = [i for i, name in enumerate(executable.graph.input_names) if "." in name]
    backend = registry.backend(step.device.backend)
    return predicted_peak_bytes(executable.graph, backend, step.device, donate)


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
def test_a_tight_limit_leaves_workspaces_out(device: str) -> None:
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


@pytest.mark.parametrize("remat", [True, "auto", 0.5, ["0", "1", "2"]])
def test_recomputed_values_are_the_same_bits(remat: bool | str | float | list[str]) -> None:
    whole, state = plain_curve("numpy")
    again, other = curve(make("numpy", remat=remat))
    assert again == whole
    for name, value in state.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.parametrize("device", BACKENDS)
def test_rematerialisation_on_every_backend(device: str) -> None:
    """The masks are the same, or the losses would differ by far more than rounding."""
    whole, state = plain_curve(device)
    again, other = curve(make(device, remat=True))
    np.testing.assert_allclose(again, whole, rtol=1e-12)
    for name, value in state.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-9, atol=1e-13, err_msg=name)


def test_what_is_computed_again() -> None:
    batch = wide_batch()
    layers = (nn.Conv2d(8, 3, padding=1), nn.ReLU(), nn.Dropout(0.5))
    model = nn.Sequential(*layers * 4, nn.GlobalAvgPool2d(), nn.Linear(5))
    counts = {}
    for remat in (False, True, "auto", ["3", "4", "5"]):
        step = wide_step(model=model, remat=remat)
        counts[str(remat)] = step.compile(step.init(0, WIDE_SHAPE), batch).graph.counts()
    plain = counts["False"]
    assert counts["True"]["conv2d"] > plain["conv2d"]
    assert counts["auto"]["conv2d"] == plain["conv2d"]
    assert sum(counts["auto"].values()) > sum(plain.values())
    assert counts["['3', '4', '5']"]["conv2d"] <= plain["conv2d"] + 1


def test_a_fraction_is_come_down_to() -> None:
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(8), nn.Tanh())))
    arenas = []
    for remat in (False, 0.7):
        step = wide_step(model=model, remat=remat)
        inputs = np.ones((512, 8), np.float32)
        state = step.init(0, inputs.shape)
        graph = step.compile(state, (inputs, np.zeros(512, np.int32))).graph
        donate = [i for i, name in enumerate(graph.input_names) if "." in name]
        arenas.append(passes.plan_values(graph, donate=donate).lower_bound_bytes)
    assert arenas[1] <= 0.7 * arenas[0]


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


SAVES_NOTHING = pytest.mark.filterwarnings("ignore:host_state=True saves no memory")


@SAVES_NOTHING
@pytest.mark.parametrize("optimizer", [SGD, optim.adam(0.01)])
def test_host_state_is_the_same_bits(optimizer: optim.Optimizer) -> None:
    plain, offloaded = (
        curve(make("numpy", optimizer, accumulate=2, host_state=host_state))
        for host_state in (False, True)
    )
    assert plain[0] == offloaded[0]
    for name, value in plain[1].items():
        np.testing.assert_array_equal(offloaded[1][name], value, err_msg=name)


@SAVES_NOTHING
@pytest.mark.parametrize("device", [name for name in BACKENDS if name != "numpy"])
def test_host_state_on_every_backend(device: str) -> None:
    """Parts may choose other kernels than the whole, so that rounding differs."""
    whole, state = plain_curve(device)
    parts, offloaded = run(make(device, host_state=True, accumulate=2))
    slots = [t for name, t in offloaded.tensors.items() if name.startswith("optimizer.")]
    assert slots
    assert {t.device.backend for t in slots} == {"numpy"}
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    copied = offloaded.copy().to_host()
    for name, value in state.items():
        np.testing.assert_allclose(copied[name], value, rtol=1e-9, atol=1e-13, err_msg=name)


@SAVES_NOTHING
def test_host_state_is_on_the_device_in_parts() -> None:
    """OpenCL's ledger sees only what is on the device."""
    if "opencl" not in BACKENDS:
        pytest.skip("the opencl backend has no device here")
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(256), nn.ReLU())))
    inputs, labels = np.ones((4, 256), np.float32), np.zeros(4, np.int32)
    backend, device = registry.backend("opencl"), ak.device("opencl")
    peaks = []
    for host_state in (False, True):
        gc.collect()
        before = backend.memory(device).in_use_bytes
        step = wide_step("opencl", model, host_state=host_state)
        state = step.init(0, inputs.shape)
        step.compile(state, (inputs, labels))
        backend.reset_peak_memory(device)
        for _ in range(2):
            state, report = step(state, (inputs, labels))
        assert np.isfinite(report["loss"])
        peaks.append(backend.memory(device).peak_bytes - before)
        del step, state, report
    slot = 256 * 256 * 4
    assert peaks[1] <= peaks[0] - 4 * slot  # of six, one or two are there at a time


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


def test_host_state_that_saves_nothing_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"saves no memory on numpy:cpu:0, whose memory is the h"):
        make("numpy", host_state=True)


def test_batch_statistics_refuse_micro_batches() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3), nn.BatchNorm(), nn.Flatten(), nn.Linear(5))
    step = train.TrainStep(
        model, losses.SoftmaxCrossEntropy(), optim.sgd(0.1), device="numpy", accumulate=2
    )
    with pytest.raises(OptionError, match="batch statistics"):
        step(step.init(0, SHAPE), batch(0)[:2])


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="positive integer"):
        make("numpy", accumulate=0)
    for chosen in ({"accumulate": 2}, {"remat": True}, {"host_state": True}):
        with pytest.raises(OptionError, match=r"either accumulate=, remat= and host_state=, or"):
            make("numpy", memory_limit="1GiB", **chosen)
    with pytest.raises(OptionError, match="`host_state` must be True or False, got 'no'"):
        make("numpy", host_state="no")
    for remat in (2.0, "all", [], [3], 0.0):
        with pytest.raises(OptionError, match="remat must be True"):
            make("numpy", remat=remat)
    step = make("numpy", accumulate=3)
    with pytest.raises(OptionError, match=r"does not divide the batch of 8.*1, 2, 4, 8"):
        step(step.init(0, SHAPE), batch(0))


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


def test_the_plan_of_an_in_place_update_needs_no_arena() -> None:
    step = make("numpy")
    graph = passes.prepare(step.graph(step.init(0, SHAPE), batch(0)), registry.backend("numpy"))
    donate = [i for i, name in enumerate(graph.input_names) if "." in name]
    assert (
        passes.plan_values(graph, donate=donate).arena_bytes < passes.plan_values(graph).arena_bytes
    )
