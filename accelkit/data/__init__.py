"""Data: sources with random access, augmentation, and batches in a reproducible order.

A source gives records by index; a transform makes a uint8 array of each image; a
:class:`Loader` makes batches of them; a :class:`Prefetcher` sends them to the device ahead of
time. The order is a pure function of the seed and the epoch, each sample's augmentation of the
seed, the epoch and the sample's index.
"""

from typing import TYPE_CHECKING

from accelkit.data.arrays import ArraySource, SequenceSource, load_npz
from accelkit.data.batches import Batch, Position, Skipped
from accelkit.data.digits import digits
from accelkit.data.finishing import finished
from accelkit.data.folder import ImageFolder
from accelkit.data.images import Image, open_image
from accelkit.data.loader import Loader
from accelkit.data.opening import open_source
from accelkit.data.packed import PackedSource
from accelkit.data.packing import pack
from accelkit.data.prefetch import Prefetcher, Transfer, WaitTimes, to_device
from accelkit.data.randomness import SampleRandom, epoch_order
from accelkit.data.records import Record, Source
from accelkit.data.shapes import SHAPE_CLASSES, ShapesSource
from accelkit.data.shards import TarShards
from accelkit.data.transforms import EvaluationTransform, Resize, TrainingTransform, Transform
from accelkit.foreign_names import refuser

__all__ = [
    "SHAPE_CLASSES",
    "ArraySource",
    "Batch",
    "EvaluationTransform",
    "Image",
    "ImageFolder",
    "Loader",
    "PackedSource",
    "Position",
    "Prefetcher",
    "Record",
    "Resize",
    "SampleRandom",
    "SequenceSource",
    "ShapesSource",
    "Skipped",
    "Source",
    "TarShards",
    "TrainingTransform",
    "Transfer",
    "Transform",
    "WaitTimes",
    "digits",
    "epoch_order",
    "finished",
    "load_npz",
    "open_image",
    "open_source",
    "pack",
    "to_device",
]

if not TYPE_CHECKING:  # type checkers know what names there are
    __getattr__ = refuser(__name__, __all__)
