"""DLPack both ways, without a copy where the device shares the host's memory.

Tensors are immutable, so memory is shared only if nobody can write to it:

- *Import* shares memory that its owner marks as read-only (JAX's arrays, NumPy arrays with
  ``writeable = False`` down to their base) and copies other memory. ``copy=False`` shares memory
  that could be written to as well; the caller promises not to write to it any more.
- *Export* gives a read-only view. Consumers that do not know of read-only memory (DLPack before
  1.0) get a copy. PyTorch accepts such a view but does not enforce it: clone before writing. While
  the view exists, the tensor's memory is neither reused nor given to a program that donates it.

Sharing needs dense host memory at a multiple of the device's alignment, usually 128 bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from accelkit.errors import OptionError
from accelkit_opencl.runtime import DeviceArray, Runtime

__all__ = ["export", "import_shared", "is_immutable"]


def export(array: DeviceArray, options: dict[str, Any]) -> Any:
    """A DLPack capsule, with the options that a consumer passes to ``__dlpack__``.

    Raises:
        BufferError: if ``copy=False`` cannot be had.
    """
    version = options.get("max_version")
    knows_read_only = version is not None and tuple(version) >= (1, 0)
    if knows_read_only and not options.get("copy"):
        view = array.runtime.view(array)
        if view is not None:
            return view.__dlpack__(**options)
    if options.get("copy") is False:
        raise BufferError(
            f"{array.runtime.device} exports a copy of this array, which copy=False refuses."
        )
    return array.runtime.get(array).__dlpack__(**options)


def import_shared(source: Any, runtime: Runtime) -> DeviceArray:
    """An array in the memory of an object with ``__dlpack__``.

    Raises:
        OptionError: if the device cannot use that memory.
    """
    host = np.from_dlpack(source)
    shared = runtime.share(host)
    if shared is None:
        alignment = runtime.alignment_bytes
        raise OptionError(
            f"{runtime.device} cannot use this memory without a copy, which copy=False refuses: it "
            f"needs a device that shares host memory, and a dense array at a multiple of "
            f"{alignment} bytes. Got shape {host.shape}, strides {host.strides}, at "
            f"{host.ctypes.data % alignment} beyond such a multiple."
        )
    return shared


def is_immutable(source: Any, host: np.ndarray) -> bool:
    """Whether nobody can write to the memory of ``source``, of which ``host`` is a view."""
    if host.flags.writeable:
        return False
    while isinstance(source, np.ndarray):
        if source.flags.writeable:
            return False
        source = source.base
    return True
