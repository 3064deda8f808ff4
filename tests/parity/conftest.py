"""Backends that tests of this folder need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from parity.toy_backend import ToyBackend, WrongBackend

from accelkit import registry
from accelkit.errors import BackendUnavailableError


@pytest.fixture(autouse=True)
def _require_backends(request: pytest.FixtureRequest) -> None:
    """Skip tests whose backend cannot be loaded."""
    cls = request.cls
    names = [cls.backend] if hasattr(cls, "backend") else getattr(cls, "backends", ())
    for name in names:
        try:
            registry.backend(name)
        except BackendUnavailableError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def toys() -> Iterator[None]:
    """The backends ``toy`` and ``wrong``, for the tests of one module only."""
    registry.register_backend("toy", ToyBackend)
    registry.register_backend("wrong", WrongBackend)
    yield
    registry.unregister_backend("toy")
    registry.unregister_backend("wrong")
