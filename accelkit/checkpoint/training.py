"""Checkpoints of a training state: written from any backend, continued on any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelkit.checkpoint.manager import CheckpointManager
from accelkit.checkpoint.manifest import CheckpointInfo
from accelkit.errors import IncompatibleCheckpointError

if TYPE_CHECKING:
    from accelkit.device import Device
    from accelkit.train import TrainState

__all__ = ["restore_state", "save_state"]


def save_state(manager: CheckpointManager, state: TrainState, **options: Any) -> None:
    """Save a state; it may be given to the next step as soon as this returns.

    Args:
        manager: The run's checkpoints.
        state: Its tensors, step and seed are saved.
        options: As for :meth:`CheckpointManager.save`: ``data_position``, ``schedule``,
            ``metadata``, ``metric``, ``wait``.

    Raises:
        CheckpointError: as :meth:`CheckpointManager.save`.
        StateConsumedError: if a step has taken the state.
    """
    manager.save(state.step, state.to_host(), seed=state.seed, **options)


def restore_state(
    manager: CheckpointManager,
    like: TrainState,
    *,
    step: int | None = None,
    device: str | Device | None = None,
) -> tuple[TrainState, CheckpointInfo] | None:
    """Continue from the newest good checkpoint, on whatever device.

    Args:
        manager: The run's checkpoints.
        like: A state of the same model and optimizer, e.g. the initial one; it is left alone.
        step: Restore this step instead of the newest.
        device: Where to put the state; where ``like`` is if None.

    Returns:
        The state and the rest of the checkpoint; None if there is no checkpoint.

    Raises:
        CheckpointError: as :meth:`CheckpointManager.restore`, or if the checkpoint has no seed.
    """
    from accelkit.train import TrainState

    found = manager.restore(step=step, expected=like.tensors)
    if found is None:
        return None
    if found.info.seed is None:
        raise IncompatibleCheckpointError(f"The checkpoint {found.path} has no seed to train with.")
    target = like.device if device is None else device
    state = TrainState.from_host(
        found.tensors, step=found.info.step, seed=found.info.seed, device=target
    )
    return state, found.info
