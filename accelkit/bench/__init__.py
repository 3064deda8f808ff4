"""The benchmark command: ``python -m accelkit.bench``.

Trains (or evaluates) a model on each backend in turn, each in a process of its own with the same
number of threads and the same synthetic batches, and reports step times, throughput, memory and
losses. ``python -m accelkit.bench --help`` shows the options.

One configuration can also be measured from Python, in the current process:

    >>> from accelkit import bench
    >>> settings = bench.Settings("numpy", "lenet5", batch_size=2, steps=2, warmup=1)
    >>> result = bench.measure(settings)
    >>> len(result["losses"])
    3
"""

from accelkit.bench.measure import measure
from accelkit.bench.profile import profile
from accelkit.bench.settings import Settings

__all__ = ["Settings", "measure", "profile"]
