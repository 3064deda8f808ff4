"""One measured program in a process of its own, commanded over pipes.

Started by :mod:`benchmarks.processes` as ``python -m benchmarks.worker NAME THREADS``. Each line
on standard input is a JSON request ``{"do": ..., ...}``, each line on standard output its JSON
reply. What frameworks print goes to standard error.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.program import PROGRAMS, Program
from benchmarks.workload import Workload

__all__ = ["Worker", "main"]


class Worker:
    """Answers requests; every public method is one."""

    def __init__(self, name: str) -> None:
        self.entry = PROGRAMS[name]
        self.program: Program | None = None

    def load(self) -> dict[str, Any]:
        """Import the program and all that it needs."""
        begin = time.perf_counter()
        version = self.entry.version()
        return {"version": version, "import_s": time.perf_counter() - begin}

    def losses(self, workload: dict[str, Any], steps: int) -> list[float]:
        """The losses of the first steps."""
        program = self._build(workload)
        found = [float(program.step()) for _ in range(steps)]
        del program
        gc.collect()
        return found

    def build(self, workload: dict[str, Any]) -> dict[str, float]:
        """Make the program ready and bring it to full speed.

        Returns:
            Seconds of ``build_s`` (weights and batch on the device), ``first_step_s``
            (compilation included) and ``step_s`` (the last warm-up step); ``loss`` of the first.
        """
        begin = time.perf_counter()
        self.program = self._build(workload)
        built = time.perf_counter()
        loss = float(self.program.step())
        self.program.finish()
        times = [time.perf_counter() - built]
        for _ in range(self.entry.warm_up_steps - 1):
            times.append(self._steps(1)[0])
        _forget_peak()
        return {
            "build_s": built - begin,
            "first_step_s": times[0],
            "step_s": times[-1],
            "loss": loss,
        }

    def run(self, samples: int, steps_per_sample: int, warm_up: int) -> list[float]:
        """Time ``samples`` runs of ``steps_per_sample`` steps each; returns seconds per step.

        ``warm_up`` runs before them are not counted: the processor's caches belonged to another
        program.
        """
        gc.collect()
        times = []
        for _ in range(warm_up + samples):
            seconds, loss = self._steps(steps_per_sample)
            times.append(seconds / steps_per_sample)
        if not np.isfinite(float(loss)):
            raise FloatingPointError(f"the loss became {float(loss)}")
        return times[warm_up:]

    def peak_memory(self) -> int:
        """The largest resident set, in bytes, since the program was warm.

        Where the system cannot forget an earlier peak, of the process as a whole.
        """
        status = Path("/proc/self/status")
        if status.exists():
            (line,) = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
            return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _build(self, workload: dict[str, Any]) -> Program:
        problem = Workload(**workload)
        return self.entry.builder()(problem, problem.weights())

    def _steps(self, count: int) -> tuple[float, Any]:
        if self.program is None:
            raise RuntimeError("run was asked for before build")
        begin = time.perf_counter()
        for _ in range(count):
            loss = self.program.step()
        self.program.finish()
        return time.perf_counter() - begin, loss


def _forget_peak() -> None:
    """Return what compilation and loading freed, and start the peak anew (Linux)."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Serve requests until standard input ends."""
    name, threads = sys.argv[1], int(sys.argv[2])
    # Replies get a private copy of standard output; everything else lands in standard error.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        # The one limit on threads that every framework's every pool obeys.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    worker = Worker(name)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"result": getattr(worker, request.pop("do"))(**request)}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
