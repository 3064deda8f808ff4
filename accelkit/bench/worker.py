"""One backend in a process of its own.

Started by :mod:`accelkit.bench.processes` as ``python -m accelkit.bench.worker``. Standard input
holds one JSON request, each line of standard output is one JSON event, and everything that
frameworks print goes to standard error.

======== ===========================================  ======================================
request  arguments                                    events
======== ===========================================  ======================================
probe    ``device``: a device's or backend's name     ``device`` for each that it stands for
measure  ``settings``, ``profile``: whether to        ``device``, ``stage``, ``step``,
                                                      ``result``, ``profile``
======== ===========================================  ======================================

A request that fails ends with an ``error`` event.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

__all__ = ["main"]


class _Events:
    """Writes events to what was standard output when the process began."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def __call__(self, event: str, **details: Any) -> None:
        self._stream.write(json.dumps({"event": event, **details}) + "\n")
        self._stream.flush()


def _limit_processors(threads: int) -> None:
    """The one limit on threads that every framework's every pool obeys (Linux)."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:threads])


def _announce(events: _Events, devices: Any) -> None:
    for info in devices:
        events(
            "device",
            device=str(info.device),
            description=info.description,
            memory_bytes=info.memory_bytes,
            driver=info.driver,
        )


def _probe(events: _Events, device: str) -> None:
    from accelkit import registry
    from accelkit.device import device as find_device

    if ":" not in device:
        _announce(events, registry.backend(device).devices())
        return
    found = find_device(device)
    infos = registry.backend(found.backend).devices()
    _announce(events, [info for info in infos if info.device is found])


def _measure(events: _Events, settings: dict[str, Any], *, profile: bool) -> None:
    from accelkit import registry
    from accelkit.bench.measure import measure_workload
    from accelkit.bench.profile import profile_workload
    from accelkit.bench.settings import Settings
    from accelkit.bench.workload import Workload
    from accelkit.device import device as find_device

    chosen = Settings.from_json(settings)
    events("stage", text="loading")
    device = find_device(chosen.device)
    infos = registry.backend(device.backend).devices()
    _announce(events, [info for info in infos if info.device is device])
    events("stage", text="drawing weights and batches")
    workload = Workload(chosen, device)
    events("result", result=measure_workload(workload, notify=events))
    if profile:
        events("stage", text="profiling")
        events("profile", profile=profile_workload(workload))


def _describe(error: BaseException) -> dict[str, Any]:
    from accelkit.errors import AccelkitError

    known = isinstance(error, AccelkitError)
    return {
        "type": type(error).__name__,
        "message": str(error) if known else f"{type(error).__name__}: {error}",
        "is_missing": isinstance(error.__cause__, ModuleNotFoundError),
        "traceback": "".join(traceback.format_exception(error)),
    }


def main() -> int:
    """Answer the request on standard input."""
    events = _Events()
    request = json.loads(sys.stdin.read())
    _limit_processors(request["threads"])
    try:
        if request["do"] == "probe":
            _probe(events, request["device"])
        else:
            _measure(events, request["settings"], profile=request["profile"])
    except BrokenPipeError:
        raise  # whoever asked is gone
    except Exception as error:
        events("error", error=_describe(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
