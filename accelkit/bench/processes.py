"""Worker processes: started with equal settings, listened to, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from typing import IO, Any, Final

__all__ = ["available_threads", "probe_all", "request", "thread_environment"]

_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPROC",  # the size of XLA's thread pool on CPUs
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "POCL_MAX_PTHREAD_COUNT",
    "POCL_CPU_MAX_CU_COUNT",
)
_LAST_WORDS: Final = 15  # lines

Event = dict[str, Any]


def available_threads() -> int:
    """Processors that this process may use, or ``OMP_NUM_THREADS`` where it asks for fewer."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    count = count or 1
    return min(count, int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else count


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables by which frameworks size their thread pools."""
    return {
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    }


@contextlib.contextmanager
def _worker(errors: IO[str], threads: int) -> Iterator[subprocess.Popen[str]]:
    """A worker that is gone when the block ends, however it ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "accelkit.bench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
        env=os.environ | thread_environment(threads),
        # Ctrl-C reaches this process alone, which then ends its workers in order.
        start_new_session=os.name == "posix",
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def request(do: str, *, threads: int, **arguments: Any) -> Generator[Event, None, None]:
    """Send one request to a fresh worker and yield its events.

    Close the generator to end the worker early. A worker that dies yields a last ``error`` event
    with its exit status and last words.
    """
    with _last_words() as errors, _worker(errors, threads) as process:
        _send(process, {"do": do, "threads": threads, **arguments})
        yield from _events(process, errors)


def _last_words() -> IO[str]:
    """Where a worker's standard error goes."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def _send(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died; its exit status tells the story
        process.stdin.write(json.dumps(message))
        process.stdin.close()


def _events(process: subprocess.Popen[str], errors: IO[str]) -> Iterator[Event]:
    assert process.stdout is not None
    explained = False
    for line in process.stdout:
        event: Event = json.loads(line)
        explained |= event["event"] == "error"
        yield event
    status = process.wait()
    if status != 0 and not explained:
        yield {"event": "error", "error": _death(status, errors)}


def _death(status: int, errors: IO[str]) -> dict[str, Any]:
    errors.seek(0)
    words = "".join(errors.readlines()[-_LAST_WORDS:]).strip()
    if status < 0:
        name = signal.Signals(-status).name
        reason = f"The worker process was killed by {name}"
        if name == "SIGKILL":
            reason += " (the system does this when memory runs out)"
    else:
        reason = f"The worker process died with exit status {status}"
    message = f"{reason}." + (f" Its last words:\n{words}" if words else "")
    return {"type": "BackendError", "message": message, "is_missing": False, "traceback": words}


def probe_all(devices: Sequence[str], threads: int) -> dict[str, list[Event]]:
    """What each device or backend name stands for: events by name, asked all at once."""
    with contextlib.ExitStack() as stack:
        running = {}
        for name in devices:
            errors = stack.enter_context(_last_words())
            process = stack.enter_context(_worker(errors, threads))
            _send(process, {"do": "probe", "threads": threads, "device": name})
            running[name] = (process, errors)
        return {name: list(_events(process, errors)) for name, (process, errors) in running.items()}
