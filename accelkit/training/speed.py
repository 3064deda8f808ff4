"""How fast a run is now, and what makes it as slow as it is."""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass, replace

from accelkit.data import WaitTimes

__all__ = ["Speed", "SpeedMeter"]


@dataclass(frozen=True)
class Speed:
    """Figures of the last seconds.

    Attributes:
        images_per_s: Images trained on.
        shares: Share of the time in which the step waited for ``"data"`` or for a
            ``"transfer"``, or did ``"compute"``.
        bottleneck: One of these: what to make faster.
    """

    images_per_s: float
    shares: dict[str, float]
    bottleneck: str


@dataclass(frozen=True)
class _Moment:
    time_s: float
    images: int
    times: WaitTimes


class SpeedMeter:
    """Measures from the end of the first step, which compiles, over the last seconds.

    Args:
        window_s: How far the figures look back, at least.
    """

    def __init__(self, window_s: float = 10.0) -> None:
        self._window_s = window_s
        self._moments: collections.deque[_Moment] = collections.deque()
        self._images = 0

    def add(self, images: int, times: WaitTimes) -> None:
        """Note that a step on so many images was started; ``times`` are the totals so far."""
        self._images += images
        now = time.perf_counter()
        self._moments.append(_Moment(now, self._images, replace(times)))
        while len(self._moments) > 2 and now - self._moments[1].time_s >= self._window_s:
            self._moments.popleft()

    def speed(self) -> Speed | None:
        """The figures; None before the second step."""
        if len(self._moments) < 2:
            return None
        first, last = self._moments[0], self._moments[-1]
        times = last.times - first.times
        busy_s = times.starved_s + times.step_s
        cause = "transfer" if times.transfer_s > times.data_s else "data"
        shares = {"data": 0.0, "transfer": 0.0, "compute": 1.0 - times.starved_share}
        shares[cause] = times.starved_share
        images = last.images - first.images
        return Speed(images / busy_s if busy_s else 0.0, shares, times.bottleneck())
