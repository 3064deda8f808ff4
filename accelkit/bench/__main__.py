"""``python -m accelkit.bench``."""

import sys

from accelkit.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
