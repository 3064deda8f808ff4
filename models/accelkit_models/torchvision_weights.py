"""Weights of torchvision's AlexNet, in and out; torchvision itself is not needed.

torchvision stores convolutions as (out, in, height, width) and dense layers as (out, in), and
flattens channels first. Here convolutions are (height, width, in, out), dense layers (in, out),
and channels are flattened last: so the rows of the first dense layer change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from accelkit.errors import IncompatibleCheckpointError

__all__ = ["from_torchvision", "to_torchvision"]

Array = npt.NDArray[Any]

_FIRST_DENSE: Final = "classifier.1.weight"
_POOLED: Final = 6  # height and width of what the first dense layer sees


def from_torchvision(state_dict: Mapping[str, Any]) -> dict[str, Array]:
    """Parameters by dotted name from a ``state_dict`` of torchvision's AlexNet.

    Args:
        state_dict: Arrays, or torch tensors on the CPU.

    Returns:
        Arrays for ``alexnet(variant="torchvision")``, e.g. with ``nn.module.nest``.

    Raises:
        IncompatibleCheckpointError: if a layer is missing or has another rank.
    """
    arrays = {name: np.asarray(value) for name, value in state_dict.items()}
    return {name: _from(name, array) for name, array in _checked(arrays).items()}


def to_torchvision(parameters: Mapping[str, Any]) -> dict[str, Array]:
    """A ``state_dict`` of torchvision's AlexNet from parameters by dotted name.

    Args:
        parameters: Arrays or tensors of ``alexnet(variant="torchvision")``, flat.

    Raises:
        IncompatibleCheckpointError: if a layer is missing or has another rank.
    """
    arrays = {
        name: value if isinstance(value, np.ndarray) else value.numpy()
        for name, value in parameters.items()
    }
    return {name: _to(name, array) for name, array in _checked(arrays).items()}


def _checked(arrays: Mapping[str, Array]) -> dict[str, Array]:
    ranks = {f"features.{layer}": 4 for layer in (0, 3, 6, 8, 10)}
    ranks |= {f"classifier.{layer}": 2 for layer in (1, 4, 6)}
    expected = {f"{name}.weight": rank for name, rank in ranks.items()}
    expected |= {f"{name}.bias": 1 for name in ranks}
    missing = sorted(expected.keys() - arrays.keys())
    extra = sorted(arrays.keys() - expected.keys())
    wrong = [n for n, rank in expected.items() if n in arrays and arrays[n].ndim != rank]
    if missing or extra or wrong:
        raise IncompatibleCheckpointError(
            f"These are no weights of torchvision's AlexNet: missing {missing}, unknown {extra}, "
            f"of another rank {wrong}."
        )
    return {name: arrays[name] for name in sorted(arrays)}


def _from(name: str, array: Array) -> Array:
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif name == _FIRST_DENSE:
        out = array.shape[0]
        array = array.reshape(out, -1, _POOLED, _POOLED).transpose(2, 3, 1, 0).reshape(-1, out)
    elif array.ndim == 2:
        array = array.T
    return np.ascontiguousarray(array)


def _to(name: str, array: Array) -> Array:
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif name == _FIRST_DENSE:
        out = array.shape[1]
        array = array.reshape(_POOLED, _POOLED, -1, out).transpose(3, 2, 0, 1).reshape(out, -1)
    elif array.ndim == 2:
        array = array.T
    return np.ascontiguousarray(array)
