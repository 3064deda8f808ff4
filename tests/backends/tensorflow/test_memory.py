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
