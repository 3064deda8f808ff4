"""Worker processes, all with the same threads and the same memory allocator settings."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from accelkit.bench.processes import thread_environment
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
    return {
        **thread_environment(threads),
        "CPU_COUNT": str(threads),  # tinygrad
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
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
        with contextlib.suppress(BrokenPipeError):  # it died; the missing reply tells the story
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
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
            with contextlib.suppress(BrokenPipeError):  # it died before it read all
                pipe.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        return "".join(self._errors.readlines()[-15:])
