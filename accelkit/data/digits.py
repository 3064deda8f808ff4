"""Scikit-learn's handwritten digits: 1,797 images of 8 by 8 pixels, shipped with the library."""

from __future__ import annotations

import importlib
from typing import Any, Final, Literal

import numpy as np

from accelkit.data.arrays import ArraySource
from accelkit.data.randomness import epoch_order
from accelkit.errors import DataError, OptionError

__all__ = ["digits"]

_TRAINING_COUNT: Final = 1500


def digits(split: Literal["train", "test", "all"] = "train") -> ArraySource:
    """The digits as uint8 images of shape (8, 8, 1), their 17 levels spread over [0, 255].

    A fixed random 1,500 are for training, the other 297 for testing.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, 1998 (its test part).

    Raises:
        DataError: if scikit-learn is not installed.
        OptionError: for an unknown split.
    """
    if split not in ("train", "test", "all"):
        raise OptionError(f"split is {split!r}, expected 'train', 'test' or 'all'.")
    try:
        datasets: Any = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise DataError(
            "The digits come with scikit-learn, which is not installed: pip install "
            "'accelkit[data]'. The shapes (accelkit.data.ShapesSource) need no other package."
        ) from error
    images, labels = datasets.load_digits(return_X_y=True)
    pixels = np.round(images * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 8, 8, 1)
    order = epoch_order(0, 0, len(pixels))
    chosen = {"train": order[:_TRAINING_COUNT], "test": order[_TRAINING_COUNT:], "all": order}
    kept = np.sort(chosen[split])
    return ArraySource(pixels[kept], labels[kept].astype(np.int64), classes=tuple("0123456789"))
