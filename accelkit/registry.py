"""Backends and models, found by entry points and loaded when first used.

A distribution offers a backend in the entry point group ``accelkit.backends`` (a
:class:`~accelkit.backend.Backend` subclass) or a model in ``accelkit.models`` (a function that
builds a :class:`~accelkit.models.Model`); accelkit's own use the same mechanism. A program may
also register one directly.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from accelkit.arguments import require_instance
from accelkit.errors import BackendUnavailableError, UnknownNameError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from accelkit.backend import Backend

__all__ = [
    "backend",
    "backend_names",
    "is_loaded",
    "model_factory",
    "model_names",
    "register_backend",
    "register_model",
    "unregister_backend",
]

_INSTALL_HINTS = {
    name: f"pip install 'accelkit[{name}]'" for name in ("torch", "jax", "tensorflow", "opencl")
}
_lock = threading.RLock()
_instances: dict[str, Backend] = {}
_failures: dict[str, BackendUnavailableError] = {}
_registered_backends: dict[str, Callable[[], Backend]] = {}
_registered_models: dict[str, Callable[..., Any]] = {}


@functools.cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # slow to import

    return {point.name: point for point in entry_points(group=group)}


def backend_names() -> list[str]:
    """Names of all registered backends, usable or not; numpy, the reference, first."""
    names = {*_entry_points("accelkit.backends"), *_registered_backends}
    return sorted(names, key=lambda name: (name != "numpy", name))


def is_loaded(name: str) -> bool:
    """Whether the backend of this name is in use already."""
    return name in _instances


def backend(name: str) -> Backend:
    """The backend of this name, loaded once per process.

    Raises:
        UnknownNameError: if nobody registered the name.
        BackendUnavailableError: if its framework is missing (with the command that installs
            it) or fails to import (its own error is the cause).
    """
    found = _instances.get(name)
    if found is not None:
        return found
    with _lock:
        if name in _instances:
            return _instances[name]
        if name in _failures:
            raise _failures[name]
        if name not in backend_names():
            raise UnknownNameError.of("backend", name, backend_names())
        try:
            _instances[name] = _load(name)
        except Exception as error:
            _failures[name] = _unavailable(name, error)
            raise _failures[name] from error
        return _instances[name]


def _load(name: str) -> Backend:
    if name in _registered_backends:
        return _registered_backends[name]()
    created: Backend = _entry_points("accelkit.backends")[name].load()()
    return created


def _unavailable(name: str, error: Exception) -> BackendUnavailableError:
    hint = _INSTALL_HINTS.get(name)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("accel"):
        install = f" Install it with: {hint}" if hint else ""
        text = f"Backend {name!r} needs the package {error.name!r}, which is missing.{install}"
    else:
        text = f"Backend {name!r} fails to load: {type(error).__name__}: {error}"
    unavailable = BackendUnavailableError(text)
    unavailable.__cause__ = error
    return unavailable


def register_backend(name: str, factory: Callable[[], Backend]) -> None:
    """Register a backend from a program instead of an entry point, replacing an earlier one."""
    with _lock:
        _registered_backends[name] = factory
        _instances.pop(name, None)
        _failures.pop(name, None)


def unregister_backend(name: str) -> None:
    """Forget a backend that a program registered; one from an entry point comes back."""
    with _lock:
        _registered_backends.pop(name, None)
        _instances.pop(name, None)
        _failures.pop(name, None)


def model_names() -> list[str]:
    """Names of all registered models."""
    return sorted({*_entry_points("accelkit.models"), *_registered_models})


def model_factory(name: str) -> Callable[..., Any]:
    """The function that builds the model of this name.

    Raises:
        UnknownNameError: if nobody registered the name.
    """
    require_instance("name", name, str, "Models are named as in `python -m accelkit.bench --list`.")
    if name in _registered_models:
        return _registered_models[name]
    points = _entry_points("accelkit.models")
    if name not in points:
        raise UnknownNameError.of("model", name, model_names())
    loaded: Callable[..., Any] = points[name].load()
    return loaded


def register_model(name: str, factory: Callable[..., Any]) -> None:
    """Register a model from a program instead of an entry point."""
    _registered_models[name] = factory
