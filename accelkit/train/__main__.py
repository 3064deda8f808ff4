"""``python -m accelkit.train``."""

from accelkit.command_line import end_with
from accelkit.training.train import main

if __name__ == "__main__":
    end_with(main)
