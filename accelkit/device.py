"""Devices: what they are called, which there are, and which one is the default.

A device is named ``"<backend>[:<kind>[:<index>]]"``: ``"numpy"``, ``"torch:cuda:0"``,
``"jax:tpu"``, ``"opencl:gpu:1"``. The default device is a context variable, set for a block by
``with ak.default_device("jax"):``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from accelkit.errors import AccelkitError, DeviceError, OptionError, UnknownNameError, nearest

if TYPE_CHECKING:
    from accelkit.backend import Backend

__all__ = [
    "Device",
    "DeviceInfo",
    "DeviceReport",
    "current_device",
    "default_device",
    "device",
    "devices",
]


class Device:
    """One device of one backend. Immutable, hashable, and one object per device.

    Attributes:
        backend: Name of the backend, e.g. ``"torch"``.
        kind: Kind of hardware, e.g. ``"cpu"``, ``"cuda"``, ``"gpu"``, ``"tpu"``,
            ``"accelerator"``.
        index: Position among the backend's devices of this kind.
    """

    __slots__ = ("__weakref__", "_backend", "_index", "_kind")
    _interned: dict[tuple[str, str, int], Device] = {}  # noqa: RUF012 - a slot class's registry
    _lock = threading.Lock()
    _backend: str
    _kind: str
    _index: int

    def __new__(cls, backend: str, kind: str = "cpu", index: int = 0) -> Device:
        key = (backend, kind, index)
        with cls._lock:
            found = cls._interned.get(key)
            if found is None:
                found = object.__new__(cls)
                found._backend, found._kind, found._index = key
                cls._interned[key] = found
            return found

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self._backend

    @property
    def kind(self) -> str:
        """Kind of hardware."""
        return self._kind

    @property
    def index(self) -> int:
        """Position among the backend's devices of this kind."""
        return self._index

    def __str__(self) -> str:
        return f"{self._backend}:{self._kind}:{self._index}"

    def __repr__(self) -> str:
        return f"Device({str(self)!r})"

    def __reduce__(self) -> tuple[object, tuple[str, str, int]]:
        return Device, (self._backend, self._kind, self._index)


class DeviceInfo(NamedTuple):
    """What is known of a usable device.

    Attributes:
        device: Its name.
        description: The hardware's own name.
        memory_bytes: Size of its memory, None where the backend cannot tell.
        driver: Framework and driver version.
    """

    device: Device
    description: str
    memory_bytes: int | None
    driver: str


class DeviceReport(NamedTuple):
    """All usable devices, and why an installed or known backend offers none.

    Attributes:
        available: Usable devices, per backend in order of preference.
        unavailable: Reason per backend name.
    """

    available: tuple[DeviceInfo, ...]
    unavailable: dict[str, str]

    def __iter__(self) -> Iterator[DeviceInfo]:  # type: ignore[override]
        return iter(self.available)

    def __len__(self) -> int:
        return len(self.available)

    def __str__(self) -> str:
        lines = []
        for info in self.available:
            memory = f", {info.memory_bytes / 2**30:.1f} GiB" if info.memory_bytes else ""
            lines.append(f"{info.device}  {info.description}{memory}  ({info.driver})")
        lines += [f"{name}  unavailable: {why}" for name, why in self.unavailable.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


_default: ContextVar[Device | None] = ContextVar("accelkit_default_device", default=None)


def device(spec: str | Device) -> Device:
    """Find a device by name.

    Args:
        spec: ``"backend"`` (its preferred device), ``"backend:kind"`` or
            ``"backend:kind:index"``, or a Device.

    Raises:
        UnknownNameError: no backend of this name.
        OptionError: no name of a device.
        BackendUnavailableError: its framework is missing or broken.
        DeviceError: the backend has no such device; the message lists what it has.

    Example:
        >>> import accelkit as ak
        >>> ak.device("numpy")
        Device('numpy:cpu:0')
    """
    from accelkit import registry

    if isinstance(spec, Device):
        return spec
    if not isinstance(spec, str):
        raise OptionError(
            f"A device is named by a text such as 'torch:cuda:0', got {type(spec).__name__}."
        )
    name, *rest = spec.split(":")
    try:
        backend = registry.backend(name)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"{error} A device is named by its backend first, for example 'torch:cuda:0'."
        ) from None
    if len(rest) > 2 or (len(rest) == 2 and not rest[1].isdecimal()):
        raise OptionError(
            f"{spec!r} does not name a device. Expected 'backend', 'backend:kind' or "
            f"'backend:kind:index', for example 'torch:cuda:0'."
        )
    known = [info.device for info in _usable(backend)]
    matching = [
        d
        for d in known
        if (not rest or d.kind == rest[0]) and (len(rest) < 2 or d.index == int(rest[1]))
    ]
    if not matching:
        listing = ", ".join(map(str, known)) or "none at all"
        raise DeviceError(
            f"Backend {name!r} has no device {spec!r}. It has: {listing}. "
            f"{nearest(spec, map(str, known))}"
            f"`python -m accelkit.bench --list` shows every device on this machine."
        )
    return matching[0]


def _usable(backend: Backend) -> list[DeviceInfo]:
    """A backend's devices; its framework may fail to list them."""
    try:
        return backend.devices()
    except AccelkitError:
        raise
    except Exception as error:
        raise DeviceError(
            f"Backend {backend.name!r} fails to list its devices: {type(error).__name__}: {error}"
        ) from error


def current_device() -> Device:
    """The default device: what ``default_device`` set, else NumPy's CPU."""
    return _default.get() or device("numpy")


@contextlib.contextmanager
def default_device(spec: str | Device) -> Iterator[Device]:
    """Use a device for everything created inside the block.

    Example:
        >>> import accelkit as ak
        >>> with ak.default_device("numpy") as chosen:
        ...     ak.zeros((2,)).device is chosen
        True
    """
    chosen = device(spec)
    token = _default.set(chosen)
    try:
        yield chosen
    finally:
        _default.reset(token)


def devices() -> DeviceReport:
    """List every device that can be used now, and why a backend offers none.

    One broken backend never hides another: its own error becomes its reason.
    """
    from accelkit import registry

    available: list[DeviceInfo] = []
    unavailable: dict[str, str] = {}
    for name in registry.backend_names():
        try:
            found = _usable(registry.backend(name))
        except AccelkitError as error:
            unavailable[name] = str(error)
            continue
        if not found:
            unavailable[name] = "its framework is installed, but reports no device"
        available.extend(found)
    return DeviceReport(tuple(available), unavailable)
