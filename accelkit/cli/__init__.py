"""The commands ``python -m accelkit.train``, ``accelkit.evaluate`` and ``accelkit.plot``."""
