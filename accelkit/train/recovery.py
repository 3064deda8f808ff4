"""What becomes of a state when a step fails: whether it survived, and an honest word on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from accelkit.backend import Executable
from accelkit.compilation import run
from accelkit.errors import BackendError, OutOfMemoryError
from accelkit.registry import backend
from accelkit.tensor import Tensor
from accelkit.train.state import TrainState

__all__ = ["lost", "rehearse", "survived"]


def rehearse(
    state: TrainState,
    executable: Executable,
    values: Sequence[Tensor],
    operands: Sequence[Tensor],
) -> dict[str, np.ndarray] | None:
    """Before the first donation on a device with memory of its own: run on a copy of the state.

    If that runs out of memory, the step itself may fit, as it needs the state only once, or may
    not: then the state is kept on the host until it is known.

    Args:
        state: Not consumed yet.
        executable: The compiled step.
        values: The state's tensors that it takes.
        operands: What it takes besides.

    Returns:
        The state's arrays if they are to be kept, else None.
    """
    device = executable.device
    if device.kind == "cpu":
        return None
    try:
        copies = [t.to(t.device, copy=True) for t in values]
        attempt = run(executable, [*copies, *operands])
        backend(device.backend).synchronize(device)
    except OutOfMemoryError:
        return state.to_host()
    del attempt
    return None


def survived(
    state: TrainState, saved: Mapping[str, np.ndarray], error: BackendError
) -> BackendError:
    """Put a consumed state back on its device; the same error, saying so."""
    state.restore(saved)
    return type(error)(
        f"{error}\nStep {state.step} failed, and the state survived: it was kept on the host "
        f"meanwhile and is on {state.device} again."
    )


def lost(state: TrainState, checkpoint: str | None, error: BackendError) -> BackendError:
    """Mark a consumed state as lost; the same error, saying so and naming the last checkpoint."""
    hint = (
        f"The last checkpoint is {checkpoint}."
        if checkpoint
        else "No checkpoint was saved in this process."
    )
    text = (
        f"Step {state.step} failed after its state was handed to the device: the state is lost. "
        f"{hint}"
    )
    state.lose(f"{text} The failure was: {error}")
    return type(error)(f"{error}\n{text}")
