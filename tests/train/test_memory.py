"""The means of saving memory: the same mathematics in less."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from train.memory_steps import (
    BACKENDS,
    SGD,
    SHAPE,
    WIDE_SHAPE,
    batch,
    curve,
    make,
    plain_curve,
    run,
    wide_batch,
    wide_step,
)

import accelkit as ak
from accelkit import losses, nn, optim, passes, registry, train
from accelkit.errors import OptionError


@pytest.mark.parametrize("device", BACKENDS)
def test_micro_batches_change_nothing(device: str) -> None:
    whole, state = plain_curve(device)
    parts, other = curve(make(device, accumulate=4))
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


def test_the_plan_of_an_in_place_update_needs_no_arena() -> None:
    step = make("numpy")
    graph = passes.prepare(step.graph(step.init(0, SHAPE), batch(0)), registry.backend("numpy"))
    donate = [i for i, name in enumerate(graph.input_names) if "." in name]
    assert (
        passes.plan_values(graph, donate=donate).arena_bytes < passes.plan_values(graph).arena_bytes
    )
