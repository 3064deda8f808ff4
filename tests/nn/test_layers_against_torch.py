"""Layers and losses give the numbers of torch's, on the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit import losses, nn
from accelkit.parity import deviation
from accelkit.parity.tolerances import TRAINING_BOUNDS

torch = pytest.importorskip("torch")
functional = torch.nn.functional

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((2, 7, 9, 4)).astype(np.float32)
SEQUENCE = RANDOM.standard_normal((2, 5, 8)).astype(np.float32)
MEMORY = RANDOM.standard_normal((2, 6, 8)).astype(np.float32)
LOGITS = RANDOM.standard_normal((2, 3, 4, 5)).astype(np.float32)
LABELS = RANDOM.integers(0, 5, (2, 3, 4))


def assert_close(found: ak.Tensor, expected: Any) -> None:
    wanted = expected.detach().double().numpy()
    assert found.shape == wanted.shape
    assert deviation(found.numpy(), wanted) < TRAINING_BOUNDS["float32"].losses


def channels_first(x: np.ndarray) -> Any:
    return torch.tensor(np.moveaxis(x, -1, 1))


def channels_last(x: Any) -> Any:
    return torch.movedim(x, 1, -1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"kernel_size": 3, "strides": 2, "padding": 1, "groups": 2}, {"stride": 2, "padding": 1}),
        ({"kernel_size": (3, 2), "dilation": (2, 1)}, {"dilation": (2, 1)}),
        ({"kernel_size": 3, "padding": ((1, 1), (2, 2))}, {"padding": (1, 2)}),
        ({"kernel_size": 3, "groups": 4, "bias": False}, {}),
    ],
)
def test_convolution(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    layer = nn.Conv2d(8, bias_init=nn.Constant(0.5), **ours)
    parameters = layer.init(0, IMAGES.shape)
    weight = torch.tensor(parameters["weight"].numpy().transpose(3, 2, 0, 1).copy())
    bias = torch.full((8,), 0.5) if layer.bias else None
    y = functional.conv2d(
        channels_first(IMAGES), weight, bias, groups=ours.get("groups", 1), **theirs
    )
    assert_close(layer(parameters, IMAGES), channels_last(y))


POOLS = {
    "max": (
        nn.MaxPool2d(3, strides=2, padding=1),
        lambda x: functional.max_pool2d(x, 3, 2, 1),
    ),
    "average": (
        nn.AvgPool2d(3, strides=2, padding=1),
        lambda x: functional.avg_pool2d(x, 3, 2, 1),
    ),
    "average of the inside": (
        nn.AvgPool2d(3, strides=2, padding=1, count_include_pad=False),
        lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ),
    "adaptive": (
        nn.AdaptiveAvgPool2d((3, 4)),
        lambda x: functional.adaptive_avg_pool2d(x, (3, 4)),
    ),
    "response norm": (  # torch divides alpha by the size
        nn.LocalResponseNorm(size=3, alpha=0.1, k=1.0),
        lambda x: functional.local_response_norm(x, 3, alpha=0.3, beta=0.75, k=1.0),
    ),
}


@pytest.mark.parametrize("name", POOLS)
def test_pooling_and_response_normalisation(name: str) -> None:
    layer, function = POOLS[name]
    assert_close(layer({}, IMAGES), channels_last(function(channels_first(IMAGES))))


POINTWISE = {
    "relu": (nn.ReLU(), functional.relu),
    "gelu": (nn.GELU(), functional.gelu),
    "tanh gelu": (nn.GELU(True), lambda x: functional.gelu(x, approximate="tanh")),
    "leaky relu": (nn.LeakyReLU(0.2), lambda x: functional.leaky_relu(x, 0.2)),
    "elu": (nn.ELU(1.5), lambda x: functional.elu(x, 1.5)),
    "silu": (nn.SiLU(), functional.silu),
    "tanh": (nn.Tanh(), torch.tanh),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid),
    "softmax": (nn.Softmax(axis=1), lambda x: functional.softmax(x, 1)),
    "flatten": (nn.Flatten(), lambda x: torch.flatten(x, 1)),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_activations(name: str) -> None:
    layer, function = POINTWISE[name]
    assert_close(layer({}, IMAGES), function(torch.tensor(IMAGES)))


def test_layer_normalisation() -> None:
    layer = nn.LayerNorm()
    found = layer(layer.init(0, IMAGES.shape), IMAGES)
    assert_close(found, functional.layer_norm(torch.tensor(IMAGES), (4,)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_normalisation(groups: int) -> None:
    layer = nn.GroupNorm(groups)
    parameters = layer.init(0, IMAGES.shape)
    scaled = {"scale": parameters["scale"] * 2.0, "bias": parameters["bias"] + 0.5}
    weight, bias = torch.full((4,), 2.0), torch.full((4,), 0.5)
    expected = functional.group_norm(channels_first(IMAGES), groups, weight, bias)
    assert_close(layer(scaled, IMAGES), channels_last(expected))


def test_root_mean_square_normalisation() -> None:
    layer = nn.RMSNorm()
    found = layer(layer.init(0, SEQUENCE.shape), SEQUENCE)
    assert_close(found, functional.rms_norm(torch.tensor(SEQUENCE), (8,), eps=1e-6))


def test_batch_normalisation_in_training_and_afterwards() -> None:
    layer, theirs = nn.BatchNorm(), torch.nn.BatchNorm2d(4)
    parameters, state = layer.init(0, IMAGES.shape), layer.init_state(IMAGES.shape)
    for scale in (1.0, 3.0):
        x = IMAGES * np.float32(scale) + np.float32(0.5)
        y, state = layer.apply(parameters, x, training=True, state=state)
        assert_close(y, channels_last(theirs(channels_first(x))))
    assert_close(state["mean"], theirs.running_mean)
    assert_close(state["var"], theirs.running_var)
    theirs.eval()
    found = layer(parameters, IMAGES, state=state)
    assert_close(found, channels_last(theirs(channels_first(IMAGES))))


@pytest.mark.parametrize("memory", [None, MEMORY])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(memory: np.ndarray | None, causal: bool) -> None:
    layer = nn.MultiHeadAttention(2, causal=causal)
    parameters = layer.init(0, SEQUENCE.shape)
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    weights = [parameters[name]["weight"].numpy().T for name in ("query", "key", "value")]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.tensor(np.concatenate(weights)))
        theirs.out_proj.weight.copy_(torch.tensor(parameters["output"]["weight"].numpy().T.copy()))
    source = torch.tensor(SEQUENCE if memory is None else memory)
    later = torch.triu(torch.ones(5, source.shape[1], dtype=torch.bool), 1) if causal else None
    y, _ = theirs(torch.tensor(SEQUENCE), source, source, attn_mask=later)
    inputs = [SEQUENCE] if memory is None else [SEQUENCE, memory]
    assert_close(layer(parameters, *inputs), y)


def test_embedding() -> None:
    layer = nn.Embedding(5, 3)
    parameters = layer.init(0, LABELS.shape, input_dtype="int64")
    table = torch.tensor(parameters["weight"].numpy())
    assert_close(layer(parameters, LABELS), functional.embedding(torch.tensor(LABELS), table))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_its_gradient(smoothing: float) -> None:
    loss = losses.SoftmaxCrossEntropy(label_smoothing=smoothing)
    theirs = torch.tensor(LOGITS, requires_grad=True)
    expected = functional.cross_entropy(
        torch.movedim(theirs, -1, 1),
        torch.tensor(LABELS),
        reduction="none",
        label_smoothing=smoothing,
    ).mean((1, 2))
    logits, labels = ak.asarray(LOGITS), ak.asarray(LABELS)
    assert_close(loss(logits, labels), expected)
    expected.sum().backward()
    assert_close(ak.grad(lambda x: loss(x, labels).sum())(logits), theirs.grad)


def test_mean_squared_error() -> None:
    found = losses.MeanSquaredError()(ak.asarray(LOGITS), ak.asarray(2 * LOGITS))
    assert_close(found, (torch.tensor(LOGITS) ** 2).mean((1, 2, 3)))
