"""Measures one configuration in this process."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from accelkit import registry
from accelkit.backend import Backend, MemoryStatistics
from accelkit.bench.settings import Settings
from accelkit.bench.workload import Workload
from accelkit.device import Device
from accelkit.device import device as find_device
from accelkit.errors import NonFiniteError

__all__ = ["Notify", "measure", "measure_workload", "step_times"]

LEAST_TIMED_STEPS: Final = 3
_WARMUP_SHARE: Final = 0.25  # of the time limit

Notify = Callable[..., None]


def _silent(event: str, **details: Any) -> None:
    """Tell nobody."""


def measure(settings: Settings, *, notify: Notify = _silent) -> dict[str, Any]:
    """Measure one configuration.

    Args:
        settings: What to run.
        notify: Called as ``notify(event, **details)`` at each stage and step.

    Returns:
        One entry of a report's ``results``.

    Raises:
        AccelkitError: for settings that do not fit, or a backend that fails.
    """
    device = find_device(settings.device)
    notify("stage", text="drawing weights and batches")
    return measure_workload(Workload(settings, device), notify=notify)


def measure_workload(workload: Workload, *, notify: Notify = _silent) -> dict[str, Any]:
    """Compile a workload, warm it up, and time its steps; see :func:`measure`."""
    settings, device = workload.settings, workload.device
    notify("stage", text="compiling")
    begin = time.perf_counter()
    workload.compile()
    compile_time_s = time.perf_counter() - begin
    flops = workload.graph().flops()
    timer = _Timer(workload, notify)
    timer.warm_up()
    backend = registry.backend(device.backend)
    gc.collect()
    backend.synchronize(device)
    backend.reset_peak_memory(device)
    timer.run()
    memory = timer.memory.result()
    return {
        "backend": device.backend,
        "device": str(device),
        "model": settings.model,
        "variant": settings.resolved_variant(),
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "parameters": workload.parameter_count,
        "flops_per_step": flops,
        "compile_time_s": compile_time_s,
        "first_step_time_s": timer.first_step_time_s,
        "step_time_s": step_times(timer.samples),
        "throughput_images_per_s": settings.batch_size / float(np.median(timer.samples)),
        "peak_memory_bytes": memory.peak_bytes,
        "peak_memory_method": memory.method,
        "losses": timer.losses,
        "error": None,
    }


def step_times(samples: Sequence[float]) -> dict[str, Any]:
    """Median, 95th percentile, minimum and interquartile range of the samples, in seconds."""
    lower, median, upper, p95 = np.percentile(samples, [25, 50, 75, 95]).tolist()
    return {
        "median": median,
        "p95": p95,
        "min": min(samples),
        "iqr": upper - lower,
        "samples": list(samples),
    }


class _PeakMemory:
    """The peak as the backend keeps it, else the most seen after a step."""

    def __init__(self, backend: Backend, device: Device) -> None:
        self._backend = backend
        self._device = device
        self._most: int | None = None

    def sample(self) -> None:
        """Look once, where the backend keeps no peak itself."""
        found = self._backend.memory(self._device)
        if found.peak_bytes is None and found.in_use_bytes is not None:
            self._most = max(self._most or 0, found.in_use_bytes)

    def result(self) -> MemoryStatistics:
        """The peak and how it was read."""
        found = self._backend.memory(self._device)
        if found.peak_bytes is not None or self._most is None:
            return found
        method = f"{found.method}, the most after any step"
        return MemoryStatistics(found.in_use_bytes, self._most, method)


class _Timer:
    """Runs steps one by one, each until its metrics have arrived on the host."""

    def __init__(self, workload: Workload, notify: Notify) -> None:
        self._workload = workload
        self._notify = notify
        self.losses: list[float] = []
        self.samples: list[float] = []
        self.first_step_time_s = 0.0
        self.memory = _PeakMemory(registry.backend(workload.device.backend), workload.device)

    def warm_up(self) -> None:
        """Run the steps that do not count; at least one, where any is asked for."""
        settings = self._workload.settings
        limit = math.inf if settings.time_limit_s is None else settings.time_limit_s
        begin = time.perf_counter()
        for number in range(settings.warmup):
            if number and time.perf_counter() - begin > limit * _WARMUP_SHARE:
                break
            self._step(timed=False)

    def run(self) -> None:
        """Run the steps that count, as many as the time limit allows."""
        settings = self._workload.settings
        limit = math.inf if settings.time_limit_s is None else settings.time_limit_s
        begin = time.perf_counter()
        for number in range(settings.steps):
            if number >= LEAST_TIMED_STEPS and time.perf_counter() - begin > limit:
                break
            self.samples.append(self._step(timed=True))
            self.memory.sample()

    def _step(self, *, timed: bool) -> float:
        begin = time.perf_counter()
        loss = self._workload.run()["loss"]  # waits for the step
        seconds = time.perf_counter() - begin
        if not self.losses:
            self.first_step_time_s = seconds
        number = len(self.losses)
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"The loss became {loss} in step {number}: this is no run worth timing."
            )
        self.losses.append(loss)
        self._notify("step", number=number, seconds=seconds, loss=loss, timed=timed)
        return seconds
