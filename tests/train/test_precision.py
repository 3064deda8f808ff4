"""Mixed precision: what is computed narrow, what is not, and that it trains."""

from __future__ import annotations

import re

import numpy as np
import pytest

import accelkit as ak
from accelkit import dtypes, losses, metrics, nn, optim, passes, registry, train
from accelkit.backend import supports_dtype
from accelkit.errors import CapabilityError

DEVICES = [info.device for info in ak.devices()]
MODEL = nn.Sequential(
    nn.Conv2d(8, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(16),
    nn.ReLU(),
    nn.Linear(4),
)
SHAPE = (16, 8, 8, 1)


def make(device, precision: str) -> train.TrainStep:
    return train.TrainStep(
        MODEL,
        losses.SoftmaxCrossEntropy(),
        optim.sgd(0.1, momentum=0.9),
        device=device,
        precision=precision,
        metrics=[metrics.TopKAccuracy(1)],
    )


def bars(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with one bright row or column, in four places: easy to learn."""
    rng = np.random.default_rng(index)
    labels = rng.integers(0, 4, SHAPE[0])
    images = rng.standard_normal(SHAPE).astype(np.float32) * 0.3
    for image, label in zip(images, labels, strict=True):
        if label < 2:
            image[2 + 4 * label] += 1.0
        else:
            image[:, 2 + 4 * (label - 2)] += 1.0
    return images, labels


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_it_trains_as_in_float32(device, precision: str) -> None:
    narrow = dtypes.dtype(precision)
    if not supports_dtype(registry.backend(device.backend), device, narrow):
        with pytest.raises(CapabilityError, match=f"has no {precision}") as caught:
            make(device, precision)
        offered = re.search(r"precision \((.*)\)", str(caught.value))
        assert offered
        for other in offered[1].split(", "):  # every one is there
            make(device, other)
        return
    curves = []
    for policy in ("float32", precision):
        step = make(device, policy)
        state = step.init(1, SHAPE)
        curve = []
        for index in range(30):
            state, report = step(state, bars(index))
            curve.append(report["loss"])
        curves.append(curve)
        assert report["top1"] == 1.0
    np.testing.assert_allclose(curves[1][:5], curves[0][:5], rtol=2e-2)
    assert state.tensors["parameters.0.weight"].dtype == "float32"


def test_products_are_narrow_and_updates_are_not() -> None:
    step = make("numpy", "float32")
    graph = step.graph(step.init(0, SHAPE), bars(0))
    mixed = passes.mixed_precision(passes.simplify(graph), dtypes.bfloat16)
    by_name: dict[str, set] = {}
    for node in mixed:
        floats = {v.spec.dtype for v in node.inputs if v.spec.dtype.is_floating}
        by_name.setdefault(node.primitive.name, set()).update(floats)
    for name in ("conv2d", "conv2d_weight_grad", "matmul", "relu", "max_pool2d"):
        assert by_name[name] == {dtypes.bfloat16}, name
    for name in ("sgd_update", "softmax_cross_entropy", "reduce_sum"):
        assert by_name[name] == {dtypes.float32}, name
    assert [v.spec for v in mixed.outputs] == [v.spec for v in graph.outputs]
    casts_of_weights = [
        n for n in mixed if n.primitive.name == "cast" and n.inputs[0] in mixed.inputs
    ]
    assert len({n.inputs[0] for n in casts_of_weights}) == len(casts_of_weights)


def test_the_loss_scale_halves_after_an_overflow_and_the_update_is_left_out() -> None:
    step = make("numpy", "float16")
    state = step.init(0, SHAPE)
    images, labels = bars(0)
    before = state.to_host()
    state, _ = step(state, (images * np.float32(3e4), labels))
    after = state.to_host()
    assert before["loss_scale"][0] == 2 * after["loss_scale"][0]
    np.testing.assert_array_equal(before["parameters.0.weight"], after["parameters.0.weight"])
    state, _ = step(state, (images, labels))
    assert state.to_host()["loss_scale"][1] == 1.0


def test_the_loss_scale_doubles_after_many_good_steps() -> None:
    step = make("numpy", "float16")
    state = step.init(0, SHAPE)
    arrays = state.to_host()
    arrays["loss_scale"] = np.array([1024.0, 1999.0], np.float32)
    state = train.TrainState.from_host(arrays, step=1999, seed=0, device="numpy")
    state, _ = step(state, bars(0))
    np.testing.assert_array_equal(state.to_host()["loss_scale"], [2048.0, 0.0])
