"""What examples register goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelkit import registry
from accelkit.primitives import PRIMITIVES


@contextmanager
def undone() -> Iterator[None]:
    """Forget the primitives and the backend ``mine`` that were registered meanwhile."""
    before = set(PRIMITIVES)
    try:
        yield
    finally:
        registry.unregister_backend("mine")
        for name in set(PRIMITIVES) - before:
            del PRIMITIVES[name]
