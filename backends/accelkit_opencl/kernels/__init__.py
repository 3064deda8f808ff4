"""Generators of OpenCL C: each returns :class:`~accelkit_opencl.kernels.source.KernelSource`."""
