"""Fetch Intel's OpenCL runtimes for tests: a CPU device and an FPGA emulator (ACCELERATOR).

They come from Intel's wheels on the package index, under Intel's licence, into
``.opencl-runtimes/`` of the checkout, and are used by tests only. The wheels' own .icd files name
a path that does not exist, so new ones are written. Prints the environment that uses them::

    OCL_ICD_VENDORS=.../vendors LD_LIBRARY_PATH=.../lib python -m accelkit.opencl devices
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Later versions of intel-opencl-rt no longer hold the FPGA emulator.
WHEELS = (
    "intel-opencl-rt==2023.2.4",
    "intel-cmplr-lib-rt==2026.2.0",
    "tbb==2023.2.0",
    "tcmlib",
)
RUNTIMES = {"intel.icd": "libintelocl.so", "intel_fpga.icd": "libintelocl_emu.so"}
FOLDER = Path(__file__).parents[3] / ".opencl-runtimes"


def fetch(folder: Path = FOLDER) -> Path:
    """Download and unpack into ``folder`` unless that was done before; returns it."""
    libraries, vendors = folder / "lib", folder / "vendors"
    if all((vendors / name).exists() for name in RUNTIMES):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    libraries.mkdir(exist_ok=True)
    vendors.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "-d", scratch, *WHEELS], check=True)
        for wheel in Path(scratch).glob("*.whl"):
            unpacked = Path(scratch) / wheel.stem
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
            for source in unpacked.glob("*.data/data/lib/**/*"):
                if source.is_file():
                    shutil.copy2(source, libraries / source.name)
    for name, library in RUNTIMES.items():
        path = libraries / library
        if not path.exists():
            raise SystemExit(f"The wheels hold no {library}; versions: {', '.join(WHEELS)}.")
        (vendors / name).write_text(f"{path}\n")
    return folder


def main() -> None:
    """Fetch, and print the environment."""
    folder = fetch()
    print(f"OCL_ICD_VENDORS={folder / 'vendors'} LD_LIBRARY_PATH={folder / 'lib'}")


if __name__ == "__main__":
    main()
