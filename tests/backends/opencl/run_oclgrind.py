"""Run the kernel tests under oclgrind, an OpenCL device that interprets kernels and checks them.

It reports data races, reads of uninitialised memory and accesses out of bounds; a test that causes
a report fails (see ``conftest.py``). Where oclgrind is not installed, Debian's package is
unpacked into ``.opencl-runtimes/`` of the checkout, which needs no root rights. Arguments are
passed on to pytest::

    python tests/backends/opencl/run_oclgrind.py -k matmul
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[2] / ".opencl-runtimes" / "oclgrind"
SUITE = ("test_oclgrind.py", "test_table.py", "test_products.py", "test_winograd.py")
# Without optimisation: the interpreter lacks instructions that optimisation introduces, and the
# vendor's intrinsics (see accelkit_opencl.kernels.mathematics).
BUILD_OPTIONS = "-cl-opt-disable -DAK_STANDARD_FUNCTIONS"


def find_oclgrind() -> tuple[Path, dict[str, str]]:
    """The program and the environment that it needs; fetched where it is not installed."""
    installed = shutil.which("oclgrind")
    if installed:
        return Path(installed), {}
    if not (FOLDER / "usr/bin/oclgrind").exists():
        fetch(FOLDER)
    (headers,) = FOLDER.glob("usr/lib/*/oclgrind/*/")  # lib/MACHINE/oclgrind/VERSION
    libraries = headers.parents[1]
    environment = {"LD_LIBRARY_PATH": str(libraries), "OCLGRIND_PCH_DIR": str(headers)}
    return FOLDER / "usr/bin/oclgrind", environment


def fetch(folder: Path) -> None:
    """Unpack Debian's packages of oclgrind, and those it needs that are not installed."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise SystemExit(
            "oclgrind is not installed, and this system has no Debian packages to fetch it from. "
            "Install it (https://github.com/jrprice/Oclgrind) and put it on PATH."
        )
    listing = ["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests"]
    listing += ["--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", "oclgrind"]
    closure = [line for line in output(listing) if line[0] not in " |<"]
    wanted = [name for name in closure if "oclgrind" in name or not is_installed(name)]
    with tempfile.TemporaryDirectory() as scratch:
        download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root"]
        subprocess.run([*download, *wanted], cwd=scratch, check=True)
        folder.mkdir(parents=True, exist_ok=True)
        for package in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)


def output(command: Sequence[str]) -> list[str]:
    """The lines that a command prints."""
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line for line in ended.stdout.splitlines() if line]


def is_installed(package: str) -> bool:
    """Whether dpkg knows the package as installed."""
    command = ["dpkg-query", "-W", "-f", "${Status}", package]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    return ended.stdout == "install ok installed"


def main(arguments: Sequence[str]) -> int:
    """Run the suite; returns pytest's exit status."""
    program, environment = find_oclgrind()
    with tempfile.TemporaryDirectory() as scratch:
        checks = ["--data-races", "--uninitialized", "--max-errors", "1000000"]
        log = ["--log", str(Path(scratch) / "findings.txt")]
        tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        tests += [*(str(HERE / name) for name in SUITE), *arguments]
        command = [str(program), *checks, *log, "--build-options", BUILD_OPTIONS, *tests]
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
