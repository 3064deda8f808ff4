"""Checkpoints that survive crashes, full disks and damaged files.

A checkpoint is a directory of a tensor file in the safetensors format, a JSON manifest and a
``SHA256SUMS`` file that the ``sha256sum`` command can verify::

    DIR/000007-step-1200/
        tensors.safetensors    the arrays
        manifest.json          step, seed, data position, schedule, versions, metadata
        SHA256SUMS             digests of the two files above

It is written under a temporary name, flushed to the disk, and renamed, so that a directory
under a final name is always complete. Everything is verified before it is used.

Example:
    >>> import numpy as np, tempfile
    >>> directory = tempfile.mkdtemp()
    >>> with CheckpointManager(directory, keep_last=2) as manager:
    ...     manager.save(10, {"dense.weight": np.ones((2, 3), np.float32)}, seed=1)
    ...     manager.wait()
    ...     restored = manager.restore()
    >>> restored.info.step, restored.tensors["dense.weight"].shape
    (10, (2, 3))
"""

from accelkit.checkpoint.manager import CheckpointManager, CheckpointWarning
from accelkit.checkpoint.manifest import FORMAT_VERSION, CheckpointInfo, Metric
from accelkit.checkpoint.storage import (
    Checkpoint,
    check_compatible,
    list_checkpoints,
    load_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from accelkit.checkpoint.tensorfile import decode_tensors, encode_tensors
from accelkit.checkpoint.training import restore_state, save_state
from accelkit.filesystem import FileSystem

__all__ = [
    "FORMAT_VERSION",
    "Checkpoint",
    "CheckpointInfo",
    "CheckpointManager",
    "CheckpointWarning",
    "FileSystem",
    "Metric",
    "check_compatible",
    "decode_tensors",
    "encode_tensors",
    "list_checkpoints",
    "load_checkpoint",
    "read_checkpoint",
    "restore_state",
    "save_state",
    "write_checkpoint",
]
