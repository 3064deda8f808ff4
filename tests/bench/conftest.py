"""What the tests of the benchmark command share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bench(tmp_path: Path) -> Command:
    """Runs ``python -m accelkit.bench`` in a folder of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "accelkit.bench", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def plug_in(tmp_path: Path) -> Callable[[str, str], str]:
    """Installs a distribution with one backend whose module has the given source.

    Returns the folder to put on ``PYTHONPATH``.
    """

    def install(name: str, source: str) -> str:
        folder = tmp_path / "site"
        info = folder / f"{name}_plugin-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(
            f"[accelkit.backends]\n{name} = {name}_plugin:Backend\n"
        )
        (folder / f"{name}_plugin.py").write_text(source)
        return str(folder)

    return install
