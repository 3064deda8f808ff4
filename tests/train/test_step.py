"""The training step on every installed backend: its contract, and what it refuses."""

from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest

import accelkit as ak
from accelkit import losses, metrics, nn, optim, train
from accelkit.errors import (
    DeviceMismatchError,
    DTypeError,
    NonFiniteError,
    OptionError,
    ShapeError,
    StateConsumedError,
    StateError,
)
from accelkit.train.batch import Feed

BACKENDS = sorted({info.device.backend for info in ak.devices()})
MODEL = nn.Sequential(
    conv=nn.Conv2d(4, 3, padding=1),
    relu=nn.ReLU(),
    pool=nn.MaxPool2d(2),
    flatten=nn.Flatten(),
    drop=nn.Dropout(0.5),
    fc=nn.Linear(5),
)
SHAPE = (8, 6, 6, 3)


def batch(seed: int = 0, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, *SHAPE[1:])).astype(np.float32)
    return images, rng.integers(0, 5, count)


def make(device: str = "numpy", **options) -> train.TrainStep:
    optimizer = options.pop("optimizer", optim.sgd(0.05, momentum=0.9, weight_decay=1e-3))
    options.setdefault("metrics", [metrics.TopKAccuracy(1)])
    return train.TrainStep(MODEL, losses.SoftmaxCrossEntropy(), optimizer, device=device, **options)


def losses_of(step: train.TrainStep, state: train.TrainState, count: int = 4) -> list[float]:
    found = []
    for index in range(count):
        state, report = step(state, batch(index))
        found.append(report["loss"])
    return found


@pytest.fixture(params=BACKENDS)
def device(request) -> str:
    return request.param


def test_every_backend_gives_the_losses_of_the_reference(device: str) -> None:
    reference = make("numpy", precision="float64")
    expected = losses_of(reference, reference.init(3, SHAPE))
    for precision, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        step = make(device, precision=precision)
        found = losses_of(step, step.init(3, SHAPE))
        np.testing.assert_allclose(found, expected, rtol=tolerance)


def test_a_state_moves_between_backends_in_the_middle_of_a_run(device: str) -> None:
    step, other = make("numpy"), make(device)
    straight = losses_of(step, step.init(3, SHAPE), 6)
    state = step.init(3, SHAPE)
    for index in range(3):
        state, _ = step(state, batch(index))
    state = state.to(device)
    assert state.step == 3
    for index in range(3, 6):
        state, report = other(state, batch(index))
        np.testing.assert_allclose(report["loss"], straight[index], rtol=1e-5)


def test_clipped_steps_are_alike_on_every_backend_and_in_micro_batches(device: str) -> None:
    rates = {"momentum": 0.9, "weight_decay": 1e-3, "decays": lambda name: "fc" in name}
    optimizer = optim.sgd(0.5, clip_norm=0.05, **rates)
    reference = make("numpy", precision="float64", optimizer=optimizer)
    expected = losses_of(reference, reference.init(3, SHAPE))
    free = make("numpy", precision="float64", optimizer=optim.sgd(0.5, **rates))
    assert not np.allclose(losses_of(free, free.init(3, SHAPE))[1:], expected[1:], rtol=1e-2)
    for options in ({}, {"accumulate": 4}):
        step = make(device, optimizer=optimizer, **options)
        np.testing.assert_allclose(losses_of(step, step.init(3, SHAPE)), expected, rtol=1e-5)


def test_a_consumed_state_is_refused_and_its_copy_is_not(device: str) -> None:
    step = make(device)
    state = step.init(0, SHAPE)
    kept = state.copy()
    after, report = step(state, batch())
    with pytest.raises(StateConsumedError, match=r"step 0\) was given to a training step"):
        step(state, batch())
    again, repeated = step(kept, batch())
    assert repeated["loss"] == report["loss"]
    assert again.step == after.step == 1


def test_the_same_seed_gives_the_same_bits_and_another_does_not(device: str) -> None:
    step = make(device)
    first = losses_of(step, step.init(5, SHAPE))
    assert losses_of(step, step.init(5, SHAPE)) == first
    assert losses_of(step, step.init(6, SHAPE)) != first


