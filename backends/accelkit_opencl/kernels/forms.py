"""The forms of a kernel for different compilers: other text, the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.kernels.task import as_task
from accelkit_opencl.kernels.wide import as_wide

__all__ = ["FORMS"]

FORMS: Final[Mapping[str, Callable[[KernelSource], KernelSource]]] = {
    "range": lambda source: source,  # as planned
    "task": as_task,
    "wide": as_wide,
}
