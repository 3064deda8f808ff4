"""Benchmarks: accelkit beside hand-written programs in each framework, in one run."""