def test_host_arrays_make_the_same_state_again(device: str) -> None:
    step = make(device)
    state, _ = step(step.init(0, SHAPE), batch())
    again = train.TrainState.from_host(state.to_host(), step=1, seed=0, device=device)
    assert losses_of(step, again) == losses_of(step, state)


def test_partial_batches_are_padded_without_compiling_again(device: str) -> None:
    step = make(device)
    evaluate = train.EvalStep(MODEL, losses.SoftmaxCrossEntropy(), device=device)
    state, _ = step(step.init(0, SHAPE), batch())
    images, labels = batch(1)
    whole = evaluate(state, (images, labels))["loss"]
    parts = [
        evaluate(state, (images[:5], labels[:5]))["loss"],
        evaluate(state, (images[5:], labels[5:]))["loss"],
    ]
    assert (5 * parts[0] + 3 * parts[1]) / 8 == pytest.approx(whole, rel=1e-5)
    total = evaluate.run(state, [(images[:5], labels[:5]), (images[5:], labels[5:])])
    assert total["loss"] == pytest.approx(whole, rel=1e-5)
    assert len(evaluate._compiled) == 1
    step(state, (images[:3], labels[:3]))
    assert len(list(step.executables)) == 1


def test_a_call_that_was_checked_checks_the_next_one_again() -> None:
    """Batches on the device take a short way, and the long one as soon as anything differs."""
    step = make()
    state = step.init(0, SHAPE)
    evaluate = train.EvalStep(MODEL, losses.SoftmaxCrossEntropy(), device="numpy")
    images, labels = (ak.asarray(a, device="numpy") for a in batch())
    labels = ak.astype(labels, ak.int32)
    first = evaluate(state, (images, labels))["loss"]
    assert evaluate._last is not None
    assert evaluate(state, (images, labels))["loss"] == first
    assert evaluate(state, (images[:3], labels[:3]))["loss"] != first
    with pytest.raises(ShapeError, match="one target per input"):
        evaluate(state, (images, labels[:3]))
    with pytest.raises(OptionError, match="out of range"):
        evaluate(state, (images, labels + 5))["loss"]
    shared = weakref.ref(state.tensors["parameters.fc.weight"])
    trained, _ = step(state, batch())
    assert shared() is None  # the evaluation keeps no tensor that a step replaces
    with pytest.raises(StateConsumedError):
        evaluate(state, (images, labels))
    assert evaluate(trained, (images, labels))["loss"] != first


def test_a_batch_like_the_last_one_is_not_checked_again(monkeypatch) -> None:
    """Batches on the device go in directly, and are checked as soon as anything differs."""
    checked = []
    read = Feed.read
    monkeypatch.setattr(Feed, "read", lambda feed, given: checked.append(1) or read(feed, given))
    step, same = make("numpy"), make("numpy")
    states = [each.init(0, SHAPE) for each in (step, same)]
    images, labels = (ak.asarray(a, device="numpy") for a in batch())
    labels = ak.astype(labels, ak.int32)
    for _ in range(3):
        states[0], report = step(states[0], (images, labels))
        states[1], expected = same(states[1], [images, labels])  # a list takes the long way
        assert report["loss"] == expected["loss"]
    assert len(checked) == 1 + 3
    state = states[0]
    with pytest.raises(ShapeError, match="one target per input"):
        step(state, (images, labels[:3]))
    with pytest.raises(DTypeError, match="integers"):
        step(state, (images, ak.astype(labels, ak.float32)))
    with pytest.raises(OptionError, match="position 0"):
        step(state, (images, labels.numpy() + 5))
    state, _ = step(state, (images[:3], labels[:3]))  # padded
    state, report = step(state, (images, labels))
    with pytest.raises(StateError, match="fit"):
        step(train.TrainState({}, step=0, seed=0, device=state.device), (images, labels))
    assert len(checked) == 4 + 4
    _, report = step(state, (images, labels + 5))
    with pytest.raises(OptionError, match="Step 5 was given labels out of range"):
        report["loss"]
    assert len(checked) == 8


