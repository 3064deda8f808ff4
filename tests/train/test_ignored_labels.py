"""Labels that are left out, and yes-or-no targets: losses and whole steps against PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import accelkit as ak
from accelkit import losses, metrics, nn, optim, train
from accelkit.errors import OptionError, ShapeError

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402 - after the check that it is there

BACKENDS = sorted({info.device.backend for info in ak.devices()})
CLASSES = 5
PADDING = -100


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Logits (N, ..., classes), labels (N, ...) of which some are ignored, and which."""
    shape = draw(st.sampled_from([(6,), (3, 4), (2, 2, 3)]))
    ignored = draw(st.sampled_from([PADDING, -1, 0, 3, 255]))
    labels = draw(st.lists(st.integers(0, CLASSES - 1), min_size=12, max_size=12))
    hidden = draw(st.lists(st.booleans(), min_size=12, max_size=12))
    size = int(np.prod(shape))
    targets = np.where(hidden, ignored, labels)[:size].reshape(shape).astype(np.int64)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.standard_normal((*shape, CLASSES)) * 4.0, targets, ignored


@given(labelled(), st.sampled_from([0.0, 0.2]))
def test_ignored_rows_have_no_loss_and_no_gradient(case: Any, smoothing: float) -> None:
    logits, labels, ignored = case
    theirs = torch.tensor(logits, requires_grad=True)
    expected = F.cross_entropy(
        torch.movedim(theirs, -1, 1),
        torch.tensor(labels),
        reduction="none",
        ignore_index=ignored,
        label_smoothing=smoothing,
    )

    def own(x: ak.Tensor, targets: ak.Tensor) -> ak.Tensor:
        return ak.softmax_cross_entropy(x, targets, ignore_index=ignored, label_smoothing=smoothing)

    x, targets = ak.asarray(logits), ak.asarray(labels)
    np.testing.assert_allclose(own(x, targets).numpy(), expected.detach().numpy(), atol=1e-12)
    expected.sum().backward()
    found = ak.grad(lambda x: own(x, targets).sum())(x)
    np.testing.assert_allclose(found.numpy(), theirs.grad.numpy(), atol=1e-12)
    if not (labels == ignored).all():
        loss = losses.SoftmaxCrossEntropy(smoothing, ignore_index=ignored)
        counts = loss.counts(targets).numpy()
        mean = F.cross_entropy(
            torch.movedim(theirs, -1, 1),
            torch.tensor(labels),
            ignore_index=ignored,
            label_smoothing=smoothing,
        )
        found_mean = (loss(x, targets).numpy() * counts).sum() / counts.sum()
        np.testing.assert_allclose(found_mean, mean.item(), rtol=1e-12)


def test_labels_too_narrow_for_the_index_are_all_counted() -> None:
    logits = ak.asarray(np.eye(3))
    labels = ak.asarray(np.arange(3, dtype="uint8"))
    found = ak.softmax_cross_entropy(logits, labels, ignore_index=PADDING)
    assert found.tolist() == ak.softmax_cross_entropy(logits, labels).tolist()


MODEL = nn.Sequential(fc=nn.Linear(CLASSES))
FEATURES = (4, 3, 2)  # samples, words, numbers per word


def sentences() -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(0).standard_normal(FEATURES).astype("float32")
    labels = np.array([[1, 4, 0], [2, -100, -100], [-100] * 3, [3, 3, -100]])
    return inputs, labels


def step_on(device: str, **options: Any) -> train.TrainStep:
    return train.TrainStep(
        MODEL,
        losses.SoftmaxCrossEntropy(ignore_index=PADDING),
        optim.sgd(1.0),
        metrics=[metrics.TopKAccuracy(1, ignore_index=PADDING)],
        device=device,
        **options,
    )


