"""The figures of speed: of the last seconds, and never of the compilation."""

from __future__ import annotations

import pytest

from accelkit.data import WaitTimes
from accelkit.training import speed
from accelkit.training.display import Progress
from accelkit.training.speed import SpeedMeter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    return now


def test_speed_begins_after_the_step_that_compiles(clock: list[float]) -> None:
    meter, times = SpeedMeter(), WaitTimes(data_s=50.0, starved_s=50.0, step_s=30.0)
    assert meter.speed() is None
    meter.add(10, times)
    assert meter.speed() is None
    for _ in range(4):
        clock[0] += 1.0
        times.starved_s += 0.25
        times.data_s += 0.9
        times.step_s += 0.75
        meter.add(10, times)
    found = meter.speed()
    assert found is not None
    assert found.images_per_s == 10.0
    assert found.shares == {"data": 0.25, "transfer": 0.0, "compute": 0.75}
    assert found.bottleneck == "data"


def test_speed_is_that_of_the_last_seconds(clock: list[float]) -> None:
    meter, times = SpeedMeter(window_s=10.0), WaitTimes()
    for second in range(60):
        clock[0] += 1.0
        slow = second < 40
        times.transfer_s += 0.5 if slow else 0.0
        times.starved_s += 0.5 if slow else 0.0
        times.step_s += 0.5 if slow else 1.0
        meter.add(2 if slow else 8, times)
    found = meter.speed()
    assert found is not None
    assert found.images_per_s == 8.0
    assert found.bottleneck == "compute"
    assert found.shares["compute"] == 1.0
    assert len(meter._moments) < 14


def test_what_is_not_known_is_not_shown() -> None:
    progress = Progress()
    assert progress.speed_text() == progress.remaining_text() == ""
    progress.speed = speed.Speed(12.34, {"data": 0.0, "transfer": 0.4, "compute": 0.6}, "transfer")
    progress.remaining_s = 3725.0
    assert progress.speed_text() == (
        "12.3 images/s (data 0%, transfer 40%, compute 60%, limited by transfer)"
    )
    assert progress.remaining_text() == "1:02:05 left"
