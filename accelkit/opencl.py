"""``python -m accelkit.opencl``: devices, tuning, ahead-of-time bundles and checks.

The commands live in the OpenCL backend; this module only makes them reachable by name.
"""

from __future__ import annotations

import sys

from accelkit.errors import BackendUnavailableError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit status.

    Raises:
        BackendUnavailableError: if the backend's packages are missing.
    """
    try:
        from accelkit_opencl.command import main as run
    except ImportError as error:
        raise BackendUnavailableError(
            f"The OpenCL backend cannot be loaded: {error}. Install it with: "
            f"pip install 'accelkit[opencl]'"
        ) from error
    return run(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
