"""``python -m accelkit.plot``: curves of several runs in one picture."""

from accelkit.command_line import end_with
from accelkit.training.plot import main

if __name__ == "__main__":
    end_with(main)
