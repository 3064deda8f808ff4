"""Native forms of composite primitives, with fewer temporaries than their definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from accelkit.dtypes import DType
from accelkit.random import philox
from accelkit_numpy.precision import widen_half

Shape = tuple[int, ...]


def _key(key: Any) -> tuple[int, int]:
    return int(key[0]), int(key[1])


def _random_keep_mask(key: Any, *, shape: Shape, rate: float, offset: int) -> Any:
    return philox.random_keep_mask(_key(key), shape, rate, offset=offset)


def _random_uniform(key: Any, *, shape: Shape, dtype: DType, offset: int) -> Any:
    return philox.random_uniform(_key(key), shape, dtype, offset=offset)


def _dropout(x: Any, key: Any, *, rate: float, offset: int) -> Any:
    keep = _random_keep_mask(key, shape=x.shape, rate=rate, offset=offset)
    return np.where(keep, x * x.dtype.type(1.0 / (1.0 - rate)), x.dtype.type(0))


def _softmax(x: Any, *, axis: int) -> Any:
    e = x - np.max(x, axis=axis, keepdims=True)
    np.exp(e, out=e)
    e /= np.sum(e, axis=axis, keepdims=True)
    return e


def _log_softmax(x: Any, *, axis: int) -> Any:
    y = x - np.max(x, axis=axis, keepdims=True)
    y -= np.log(np.sum(np.exp(y), axis=axis, keepdims=True))
    return y


def _is_label(logits: Any, labels: Any) -> Any:
    """True at each row's label, nowhere for a label out of range."""
    return labels[..., None] == np.arange(logits.shape[-1])


def _softmax_cross_entropy(logits: Any, labels: Any, *, label_smoothing: float) -> Any:
    log_probability = _log_softmax(logits, axis=-1)
    # The other classes are left out, not multiplied by zero: -inf is a valid log-probability.
    loss = -np.sum(log_probability, axis=-1, where=_is_label(logits, labels))
    if label_smoothing == 0.0:
        return loss
    number = logits.dtype.type
    uniform = -np.sum(log_probability, axis=-1) / number(logits.shape[-1])
    return loss * number(1.0 - label_smoothing) + uniform * number(label_smoothing)


def _softmax_cross_entropy_grad(logits: Any, labels: Any, g: Any, *, label_smoothing: float) -> Any:
    difference = _softmax(logits, axis=-1)
    low = label_smoothing / logits.shape[-1]
    number = logits.dtype.type
    difference -= np.where(
        _is_label(logits, labels), number(1.0 - label_smoothing + low), number(low)
    )
    difference *= g[..., None]
    return difference


def _window_sum(x: Any, before: int, after: int) -> Any:
    """Sum over channels i - before .. i + after, clipped at the ends; channels are last."""
    channels = x.shape[-1]
    total = np.zeros(x.shape, x.dtype)
    for offset in range(-before, after + 1):
        low, high = max(0, -offset), min(channels, channels - offset)
        if low < high:
            total[..., low:high] += x[..., low + offset : high + offset]
    return total


def _lrn_scale(x: Any, size: int, alpha: float, k: float) -> Any:
    scale = _window_sum(x * x, size // 2, (size - 1) // 2)
    scale *= x.dtype.type(alpha)
    scale += x.dtype.type(k)
    return scale


def _negative_power(scale: Any, beta: float) -> Any:
    if beta == 0.75:  # square roots are exact to the last bit, and faster
        root = np.sqrt(scale)
        return np.reciprocal(root * np.sqrt(root))
    return np.power(scale, scale.dtype.type(-beta))


def _local_response_norm(x: Any, *, size: int, alpha: float, beta: float, k: float) -> Any:
    return x * _negative_power(_lrn_scale(x, size, alpha, k), beta)


def _local_response_norm_grad(
    x: Any, g: Any, *, size: int, alpha: float, beta: float, k: float
) -> Any:
    scale = _lrn_scale(x, size, alpha, k)
    factor = _negative_power(scale, beta)
    inner = g * x
    inner *= factor
    inner /= scale
    spread = _window_sum(inner, (size - 1) // 2, size // 2)
    spread *= x
    spread *= x.dtype.type(2.0 * alpha * beta)
    return g * factor - spread


# Updates are cut into pieces whose temporaries stay in the processor's cache.
_PIECE_ELEMENTS = 1 << 15


def _pieces(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """The same pieces of flat views of all arrays (contiguous copies where there is no view)."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _PIECE_ELEMENTS):
        yield tuple(array[start : start + _PIECE_ELEMENTS] for array in flat)


def _sgd_update(
    p: Any,
    g: Any,
    v: Any,
    learning_rate: Any,
    *,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> tuple[Any, Any]:
    number = p.dtype.type
    new_p, new_v = np.empty(p.shape, p.dtype), np.empty(p.shape, p.dtype)
    for old, gradient, velocity, out, new_velocity in _pieces(p, g, v, new_p, new_v):
        if weight_decay:
            gradient = gradient + old * number(weight_decay)
        np.multiply(velocity, number(momentum), out=new_velocity)
        new_velocity += gradient
        direction = gradient + new_velocity * number(momentum) if nesterov else new_velocity
        np.subtract(old, direction * learning_rate, out=out)
    return new_p, new_v


def _adam_update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    learning_rate: Any,
    correction1: Any,
    correction2: Any,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> tuple[Any, Any, Any]:
    number = p.dtype.type
    results = tuple(np.empty(p.shape, p.dtype) for _ in range(3))
    for old, gradient, first, second, new_p, new_m, new_v in _pieces(p, g, m, v, *results):
        if weight_decay and decoupled:
            old = old - old * (learning_rate * number(weight_decay))
        elif weight_decay:
            gradient = gradient + old * number(weight_decay)
        np.multiply(first, number(beta1), out=new_m)
        new_m += gradient * number(1.0 - beta1)
        np.multiply(second, number(beta2), out=new_v)
        new_v += gradient * gradient * number(1.0 - beta2)
        denominator = np.sqrt(new_v) / np.sqrt(correction2) + number(epsilon)
        np.subtract(old, (new_m / denominator) * (learning_rate / correction1), out=new_p)
    return results[0], results[1], results[2]


def _average_update(average: Any, p: Any, rate: Any) -> Any:
    result = np.empty(p.shape, p.dtype)
    for old, new, out in _pieces(average, p, result):
        np.subtract(new, old, out=out)
        out *= rate
        out += old
    return result


COMPOSITES: dict[str, Callable[..., Any]] = {
    "random_keep_mask": _random_keep_mask,
    "random_uniform": _random_uniform,
    "dropout": widen_half(_dropout),
    "softmax": widen_half(_softmax),
    "log_softmax": widen_half(_log_softmax),
    "softmax_cross_entropy": widen_half(_softmax_cross_entropy),
    "softmax_cross_entropy_grad": widen_half(_softmax_cross_entropy_grad),
    "local_response_norm": widen_half(_local_response_norm),
    "local_response_norm_grad": widen_half(_local_response_norm_grad),
    "sgd_update": widen_half(_sgd_update),
    "adam_update": widen_half(_adam_update),
    "average_update": widen_half(_average_update),
}