@pytest.mark.parametrize("device", BACKENDS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_takes_the_mean_over_what_counts(device: str, accumulate: int) -> None:
    """Loss, accuracy and new weights are torch's; with micro-batches that count differently."""
    inputs, labels = sentences()
    step = step_on(device, accumulate=accumulate)
    state = step.init(0, FEATURES)
    initial = {name: t.numpy() for name, t in state.parameters["fc"].items()}
    weight, bias = (torch.tensor(initial[n], requires_grad=True) for n in ("weight", "bias"))
    outputs = torch.tensor(inputs) @ weight + bias
    expected = F.cross_entropy(outputs.reshape(-1, CLASSES), torch.tensor(labels).reshape(-1))
    expected.backward()
    state, report = step(state, (inputs, labels))
    np.testing.assert_allclose(report["loss"], expected.item(), rtol=1e-5)
    counted = labels != PADDING
    hits = (outputs.argmax(-1).numpy() == labels)[counted].mean()
    np.testing.assert_allclose(report["top1"], hits, rtol=1e-5)
    for name, parameter in (("weight", weight), ("bias", bias)):
        wanted = (parameter - parameter.grad).detach().numpy()
        np.testing.assert_allclose(state.parameters["fc"][name].numpy(), wanted, atol=1e-5)


def test_native_kernels_stay_in_use() -> None:
    step = step_on("numpy")
    counts = step.graph(step.init(0, FEATURES), sentences()).counts()
    assert counts["softmax_cross_entropy"] == counts["softmax_cross_entropy_grad"] == 1
    assert counts["labels_in_range"] == 1


def test_an_evaluation_weighs_batches_by_what_counts() -> None:
    inputs, labels = sentences()
    step = train.EvalStep(
        MODEL,
        losses.SoftmaxCrossEntropy(ignore_index=PADDING),
        metrics=[metrics.TopKAccuracy(1, ignore_index=PADDING)],
    )
    parameters = MODEL.init(0, FEATURES)
    together = step.run(parameters, [(inputs, labels)])
    apart = step.run(parameters, [(inputs[i : i + 1], labels[i : i + 1]) for i in range(4)])
    for name in ("loss", "top1"):  # the third sample alone has nothing that counts
        np.testing.assert_allclose(apart[name], together[name], rtol=1e-6)
    with pytest.raises(OptionError, match="no batch was given that counts"):
        step.run(parameters, [(inputs[2:3], labels[2:3])])


def test_what_cannot_be_learned_from_is_refused() -> None:
    inputs, labels = sentences()
    step = step_on("numpy")
    state = step.init(0, FEATURES)
    with pytest.raises(OptionError, match=r"Every label of the batch is ignore_index=-100"):
        step(state, (inputs, np.full_like(labels, PADDING)))
    with pytest.raises(OptionError, match=r"Labels must be in \[0, 5\), got -1"):
        step(state, (inputs, np.where(labels == PADDING, -1, labels)))
    _, report = step(state, (inputs, labels))  # the state is still usable
    assert report["loss"] > 0.0
    with pytest.raises(OptionError, match="`ignore_index` must be an integer"):
        losses.SoftmaxCrossEntropy(ignore_index=0.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="`ignore_index` must be an integer"):
        metrics.TopKAccuracy(1, ignore_index="pad")  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_binary_cross_entropy(scale: float) -> None:
    rng = np.random.default_rng(1)
    outputs, targets = rng.standard_normal((4, 3)) * scale, rng.integers(0, 2, (4, 3)).astype("f8")
    theirs = torch.tensor(outputs, requires_grad=True)
    expected = F.binary_cross_entropy_with_logits(
        theirs, torch.tensor(targets), reduction="none"
    ).mean(1)
    loss, x, t = losses.BinaryCrossEntropy(), ak.asarray(outputs), ak.asarray(targets)
    np.testing.assert_allclose(loss(x, t).numpy(), expected.detach().numpy(), rtol=1e-12)
    expected.sum().backward()
    found = ak.grad(lambda x: loss(x, t).sum())(x)
    np.testing.assert_allclose(found.numpy(), theirs.grad.numpy(), atol=1e-14)


@pytest.mark.parametrize("device", BACKENDS)
def test_binary_cross_entropy_trains(device: str) -> None:
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((16, 4)).astype("float32")
    targets = (inputs[:, :2] > 0).astype("float32")
    step = train.TrainStep(
        nn.Sequential(fc=nn.Linear(2)), losses.BinaryCrossEntropy(), optim.sgd(1.0), device=device
    )
    state = step.init(0, (16, 4))
    with pytest.raises(OptionError, match=r"must be in \[0, 1\], got -1\.0 to 1\.0"):
        step(state, (inputs, 2.0 * targets - 1.0))
    with pytest.raises(ShapeError, match=r"needs targets shaped like the outputs \(16, 2\)"):
        step(state, (inputs, targets[:, 0]))
    values = []
    for _ in range(20):
        state, report = step(state, (inputs, targets))
        values.append(report["loss"])
    assert values[-1] < 0.5 * values[0]