def test_a_state_that_nobody_looks_at_passes_from_step_to_step_as_it_is(device: str) -> None:
    """What a look between two steps changes is nothing, and what is put into it counts."""
    seen, unseen = make(device, trainable=lambda name: "fc" in name), make(device)
    for step in (seen, unseen):
        states = [step.init(0, SHAPE), step.init(0, SHAPE)]
        for index in range(3):
            states[0], reports = step(states[0], batch(index))
            states[1], others = step(states[1], batch(index))
            assert list(states[1].tensors) == list(step.init(0, SHAPE).tensors)
            assert reports["loss"] == others["loss"]
        weights = [state.tensors["parameters.fc.weight"].numpy() for state in states]
        assert np.array_equal(*weights)
        twin = copy.copy(step(states[0], batch())[0])
        twin.tensors["parameters.fc.bias"] = ak.zeros((5,), device=device)
        other, _ = step(states[1], batch())
        other.tensors["parameters.fc.bias"] = ak.zeros((5,), device=device)
        assert step(twin, batch(4))[1]["loss"] == step(other, batch(4))[1]["loss"]
        with pytest.raises(StateConsumedError):
            step(twin, batch())


def test_a_schedule_that_changes_is_followed_in_every_step() -> None:
    rates = {0: 0.0, 1: 0.1, 2: 0.1, 3: 0.0, 4: 0.2}
    step = make(optimizer=optim.sgd(rates.__getitem__))
    state = step.init(0, SHAPE)
    for index, rate in rates.items():
        before = state.tensors["parameters.fc.bias"].numpy()
        state, _ = step(state, batch(index))
        assert np.array_equal(before, state.tensors["parameters.fc.bias"].numpy()) is (rate == 0.0)


def test_weights_weigh_samples(device: str) -> None:
    step = make(device)
    images, labels = batch()
    weights = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32)
    model_state = step.init(0, SHAPE)
    evaluate = train.EvalStep(MODEL, losses.SoftmaxCrossEntropy(), device=device)
    weighted = evaluate(model_state, (images, labels, weights))["loss"]
    assert weighted == pytest.approx(
        evaluate(model_state, (images[:3], labels[:3]))["loss"], rel=1e-6
    )


def test_frozen_parameters_stay(device: str) -> None:
    step = make(device, trainable=lambda name: name.startswith("fc"))
    state = step.init(0, SHAPE)
    assert not any("conv" in name for name in state.optimizer_state["velocity"])
    before = state.to_host()
    state, _ = step(state, batch())
    after = state.to_host()
    np.testing.assert_array_equal(before["parameters.conv.weight"], after["parameters.conv.weight"])
    assert not np.array_equal(before["parameters.fc.weight"], after["parameters.fc.weight"])


