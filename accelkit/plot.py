"""``python -m accelkit.plot``: curves of several runs in one picture."""

import sys

from accelkit.training.plot import main

if __name__ == "__main__":
    sys.exit(main())
