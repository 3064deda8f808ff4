"""``python -m accelkit.train``."""

import sys

from accelkit.training.train import main

if __name__ == "__main__":
    sys.exit(main())