def test_pixels_travel_as_bytes_and_are_normalised_inside(device: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    labels = batch()[1]
    inside = make(device, preprocess=lambda x: (ak.astype(x, "float32") - 128.0) / 64.0)
    _, report = inside(inside.init(0, SHAPE), (pixels, labels))
    outside = make(device)
    ready = (pixels.astype(np.float32) - 128.0) / 64.0
    _, expected = outside(outside.init(0, SHAPE), (ready, labels))
    assert report["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_a_nonfinite_loss_is_raised_with_its_step_when_metrics_are_read(device: str) -> None:
    step = make(device)
    state = step.init(0, SHAPE)
    images, labels = batch()
    state, _ = step(state, (images, labels))
    state, _ = step(state, (images * np.float32(np.nan), labels))
    state, report = step(state, (images, labels))
    with pytest.raises(NonFiniteError, match=r"in step 1\."):
        report["loss"]


def test_a_nonfinite_update_can_be_skipped(device: str) -> None:
    step = make(device, on_nonfinite="skip")
    state = step.init(0, SHAPE)
    images, labels = batch()
    before = state.to_host()
    state, report = step(state, (images * np.float32(np.inf), labels))
    assert not np.isfinite(report["loss"])
    after = state.to_host()
    assert state.step == 1
    for name in before:
        if name != "watch":
            np.testing.assert_array_equal(before[name], after[name])
    _, report = step(state, (images, labels))
    assert np.isfinite(report["loss"])


def test_labels_on_the_device_are_checked_when_metrics_are_read(device: str) -> None:
    step = make(device)
    state = step.init(0, SHAPE)
    images, labels = batch()
    labels[3] = 5
    state, report = step(state, (images, ak.asarray(labels, device=device)))
    with pytest.raises(OptionError, match=r"Step 0 was given labels out of range"):
        report["loss"]


def test_nothing_is_read_from_the_device_during_steps(device: str, monkeypatch) -> None:
    backend = ak.registry.backend(device)
    step = make(device)
    state = step.init(0, SHAPE)
    state, _ = step(state, batch())

    def refuse(*arguments: object) -> None:
        raise AssertionError("a step read from the device")

    monkeypatch.setattr(backend, "get", refuse)
    monkeypatch.setattr(backend, "synchronize", refuse)
    for index in range(3):
        state, report = step(state, batch(index))
    monkeypatch.undo()
    assert report["loss"] > 0.0


def test_the_batch_may_be_a_mapping_of_device_tensors(device: str) -> None:
    step = make(device)
    images, labels = batch()
    _, expected = step(step.init(0, SHAPE), (images, labels))
    on_device = {
        "inputs": ak.asarray(images, device=device),
        "targets": ak.asarray(labels, device=device),
    }
    _, report = step(step.init(0, SHAPE), on_device)
    assert report["loss"] == expected["loss"]


BAD_BATCHES = [
    (lambda x, y: (x, y.astype(np.float32)), DTypeError, "Labels must be integers"),
    (lambda x, y: (x, y[:7]), ShapeError, r"8 inputs .* targets of shape \(7,\)"),
    (lambda x, y: (x, y + 5), OptionError, r"Labels must be in \[0, 5\)"),
    (lambda x, y: (x, y - 5), OptionError, r"Labels must be in \[0, 5\)"),
    (lambda x, y: (x[:0], y[:0]), OptionError, "at least one sample"),
    (lambda x, y: (x,), OptionError, r"\(inputs, targets\)"),
    (lambda x, y: {"images": x, "labels": y}, OptionError, "'inputs', 'targets'"),
    (lambda x, y: (x, y, np.zeros(8)), OptionError, "not all zero"),
    (lambda x, y: (x, y, -np.ones(8)), OptionError, "not negative"),
    (lambda x, y: (x, y, np.ones(3)), ShapeError, r"weights of shape \(3,\)"),
    (lambda x, y: (x[..., :1], y), ShapeError, r"'conv\.weight' needs shape"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD_BATCHES)
def test_bad_batches_are_refused_and_the_state_survives(change, kind, message) -> None:
    step = make()
    state = step.init(0, SHAPE)
    with pytest.raises(kind, match=message):
        step(state, change(*batch()))
    _, report = step(state, batch())
    assert report["loss"] > 0.0


def test_tensors_and_states_of_other_devices_are_refused() -> None:
    others = [name for name in BACKENDS if name != "numpy"]
    if not others:
        pytest.skip("needs a second installed backend")
    step = make("numpy")
    images, labels = batch()
    with pytest.raises(DeviceMismatchError, match="The batch's inputs are on"):
        step(step.init(0, SHAPE), (ak.asarray(images, device=others[0]), labels))
    elsewhere = make(others[0])
    with pytest.raises(DeviceMismatchError, match="The state is on"):
        step(elsewhere.init(0, SHAPE), (images, labels))


def test_no_trainable_parameter_is_an_error() -> None:
    step = make(trainable=lambda name: False)
    with pytest.raises(OptionError, match="No parameter is trainable"):
        step(step.init(0, SHAPE), batch())


def test_a_failure_after_donation_says_that_the_state_is_lost(monkeypatch) -> None:
    step = make()
    state, _ = step(step.init(0, SHAPE), batch())
    (executable,) = step.executables

    def fail(arrays: object) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(type(executable), "__call__", lambda self, arrays: fail(arrays))
    step.last_checkpoint = "run/step-1"
    with pytest.raises(ak.errors.OutOfMemoryError, match=r"state is lost.*run/step-1") as caught:
        step(state, batch())
    assert "MiB" in str(caught.value)
    with pytest.raises(ak.errors.StateLostError, match="no memory left"):
        _ = state.parameters


def test_a_consumed_state_keeps_no_tensor_that_the_step_replaced(device: str) -> None:
    """A backend writes to the memory of a donated tensor where nothing else has it."""
    step = make(device)
    state = step.init(0, SHAPE)
    replaced = [weakref.ref(t) for n, t in state.tensors.items() if n.startswith("parameters.")]
    after, _ = step(state, batch())
    assert after.step == state.step + 1
    assert [ref() for ref in replaced] == [None] * 4
