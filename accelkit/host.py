"""The machine that the program runs on: its processor, and the memory of this process."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelkit.backend import MemoryStatistics
from accelkit.errors import OutOfMemoryError

__all__ = [
    "has_intel_processor",
    "memory_bytes",
    "process_memory",
    "processor_name",
    "reset_peak_memory",
    "within_memory",
]

_PROCESSORS = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
_CLEAR_REFERENCES = Path("/proc/self/clear_refs")
# Threads' stacks, generated kernels, the interpreter: AlexNet's first step on torch leaves 6 MiB.
_NOISE_BYTES = 16 << 20


@functools.cache
def processor_name() -> str:
    """The processor's model name with its number of logical cores."""
    name = _processor_field("model name") or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


@functools.cache
def has_intel_processor() -> bool:
    """Whether the processor is one of Intel's, as far as the system tells."""
    return "GenuineIntel" in (_processor_field("vendor_id") or platform.processor())


def _processor_field(name: str) -> str:
    """What Linux says of the first processor; empty elsewhere, or if it does not say it."""
    if _PROCESSORS.exists():
        for line in _PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


@functools.cache
def memory_bytes() -> int | None:
    """Physical memory of the machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        import psutil

        return int(psutil.virtual_memory().total)


@contextmanager
def within_memory(what: str, advice: str) -> Iterator[None]:
    """The context, or decorator, of what fills arrays of the host.

    Args:
        what: What the arrays are for, in the error's words.
        advice: What to do if they do not fit: a sentence without its full stop.

    Raises:
        OutOfMemoryError: for a MemoryError within, which becomes its cause.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(
            f"The host's memory does not suffice for {what}: {error}. {advice}."
        ) from error


def process_memory() -> MemoryStatistics:
    """Resident memory of this process, all its libraries included.

    On Linux the kernel keeps the exact peak. Elsewhere the peak is that of the process's whole
    life where the system records one.
    """
    if _STATUS.exists():
        fields = dict(
            line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines()
        )
        in_use, peak, files = (
            int(fields[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM", "RssFile")
        )
        method = "process resident set (VmRSS, VmHWM)"
        return MemoryStatistics(in_use, peak, method, files, _NOISE_BYTES)
    import psutil

    information = psutil.Process().memory_info()
    recorded = getattr(information, "peak_wset", None)
    if recorded is None:
        import resource

        unit = 1 if platform.system() == "Darwin" else 1024
        recorded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    method = "process resident set (whole life's peak)"
    return MemoryStatistics(information.rss, recorded, method, noise_bytes=_NOISE_BYTES)


def reset_peak_memory() -> None:
    """Start a new peak of :func:`process_memory`, where the system allows it (Linux)."""
    if _CLEAR_REFERENCES.exists():
        try:
            _CLEAR_REFERENCES.write_text("5", encoding="ascii")
        except OSError:
            return  # a sandbox may forbid it: the peak stays the whole life's
