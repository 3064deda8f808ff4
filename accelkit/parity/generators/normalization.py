"""Cases of softmax, cross-entropy, local response normalisation, and parameter updates."""

from __future__ import annotations

from typing import Any

import numpy as np

from accelkit.parity.cases import Case, cases
from accelkit.parity.source import Shape, Source

_WIDE = ("float32", "float64")
_RANKED: tuple[Shape, ...] = ((4, 7), (5,), (2, 3, 4), (3, 1), (2, 33))


def _size(x: np.ndarray) -> float:
    return float(np.max(np.abs(x.astype(np.float64)), initial=0.0))


@cases("softmax", "log_softmax")
def softmax(name: str, source: Source) -> Case:
    """Probabilities of small and of large logits."""
    shape = source.shape(_RANKED)
    axis = source.below(len(shape))
    x = source.normal(shape, 1.0 if source.smooth else source.choose((1.0, 30.0)))
    floor = _size(x) if name == "log_softmax" else 0.0
    return Case(
        name,
        (x,),
        {"axis": axis},
        gradients=(0,),
        floor=floor,
        length=shape[axis],
        gradient_length=shape[axis],
    )


@cases("softmax_grad")
def softmax_grad(name: str, source: Source) -> Case:
    """The gradient, itself differentiable, at any probabilities."""
    shape = source.shape(_RANKED)
    axis = source.below(len(shape))
    y, g = source.between(shape, 0.01, 1.0), source.normal(shape)
    return Case(
        name,
        (y, g),
        {"axis": axis},
        gradients=(0, 1),
        floor=_size(g),
        length=shape[axis],
        gradient_length=shape[axis],
    )


def _labelled(source: Source) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    # 300 classes do not fit a uint8. No four rows: LLVM in XLA 0.10 aborts the process where four
    # 16-bit labels are broadcast ("Cannot select ... X86ISD::SUBV_BROADCAST_LOAD", on AVX-512).
    shape = source.shape(((3, 7), (5,), (2, 3, 4), (3, 1), (2, 300)))
    logits = source.normal(shape, 1.0 if source.smooth else source.choose((1.0, 20.0)))
    index = source.dtype_of("iu")
    count = min(shape[-1], np.iinfo(index.numpy).max)
    labels = source.indices(shape[:-1], count, dtype=index)
    return logits, labels, {"label_smoothing": source.choose((0.0, 0.1, 0.5))}


@cases("softmax_cross_entropy")
def softmax_cross_entropy(name: str, source: Source) -> Case:
    """Integer labels of any width, with and without smoothing."""
    logits, labels, parameters = _labelled(source)
    return Case(
        name,
        (logits, labels),
        parameters,
        gradients=(0,),
        floor=_size(logits),
        length=logits.shape[-1],
        gradient_length=logits.shape[-1],
    )


@cases("softmax_cross_entropy_grad")
def softmax_cross_entropy_grad(name: str, source: Source) -> Case:
    """The gradient, itself differentiable."""
    logits, labels, parameters = _labelled(source)
    g = source.normal(labels.shape)
    return Case(
        name,
        (logits, labels, g),
        parameters,
        gradients=(0, 2),
        floor=_size(g),
        length=logits.shape[-1],
        gradient_length=logits.shape[-1],
    )


def _lrn(source: Source) -> tuple[Shape, dict[str, Any]]:
    shape = source.shape(((2, 3, 3, 8), (1, 2, 2, 3), (4, 5), (6,)))
    parameters = {
        "size": source.choose((5, 3, 4, 1)),
        "alpha": source.choose((1e-4, 0.1)),
        "beta": source.choose((0.75, 0.5, 1.0)),
        "k": source.choose((2.0, 1.0)),
    }
    return shape, parameters


@cases("local_response_norm")
def local_response_norm(name: str, source: Source) -> Case:
    """Windows of odd and even size, wider than the channels too."""
    shape, parameters = _lrn(source)
    x = source.normal(shape)
    size = parameters["size"]
    return Case(name, (x,), parameters, gradients=(0,), length=size, gradient_length=size)


@cases("local_response_norm_grad")
def local_response_norm_grad(name: str, source: Source) -> Case:
    """The gradient, itself differentiable."""
    shape, parameters = _lrn(source)
    x, g = source.normal(shape), source.normal(shape)
    size = parameters["size"]
    return Case(
        name,
        (x, g),
        parameters,
        gradients=(0, 1),
        floor=_size(g),
        length=size,
        gradient_length=size,
    )


