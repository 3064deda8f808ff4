"""A short form of ``benchmarks/kill_resume.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bytes() -> None:
    # In a process of its own: forking one with the threads of other tests is not safe.
    script = Path(__file__).parents[2] / "benchmarks" / "kill_resume.py"
    command = [sys.executable, str(script), "--kills", "5", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all byte-identical" in done.stdout
