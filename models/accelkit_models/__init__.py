"""Models that ship with accelkit, found through the entry point group ``accelkit.models``."""
