"""``python -m accelkit.evaluate``: evaluate a checkpoint on a data set."""

import sys

from accelkit.training.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
