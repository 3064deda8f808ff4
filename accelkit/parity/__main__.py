"""``python -m accelkit.parity``."""

from accelkit.command_line import end_with
from accelkit.parity.command import main

if __name__ == "__main__":
    end_with(main)
