"""``python -m accelkit.evaluate``: evaluate a checkpoint on a data set."""

from accelkit.command_line import end_with
from accelkit.training.evaluate import main

if __name__ == "__main__":
    end_with(main)
