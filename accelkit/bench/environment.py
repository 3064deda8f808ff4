"""What figures depend on besides the program: versions, machine, threads."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import accelkit
from accelkit import host

__all__ = ["commit", "describe", "versions"]


def describe(threads: int) -> dict[str, Any]:
    """The ``environment`` of a report, before any device is known.

    Args:
        threads: How many threads each backend may use.
    """
    return {
        "accelkit": accelkit.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": host.processor_name(),
        "memory_bytes": host.memory_bytes(),
        "threads": threads,
        "versions": versions(),
        "devices": {},
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Versions of the installed distributions that accelkit requires or can use."""
    found = {}
    for requirement in importlib.metadata.requires("accelkit") or ():
        match = re.match(r"[A-Za-z0-9_.-]+", requirement)
        is_tool = "extra == 'dev'" in requirement.replace('"', "'")
        if match is None or is_tool or match[0] == "accelkit":
            continue
        try:
            found[match[0]] = importlib.metadata.version(match[0])
        except importlib.metadata.PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def commit() -> str | None:
    """The commit that accelkit runs from, with ``-dirty`` where the package was changed since.

    None for an installed distribution, or without git.
    """
    package = Path(accelkit.__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(package), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else it only lies inside a checkout
        head = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}-dirty" if changed else head
