"""A run that is saved and restored equals one that never stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint.simulated_disk import UnsyncedDisk

import accelkit as ak
from accelkit import losses, nn, optim, train
from accelkit.checkpoint import CheckpointManager, restore_state, save_state
from accelkit.data import Loader, Prefetcher, ShapesSource, to_device
from accelkit.errors import IncompatibleCheckpointError


def make_step(
    features: int = 8, optimizer: optim.Optimizer | None = None, device: str = "numpy"
) -> train.TrainStep:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(features), nn.ReLU(), nn.Dropout(0.3), nn.Linear(10)
    )
    chosen = optimizer or optim.sgd(optim.CosineSchedule(0.001, 30), momentum=0.9)
    return train.TrainStep(model, losses.SoftmaxCrossEntropy(), chosen, device=device)


def make_loader() -> Loader:
    return Loader(ShapesSource(40, size=16), batch_size=8, seed=5)


def make_manager(directory: Path) -> CheckpointManager:
    return CheckpointManager(directory, filesystem=UnsyncedDisk(), keep_last=20)


def run(
    step: train.TrainStep, state: train.TrainState, loader: Loader, steps: int, manager=None
) -> tuple[train.TrainState, list[float]]:
    curve = []
    while True:
        with Prefetcher(loader, to_device(step.device)) as batches:
            for arrays, _ in batches:
                state, metrics = step(state, arrays)
                curve.append(metrics["loss"])
                if manager is not None:
                    save_state(manager, state, data_position=batches.state())
                if state.step == steps:
                    return state, curve


@pytest.mark.parametrize(
    "optimizer",
    [None, optim.averaged(optim.adam(1e-3), 0.9)],
    ids=["sgd", "averaged adam"],
)
def test_resuming_is_bit_identical(tmp_path: Path, optimizer: optim.Optimizer | None) -> None:
    step = make_step(optimizer=optimizer)
    start = step.init(3, (8, 16, 16, 3))
    like = start.copy()
    with make_manager(tmp_path) as manager:
        final, curve = run(step, start, make_loader(), 12, manager)
        expected = {name: array.tobytes() for name, array in final.to_host().items()}
        for stopped in (1, 5, 7, 11):
            found = restore_state(manager, like, step=stopped)
            assert found is not None
            state, info = found
            assert (state.step, state.seed) == (stopped, 3)
            loader = make_loader()
            loader.restore(info.data_position)
            resumed, rest = run(make_step(optimizer=optimizer), state, loader, 12)
            assert rest == curve[stopped:]
            got = {name: array.tobytes() for name, array in resumed.to_host().items()}
            assert got == expected


def test_every_backends_checkpoint_continues_on_every_other(tmp_path: Path) -> None:
    """The same order, the same masks, the same curve; a state is the same bits wherever it is."""
    backends = sorted({info.device.backend for info in ak.devices()})
    steps = {name: make_step(device=name) for name in backends}
    starts = {name: step.init(3, (8, 16, 16, 3)) for name, step in steps.items()}
    likes = {name: state.copy() for name, state in starts.items()}
    _, expected = run(make_step(), make_step().init(3, (8, 16, 16, 3)), make_loader(), 4)
    for source in backends:
        with make_manager(tmp_path / source) as manager:
            half, before = run(steps[source], starts[source], make_loader(), 2, manager)
            saved = {name: array.tobytes() for name, array in half.to_host().items()}
            for target in backends:
                found = restore_state(manager, likes[target])
                assert found is not None
                state, info = found
                assert str(state.device).startswith(target)
                assert {name: a.tobytes() for name, a in state.to_host().items()} == saved
                loader = make_loader()
                loader.restore(info.data_position)
                _, after = run(steps[target], state, loader, 4)
                np.testing.assert_allclose([*before, *after], expected, rtol=1e-5)


def test_saved_arrays_do_not_change_with_the_next_step(tmp_path: Path) -> None:
    step = make_step()
    state = step.init(0, (8, 16, 16, 3))
    before = {name: array.copy() for name, array in state.to_host().items()}
    like = state.copy()
    with make_manager(tmp_path) as manager:
        save_state(manager, state)
        run(step, state, make_loader(), 3)
        found = restore_state(manager, like)
        assert found is not None
        for name, array in found[0].to_host().items():
            np.testing.assert_array_equal(array, before[name])


def test_another_models_checkpoint_is_explained(tmp_path: Path) -> None:
    with make_manager(tmp_path) as manager:
        state = make_step().init(0, (8, 16, 16, 3))
        assert restore_state(manager, state) is None
        save_state(manager, state)
        wider = make_step(features=9).init(0, (8, 16, 16, 3))
        with pytest.raises(IncompatibleCheckpointError, match="6 of another shape or dtype"):
            restore_state(manager, wider)
        adam = make_step(optimizer=optim.adam()).init(0, (8, 16, 16, 3))
        with pytest.raises(IncompatibleCheckpointError, match=r"missing from it: .*first_moment"):
            restore_state(manager, adam)
        manager.save(9, state.to_host())
        with pytest.raises(IncompatibleCheckpointError, match="no seed"):
            restore_state(manager, state)
