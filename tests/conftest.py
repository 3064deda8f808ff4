"""Settings that all tests share.

Hypothesis runs under one of three profiles, chosen by the environment variable
``HYPOTHESIS_PROFILE`` (default: ``ci`` where ``CI=true``, else ``dev``):

- ``dev``: new examples in every run; failures are kept in ``.hypothesis/`` and tried first.
- ``ci``: the same examples in every run, so that a failure belongs to the change at hand.
- ``nightly``: ten times as many new examples.

None has a deadline: compiling a graph for a new shape takes longer than the next hundred runs.

Tests of a backend whose framework is missing are skipped, unless ``ACCELKIT_REQUIRED_BACKENDS``
names it (``all``, or names with commas): then nothing runs before all of those can be loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
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

# Test processes share the cores: a thread that waits sleeps, where OpenMP and OpenBLAS would
# have it spin and take the core from its neighbour. Both read this when they are loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

# No test depends on which kernels the tuner once found fastest on this machine.
os.environ["ACCELKIT_OPENCL_NO_TUNE"] = "1"

_LOAD = """
import sys
from accelkit import registry
for name in registry.backend_names() if sys.argv[1] == "all" else sys.argv[1].split(","):
    registry.backend(name)
"""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Load every required backend, in a process of its own."""
    required = os.environ.get("ACCELKIT_REQUIRED_BACKENDS", "")
    is_worker = hasattr(session.config, "workerinput")
    if not required or is_worker:
        return
    ended = subprocess.run(
        [sys.executable, "-c", _LOAD, required], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        reason = ended.stderr.strip().splitlines()[-1]
        raise pytest.UsageError(f"ACCELKIT_REQUIRED_BACKENDS={required}: {reason}")
