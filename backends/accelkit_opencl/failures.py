"""One funnel for OpenCL's errors: every pyopencl exception becomes accelkit's, by its code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyopencl as cl

from accelkit.errors import AccelkitError, BackendError, DeviceError, OutOfMemoryError

__all__ = ["code_name", "funnel", "is_out_of_memory", "translate"]

_OUT_OF_MEMORY = {
    cl.status_code.MEM_OBJECT_ALLOCATION_FAILURE,
    cl.status_code.OUT_OF_RESOURCES,
    cl.status_code.OUT_OF_HOST_MEMORY,
    cl.status_code.INVALID_BUFFER_SIZE,
}


def code_name(error: cl.Error) -> str:
    """The OpenCL name of an error's code, e.g. ``"OUT_OF_RESOURCES"``."""
    code = getattr(error, "code", None)
    if code is None:
        return "UNKNOWN"
    return f"{cl.status_code.to_string(code, 'code %d')} ({code})"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory or resources ran out, which drivers may report late, when a kernel starts."""
    return isinstance(error, MemoryError) or getattr(error, "code", None) in _OUT_OF_MEMORY


def translate(error: BaseException, doing: str = "") -> AccelkitError:
    """The accelkit error for any exception that running on OpenCL can raise."""
    if isinstance(error, AccelkitError):
        return error
    what = f" while {doing}" if doing else ""
    if isinstance(error, cl.Error):
        name = code_name(error)
        if is_out_of_memory(error):
            return OutOfMemoryError(
                f"OpenCL ran out of memory or resources{what}: {name}. Use a smaller batch, or "
                f"free tensors that are no longer needed."
            )
        if getattr(error, "code", None) == cl.status_code.DEVICE_NOT_AVAILABLE:
            return DeviceError(f"The OpenCL device is not available any more{what}: {name}.")
        return BackendError(f"OpenCL failed{what}: {name}. {str(error)[:2000]}")
    if isinstance(error, MemoryError):
        return OutOfMemoryError(f"Out of host memory{what}.")
    return BackendError(f"OpenCL backend failed{what}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def funnel(doing: str) -> Iterator[None]:
    """Translate pyopencl's errors; ``doing`` completes "OpenCL failed while ..."."""
    try:
        yield
    except (cl.Error, MemoryError) as error:
        raise translate(error, doing) from error
