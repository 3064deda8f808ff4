"""Complete runs: the commands ``accelkit.train``, ``accelkit.evaluate`` and ``accelkit.plot``."""
