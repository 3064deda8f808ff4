"""What TensorFlow's memory is measured by, and what XLA plans of it."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import pytest
from accelkit_tensorflow import TensorflowBackend, compile, runtime
from accelkit_tensorflow.compile import TensorflowExecutable
from accelkit_tensorflow.framework import tf

from accelkit import losses, nn, optim, train
from accelkit.train import memory

TENSORFLOW = TensorflowBackend()
CPU = TENSORFLOW.devices()[-1].device


def test_memory_statistics_are_of_arrays() -> None:
    """The process keeps what the allocator once had; the allocator's own account does not."""
    size = 32 * 2**20
    TENSORFLOW.reset_peak_memory(CPU)
    before = TENSORFLOW.memory(CPU)
    array = TENSORFLOW.put(np.zeros(size // 4, np.float32), CPU)
    assert TENSORFLOW.memory(CPU).in_use_bytes - before.in_use_bytes >= size
    del array
    after = TENSORFLOW.memory(CPU)
    assert after.in_use_bytes == before.in_use_bytes
    assert after.peak_bytes - before.peak_bytes >= size
    assert "allocator" in after.method
    TENSORFLOW.reset_peak_memory(CPU)
    again = TENSORFLOW.memory(CPU)
    assert again.peak_bytes == again.in_use_bytes


def test_memory_where_the_allocator_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(device: str) -> NoReturn:
        raise ValueError("Allocator stats not available for device 'CPU:0'")

    counts = runtime._allocator_counts.__wrapped__
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", unavailable)
    assert not counts(CPU)
    zeros = {"current": 0, "peak": 0}  # as TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1 has it
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda device: zeros)
    assert not counts(CPU)
    monkeypatch.setattr(runtime, "_allocator_counts", lambda device: False)
    TENSORFLOW.reset_peak_memory(CPU)
    statistics = TENSORFLOW.memory(CPU)
    assert statistics.peak_bytes >= statistics.in_use_bytes > 0
    assert "process" in statistics.method


def test_a_memory_limit_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where XLA compiles in the first step, whose peak is not the step's."""
    monkeypatch.setattr(memory, "_arena_bytes", lambda *arguments: 0)  # a plan that cannot be kept
    monkeypatch.setattr(TensorflowExecutable, "temporary_memory_bytes", lambda self: None)
    monkeypatch.setattr(compile, "_MOST_REHEARSED_BYTES", 0)
    step = train.TrainStep(
        nn.Sequential(nn.Linear(2048), nn.GELU(), nn.Linear(4)),
        losses.SoftmaxCrossEntropy(),
        optim.sgd(0.01),
        device="tensorflow",
        memory_limit="8MiB",
    )
    batch = np.ones((1024, 8), np.float32), np.zeros(1024, np.int32)
    state = step.init(0, batch[0].shape)
    state, _ = step(state, batch)
    state, _ = step(state, batch)  # begins to measure
    with pytest.warns(train.MemoryLimitWarning, match="device allocator"):
        step(state, batch)


def test_the_first_step_does_not_copy_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that nothing else holds become variables, and are overwritten in place."""
    monkeypatch.setattr(compile, "_MOST_REHEARSED_BYTES", 0)
    step = train.TrainStep(
        nn.Sequential(nn.Linear(2048), nn.ReLU(), nn.Linear(2048), nn.ReLU(), nn.Linear(4)),
        losses.SoftmaxCrossEntropy(),
        optim.sgd(0.01, momentum=0.9),
        device="tensorflow",
        accumulate=2,
    )
    batch = np.ones((8, 512), np.float32), np.zeros(8, np.int32)
    state = step.init(0, batch[0].shape)
    state_bytes = TENSORFLOW.memory(CPU).in_use_bytes
    beyond = []
    for _ in range(2):
        TENSORFLOW.reset_peak_memory(CPU)
        state, report = step(state, batch)
        float(report["loss"])  # waits
        beyond.append(TENSORFLOW.memory(CPU).peak_bytes - state_bytes)
    assert beyond[0] < 1.25 * beyond[1] + 2**20


def executable_of(*sizes: int, samples: int = 256) -> TensorflowExecutable:
    step = train.TrainStep(
        nn.Sequential(*(layer for size in sizes for layer in (nn.Linear(size), nn.GELU()))),
        losses.SoftmaxCrossEntropy(),
        optim.sgd(0.01, momentum=0.9),
        device="tensorflow",
    )
    batch = np.ones((samples, sizes[0]), np.float32), np.zeros(samples, np.int32)
    found = step.compile(step.init(0, batch[0].shape), batch)
    assert isinstance(found, TensorflowExecutable)
    return found


def test_what_xla_plans_is_what_a_program_takes() -> None:
    executable = executable_of(512, 1024, 8, samples=2048)
    planned = executable.temporary_memory_bytes()
    assert planned is not None
    inputs = [tf.zeros(v.spec.shape, v.spec.dtype.name) for v in executable.graph.inputs]
    state = executable(list(inputs))[:-1]  # now in variables, which the next run updates
    arrays = [*state, *inputs[len(state) :]]
    del state, inputs
    TENSORFLOW.reset_peak_memory(CPU)
    before = TENSORFLOW.memory(CPU)
    executable(arrays)
    taken = TENSORFLOW.memory(CPU).peak_bytes - before.in_use_bytes
    # The allocator cuts a block only if that leaves at least half of it.
    assert planned <= 1.05 * taken
    assert taken <= 2.1 * planned


def test_a_plan_that_tensorflow_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = executable_of(8, 4)
    assert executable.temporary_memory_bytes() is not None

    def refuse(self: object, *arguments: object) -> NoReturn:
        raise ValueError("no such stage")

    function = type(tf.function(lambda: 0, jit_compile=True))
    monkeypatch.setattr(function, "experimental_get_compiler_ir", refuse)
    assert executable.temporary_memory_bytes() is None
