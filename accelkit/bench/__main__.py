"""``python -m accelkit.bench``."""

from accelkit.bench.command import main
from accelkit.command_line import end_with

if __name__ == "__main__":
    end_with(main)