def _batch_norm(source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    shape = source.shape(((2, 3, 3, 4), (7, 5), (3, 4, 1), (9, 33)))
    # Images far from zero: a variance from the mean of squares would lose its digits.
    x = source.normal(shape) + source.rounded(source.choose((0.0, 1.0, -4.0)))
    scale, bias = (source.normal(shape[-1:]) for _ in range(2))
    return x, scale, bias, {"epsilon": source.choose((1e-5, 1e-3, 0.1))}


@cases("batch_norm", only=_WIDE)
def batch_norm(name: str, source: Source) -> Case:
    """Statistics over one and several axes; values whose mean is far from zero."""
    x, scale, bias, parameters = _batch_norm(source)
    length = x.size // x.shape[-1]
    return Case(
        name,
        (x, scale, bias),
        parameters,
        gradients=(0, 1, 2),
        floor=16.0 * length**0.5,
        length=length,
        gradient_length=16 * length,
    )


@cases("batch_norm_grad", only=_WIDE)
def batch_norm_grad(name: str, source: Source) -> Case:
    """The gradient, itself differentiable; the statistics are operands of their own."""
    x, scale, mean, parameters = _batch_norm(source)
    var = source.between(mean.shape, 0.5, 2.0)
    g = source.normal(x.shape)
    length = x.size // x.shape[-1]
    return Case(
        name,
        (x, scale, mean, var, g),
        parameters,
        gradients=(0, 1, 2, 3, 4),
        floor=16.0 * length**0.5,
        length=length,
        gradient_length=16 * length,
    )


def _layer_norm(source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = source.shape(((3, 5), (2, 3, 4), (6,), (2, 2, 2, 7), (3, 33)))
    # Rows far from zero: a variance from the mean of squares would lose its digits.
    x = source.normal(shape) + source.rounded(source.choose((0.0, 1.0, -4.0)))
    return x, source.normal(shape[-1:]), source.normal(shape[-1:])


@cases("layer_norm", only=_WIDE)
def layer_norm(name: str, source: Source) -> Case:
    """Rows of several lengths; values whose mean is far from zero."""
    x, scale, bias = _layer_norm(source)
    length = x.shape[-1]
    return Case(
        name,
        (x, scale, bias),
        {"epsilon": source.choose((1e-5, 1e-3, 0.1))},
        gradients=(0, 1, 2),
        floor=16.0 * length**0.5,
        length=length,
        gradient_length=16 * x.size,
    )


@cases("layer_norm_grad", only=_WIDE)
def layer_norm_grad(name: str, source: Source) -> Case:
    """The gradient, itself differentiable; the statistics are those of the rows."""
    x, scale, _ = _layer_norm(source)
    exact = x.astype(np.float64)
    mean = exact.mean(-1, keepdims=True)
    inverse = 1.0 / np.sqrt(exact.var(-1, keepdims=True) + 0.1)
    return Case(
        name,
        (x, scale, source.rounded(mean), source.rounded(inverse), source.normal(x.shape)),
        gradients=(0, 1, 2, 3, 4),
        floor=16.0 * x.shape[-1] ** 0.5,
        length=x.size,
        gradient_length=16 * x.size,
    )


_PARAMETERS: tuple[Shape, ...] = ((3, 4), (5,), (2, 3, 2, 2), ())


@cases("sgd_update", only=_WIDE)
def sgd_update(name: str, source: Source) -> Case:
    """With and without momentum, Nesterov's form and weight decay."""
    shape = source.shape(_PARAMETERS)
    p, g, v = (source.normal(shape) for _ in range(3))
    rate = source.rounded(source.choose((0.1, 1.0, 0.0)))
    parameters = {
        "momentum": source.choose((0.9, 0.0)),
        "weight_decay": source.choose((5e-4, 0.0)),
        "nesterov": source.flag(),
    }
    return Case(name, (p, g, v, rate), parameters, gradients=(0, 1, 2, 3), floor=3.0)


@cases("average_update", only=_WIDE)
def average_update(name: str, source: Source) -> Case:
    """Of the first step, and of later ones."""
    shape = source.shape(_PARAMETERS)
    average, p = (source.normal(shape) for _ in range(2))
    rate = source.rounded(source.choose((1.0, 0.6, 1e-3, 0.0)))
    return Case(name, (average, p, rate), {}, gradients=(0, 1, 2), floor=3.0)


@cases("adam_update", only=_WIDE)
def adam_update(name: str, source: Source) -> Case:
    """Adam and AdamW at early and late steps."""
    shape = source.shape(_PARAMETERS)
    p, g, m = (source.normal(shape) for _ in range(3))
    v = source.between(shape, 0.1, 2.0)
    step = source.choose((1, 2, 1000))
    scalars = [source.rounded(s) for s in (0.1, 1.0 - 0.9**step, 1.0 - 0.999**step)]
    parameters = {
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": source.choose((1e-8, 1e-3)),
        "weight_decay": source.choose((0.0, 0.01)),
        "decoupled": source.flag(),
    }
    return Case(
        name,
        (p, g, m, v, *scalars),
        parameters,
        gradients=(0, 1, 2, 3, 4),
        floor=3.0,
        gradient_length=p.size,
    )
