"""Which backends must be there."""

from __future__ import annotations

import os

import pytest

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
