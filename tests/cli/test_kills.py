"""A short form of ``kill_runs.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bytes() -> None:
    # In a process of its own: forking one with the threads of other tests is not safe.
    script = Path(__file__).parent / "kill_runs.py"
    command = [sys.executable, str(script), "--kills", "8", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all byte-identical" in done.stdout
