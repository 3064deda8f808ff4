"""Batches: what users pass, checked on the host, padded to one size, and put on the device."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from accelkit import dtypes, ops
from accelkit.device import Device
from accelkit.device import device as find_device
from accelkit.dtypes import DType
from accelkit.errors import DeviceMismatchError, DTypeError, OptionError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.losses import Loss
from accelkit.ops.coercion import put
from accelkit.tensor import Tensor

__all__ = ["Batch", "Feed", "as_batch"]

Array = np.ndarray | Tensor


class Batch(NamedTuple):
    """One batch: inputs (N, ...), targets (N, ...), and a weight per sample (N,) or None."""

    inputs: Array
    targets: Array
    weights: Array | None

    @property
    def size(self) -> int:
        """Number of samples."""
        return int(self.inputs.shape[0])

    @property
    def specs(self) -> list[TensorSpec]:
        """Of inputs and targets."""
        arrays = (self.inputs, self.targets)
        return [TensorSpec(tuple(a.shape), dtypes.dtype(a.dtype)) for a in arrays]


class Feed:
    """Batches as the programs of a step take them.

    Args:
        loss: Says what targets are.
        dtype: Of floating inputs, and of weights.
        device: Of the step.
    """

    def __init__(self, loss: Loss, dtype: DType, device: Device) -> None:
        self._loss, self._dtype, self._device = loss, dtype, device
        self._unit_weights = _UnitWeights(dtype, device)

    def read(self, batch: Any) -> Batch:
        """What a user gave, checked; see :func:`as_batch`."""
        return as_batch(batch, self._loss, self._dtype)

    def is_whole(self, batch: Batch) -> bool:
        """Whether every sample counts, and there was a batch of this size before."""
        return batch.weights is None and batch.size in self._unit_weights

    def padded(self, batch: Batch, sizes: Collection[int]) -> Batch:
        """The batch padded to the smallest of these sizes that holds it, if there is one."""
        size = min((size for size in sizes if size >= batch.size), default=batch.size)
        return batch if size == batch.size else _padded(batch, size, self._dtype)

    def total_weight(self, batch: Batch) -> float:
        """How much a batch weighs beside others, waiting for what is on the device."""
        weights = np.ones(batch.size) if batch.weights is None else np.asarray(batch.weights)
        targets = batch.targets
        if not isinstance(targets, Tensor):
            targets = put(targets, find_device("numpy"))
        counts = self._loss.counts(targets)
        return float(weights.sum() if counts is None else weights @ counts.numpy())

    def operands(self, batch: Batch, outputs: Any) -> list[Tensor]:
        """Inputs, targets and weights on the device, for a model with these outputs.

        Raises:
            DeviceMismatchError: for tensors on another device: moving them is the user's decision.
            OptionError, DTypeError: for targets on the host that do not fit the outputs.
        """
        if isinstance(batch.targets, np.ndarray):
            self._loss.check(batch.targets, outputs)
        return [
            on_device(batch.inputs, self._device, "inputs"),
            on_device(batch.targets, self._device, "targets"),
            self._unit_weights[batch.size]
            if batch.weights is None
            else on_device(batch.weights, self._device, "weights"),
        ]


class _UnitWeights(dict[int, Tensor]):
    """Weights of 1 on a device by number of samples, made once each."""

    def __init__(self, dtype: DType, device: Device) -> None:
        super().__init__()
        self._dtype, self._device = dtype, device

    def __missing__(self, size: int) -> Tensor:
        found = self[size] = ops.ones((size,), dtype=self._dtype, device=self._device)
        return found


def _array(value: Any, name: str) -> Array:
    if isinstance(value, Tensor):
        if value.is_traced:
            raise OptionError(f"The batch's {name} are traced; a step runs outside of traces.")
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        array = np.empty(0, object)
    except (RuntimeError, TypeError) as error:  # torch's, if it requires a gradient, or on a GPU
        raise DTypeError(f"The batch's {name} are no array that can be read: {error}") from error
    if array.dtype.kind not in "biufV":  # ml_dtypes' narrow floats are V
        raise DTypeError(
            f"The batch's {name} must be a regular array of real numbers, got "
            f"{type(value).__name__} ({array.dtype})."
        )
    return array


def as_batch(batch: Any, loss: Loss, dtype: DType) -> Batch:
    """Take a batch apart and check what can be checked on the host.

    Args:
        batch: ``(inputs, targets)`` or ``(inputs, targets, weights)``, or a mapping with these
            names; NumPy arrays or tensors.
        loss: Says whether targets are labels.
        dtype: To which floating host arrays are converted.

    Raises:
        OptionError: for an empty batch or weights that are negative or all zero.
        ShapeError: if the numbers of samples differ.
        DTypeError: for labels that are no integers.
    """
    if isinstance(batch, Mapping):
        unknown = set(batch) - {"inputs", "targets", "weights"}
        if unknown or not {"inputs", "targets"} <= set(batch):
            raise OptionError(
                f"A batch holds 'inputs', 'targets' and optionally 'weights', got {sorted(batch)}."
            )
        parts = [batch["inputs"], batch["targets"], batch.get("weights")]
    else:
        if not isinstance(batch, tuple | list):
            raise OptionError(
                f"A batch is (inputs, targets) or (inputs, targets, weights), or a mapping with "
                f"these names, got {type(batch).__name__}."
            )
        parts = list(batch)
        if len(parts) not in (2, 3):
            raise OptionError(
                f"A batch is (inputs, targets) or (inputs, targets, weights), got {len(parts)} "
                f"parts."
            )
        parts += [None] * (3 - len(parts))
    inputs, targets = _array(parts[0], "inputs"), _array(parts[1], "targets")
    weights = None if parts[2] is None else _array(parts[2], "weights")
    _check_sizes(inputs, targets, weights)
    return Batch(
        _converted(inputs, dtype),
        _targets(targets, loss, dtype),
        None if weights is None else _weights(weights, dtype),
    )


def _check_sizes(inputs: Array, targets: Array, weights: Array | None) -> None:
    if inputs.ndim < 1 or inputs.shape[0] == 0:
        raise OptionError(f"A batch needs at least one sample, got inputs of shape {inputs.shape}.")
    count = inputs.shape[0]
    if targets.ndim < 1 or targets.shape[0] != count:
        raise ShapeError(
            f"The batch has {count} inputs (shape {inputs.shape}) but targets of shape "
            f"{targets.shape}: there must be one target per input."
        )
    if weights is not None and weights.shape != (count,):
        raise ShapeError(f"The batch has {count} inputs but weights of shape {weights.shape}.")


def _converted(array: Array, dtype: DType) -> Array:
    if isinstance(array, np.ndarray) and dtypes.dtype(array.dtype).is_floating:
        return array.astype(dtype.numpy, copy=False)
    return array


def _targets(targets: Array, loss: Loss, dtype: DType) -> Array:
    if not loss.target_dtype_is_integer():
        return _converted(targets, dtype)
    if not dtypes.dtype(targets.dtype).is_integer:
        hint = " One-hot rows become labels by `.argmax(axis=-1)`." if targets.ndim > 1 else ""
        raise DTypeError(f"Labels must be integers, got dtype {targets.dtype}.{hint}")
    if isinstance(targets, Tensor):
        return targets if targets.dtype is dtypes.int32 else ops.astype(targets, dtypes.int32)
    limit = np.iinfo(np.int32)
    if targets.size and (targets.max() > limit.max or targets.min() < limit.min):
        raise OptionError(f"Labels must fit into int32, got up to {targets.max()}.")
    return targets.astype(np.int32, copy=False)


def _weights(weights: Array, dtype: DType) -> Array:
    if isinstance(weights, Tensor):
        return weights if weights.dtype is dtype else ops.astype(weights, dtype)
    if not np.all(np.isfinite(weights)) or (weights < 0).any() or not (weights > 0).any():
        raise OptionError("Sample weights must be finite, not negative, and not all zero.")
    return weights.astype(dtype.numpy, copy=False)


def _padded(batch: Batch, size: int, dtype: DType) -> Batch:
    """The batch with samples of weight 0 behind it, ``size`` in all.

    The added samples repeat the first one, so that they are ordinary numbers.
    """
    missing = size - batch.size
    weights = batch.weights
    if weights is None:
        weights = np.ones(batch.size, dtype.numpy)
    host_weights = weights.numpy() if isinstance(weights, Tensor) else weights
    filler = np.zeros(missing, dtype.numpy)
    return Batch(
        _repeat_first(batch.inputs, missing),
        _repeat_first(batch.targets, missing),
        np.concatenate([host_weights, filler]),
    )


def _repeat_first(array: Array, count: int) -> Array:
    if isinstance(array, Tensor):
        first = ops.broadcast_to(array[:1], (count, *array.shape[1:]))
        return ops.concat([array, first], axis=0)
    return np.concatenate([array, np.broadcast_to(array[:1], (count, *array.shape[1:]))])


def on_device(array: Array, device: Device, name: str) -> Tensor:
    """The array as a tensor of the device.

    Raises:
        DeviceMismatchError: for a tensor on another device: moving it is the user's decision.
    """
    if isinstance(array, Tensor):
        if array.device is not device:
            raise DeviceMismatchError(
                f"The batch's {name} are on {array.device}, the step runs on {device}. Move them "
                f"with `.to({str(device)!r})`."
            )
        return array
    return put(array, device)
