"""One measured program in a process of its own, commanded over pipes.

Started by :mod:`benchmarks.measure` as ``python -m benchmarks.worker NAME THREADS``. Each line
on standard input is a JSON request ``{"do": ..., ...}``, each line on standard output its JSON
reply. What frameworks print goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
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

    def version(self) -> str:
        """The framework's name and version."""
        return self.entry.version()

    def losses(self, workload: dict[str, Any], weights: str, steps: int) -> list[float]:
        """The losses of the first steps, from given weights."""
        program = self._build(workload, weights)
        return [float(program.step()) for _ in range(steps)]

    def build(self, workload: dict[str, Any], weights: str) -> float:
        """Make the program ready, first step and compilation included; returns seconds."""
        begin = time.perf_counter()
        self.program = self._build(workload, weights)
        self.program.step()
        self.program.finish()
        return time.perf_counter() - begin

    def run(self, samples: int, steps_per_sample: int) -> list[float]:
        """Time ``samples`` runs of ``steps_per_sample`` steps each; returns seconds per step.

        One run before them is not counted: the processor's caches belonged to another program.
        """
        program = self.program
        if program is None:
            raise RuntimeError("run was asked for before build")
        gc.collect()
        times = []
        for _ in range(samples + 1):
            begin = time.perf_counter()
            for _ in range(steps_per_sample):
                loss = program.step()
            program.finish()
            times.append((time.perf_counter() - begin) / steps_per_sample)
        if not np.isfinite(float(loss)):
            raise FloatingPointError(f"the loss became {float(loss)}")
        return times[1:]

    def peak_memory(self) -> int:
        """The process's largest resident set, in bytes."""
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _build(self, workload: dict[str, Any], weights: str) -> Program:
        with np.load(weights) as stored:
            return self.entry.builder()(Workload(**workload), dict(stored))


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
