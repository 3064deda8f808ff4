"""Which backends must be there."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from parity.toy_backend import ToyBackend, WrongBackend

from accelkit import registry
from accelkit.errors import BackendUnavailableError


@pytest.fixture(autouse=True)
def _require_backends(request: pytest.FixtureRequest) -> None:
    """Skip tests whose backend cannot be loaded, and fail them where ``CI=true``."""
    cls = request.cls
    names = [cls.backend] if hasattr(cls, "backend") else getattr(cls, "backends", ())
    for name in names:
        try:
            registry.backend(name)
        except BackendUnavailableError as error:
            if os.environ.get("CI", "").lower() == "true":
                raise
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def toys() -> Iterator[None]:
    """The backends ``toy`` and ``wrong``, for the tests of one module only."""
    registry.register_backend("toy", ToyBackend)
    registry.register_backend("wrong", WrongBackend)
    yield
    registry.unregister_backend("toy")
    registry.unregister_backend("wrong")
