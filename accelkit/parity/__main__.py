"""``python -m accelkit.parity``."""

import sys

from accelkit.parity.command import main

if __name__ == "__main__":
    sys.exit(main())
