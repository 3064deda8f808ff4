"""Worker processes, all with the same threads and the same memory allocator settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.program import PROGRAMS

__all__ = ["ProgramError", "ProgramProcess", "environment"]


class ProgramError(RuntimeError):
    """A measured program failed or died."""


def environment(threads: int) -> dict[str, str]:
    """Environment variables that all programs run under, on top of the user's own.

    glibc returns large blocks to the system on every ``free`` and takes a page fault per 4 KB
    when they come back; a training loop frees and allocates the same gigabyte at each step.
    Keeping the memory helps every framework that allocates per step, so all get it.
    """
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "NPROC": count,  # the size of XLA's thread pool on CPUs
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": count,
        "POCL_MAX_PTHREAD_COUNT": count,
        "POCL_CPU_MAX_CU_COUNT": count,
        "CPU_COUNT": count,  # tinygrad
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


class ProgramProcess:
    """A worker process; requests are answered in order."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 see close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | environment(threads) | PROGRAMS[name].variables(),
            cwd=Path(__file__).resolve().parent.parent,
        )

    def request(self, do: str, **arguments: Any) -> Any:
        """Ask the worker and wait for its answer.

        Raises:
            ProgramError: if it failed or died, with its last words.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; the missing reply tells the story
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ProgramError(
                f"{self.name} died with exit code {code} during {do!r}.\n{self._last_words()}"
            )
        reply = json.loads(line)
        if "error" in reply:
            raise ProgramError(f"{self.name}: {reply['error']}\n{self._last_words()}")
        return reply["result"]

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _last_words(self, lines: int = 15) -> str:
        self._errors.seek(0)
        return "".join(self._errors.readlines()[-lines:])
