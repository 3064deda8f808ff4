"""``python -m accelkit.opencl``: devices, tuning, ahead-of-time bundles and checks.

The commands live in the OpenCL backend; this module only makes them reachable by name.
"""

from __future__ import annotations

import sys

from accelkit import registry
from accelkit.command_line import end_with
from accelkit.errors import AccelkitError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns its exit status.

    1 if the backend cannot be loaded, 130 when interrupted, else that of the command.
    """
    try:
        registry.backend("opencl")
    except AccelkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from accelkit_opencl.command import main as run

    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    end_with(main)
