"""Settings that all tests share.

Hypothesis runs under one of three profiles, chosen by the environment variable
``HYPOTHESIS_PROFILE`` (default: ``ci`` where ``CI=true``, else ``dev``):

- ``dev``: new examples in every run; failures are kept in ``.hypothesis/`` and tried first.
- ``ci``: the same examples in every run, so that a failure belongs to the change at hand.
- ``nightly``: ten times as many new examples.

None has a deadline: compiling a graph for a new shape takes longer than the next hundred runs.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("dev", max_examples=50, **_COMMON)
settings.register_profile(
    "ci", max_examples=100, derandomize=True, database=None, print_blob=True, **_COMMON
)
settings.register_profile("nightly", max_examples=1000, print_blob=True, **_COMMON)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE")
    or ("ci" if os.environ.get("CI", "").lower() == "true" else "dev")
)
