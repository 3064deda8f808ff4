"""Parameter updates: one primitive per parameter, so that a backend can fuse all of them.

Scalars that change from step to step (learning rate, bias corrections) are operands of shape
(); what is fixed for a run is a static parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelkit.errors import DTypeError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.elementwise import sqrt
from accelkit.primitives.linear_algebra import matmul
from accelkit.primitives.primitive import primitive


def _check(name: str, tensors: tuple[TensorSpec, ...], scalars: tuple[TensorSpec, ...]) -> None:
    first = tensors[0]
    for other in tensors[1:]:
        if other.shape != first.shape:
            raise ShapeError(f"{name} needs tensors of one shape, got {first} and {other}.")
        if other.dtype is not first.dtype:
            raise DTypeError(f"{name} needs tensors of one dtype, got {first} and {other}.")
    for scalar in scalars:
        if scalar.shape != () or scalar.dtype is not first.dtype:
            raise ShapeError(f"{name} needs scalars {first.dtype}[], got {scalar}.")


def _sgd_infer(
    p: TensorSpec,
    g: TensorSpec,
    v: TensorSpec,
    learning_rate: TensorSpec,
    *,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> tuple[TensorSpec, ...]:
    _check("sgd_update", (p, g, v), (learning_rate,))
    return p, p


def _sgd_definition(
    p: Any,
    g: Any,
    v: Any,
    learning_rate: Any,
    *,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> tuple[Any, Any]:
    if weight_decay:
        g = g + p * weight_decay
    v = v * momentum + g
    direction = g + v * momentum if nesterov else v
    return p - direction * learning_rate, v


sgd_update = primitive(
    "sgd_update",
    _sgd_infer,
    definition=_sgd_definition,
    flops=lambda inputs, outputs, parameters: 6 * inputs[0].size,
    multiple_outputs=True,
    doc="""(p, g, v, learning_rate) to (p', v'): stochastic gradient descent, as torch.optim.SGD.

    g += weight_decay * p; v' = momentum * v + g; p' = p - learning_rate * v', or with Nesterov
    momentum p' = p - learning_rate * (g + momentum * v').""",
)


def _sgd_matmul_infer(
    p: TensorSpec,
    a: TensorSpec,
    b: TensorSpec,
    v: TensorSpec,
    learning_rate: TensorSpec,
    *,
    transpose_a: bool,
    transpose_b: bool,
    **options: Any,
) -> tuple[TensorSpec, ...]:
    (g,) = matmul.infer([a, b], {"transpose_a": transpose_a, "transpose_b": transpose_b})
    return _sgd_infer(p, g, v, learning_rate, **options)


def _sgd_matmul_definition(
    p: Any,
    a: Any,
    b: Any,
    v: Any,
    learning_rate: Any,
    *,
    transpose_a: bool,
    transpose_b: bool,
    **options: Any,
) -> tuple[Any, Any]:
    g = matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    new_p, new_v = sgd_update(p, g, v, learning_rate, **options)
    return new_p, new_v


def _sgd_matmul_flops(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], parameters: Mapping[str, Any]
) -> int:
    transposes = {key: parameters[key] for key in ("transpose_a", "transpose_b")}
    return matmul.flops(inputs[1:3], outputs[:1], transposes) + 6 * inputs[0].size


sgd_update_matmul = primitive(
    "sgd_update_matmul",
    _sgd_matmul_infer,
    definition=_sgd_matmul_definition,
    flops=_sgd_matmul_flops,
    multiple_outputs=True,
    doc="""(p, a, b, v, learning_rate) to (p', v'): sgd_update with the gradient op(a) @ op(b).

    A native form updates p and v in place, piece by piece, so that the gradient of a large matrix
    never exists as a whole.""",
)


def _adam_infer(
    p: TensorSpec,
    g: TensorSpec,
    m: TensorSpec,
    v: TensorSpec,
    learning_rate: TensorSpec,
    correction1: TensorSpec,
    correction2: TensorSpec,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> tuple[TensorSpec, ...]:
    _check("adam_update", (p, g, m, v), (learning_rate, correction1, correction2))
    return p, p, p


def _adam_definition(
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
    if weight_decay and decoupled:
        p = p - p * (learning_rate * weight_decay)
    elif weight_decay:
        g = g + p * weight_decay
    m = m * beta1 + g * (1.0 - beta1)
    v = v * beta2 + g * g * (1.0 - beta2)
    denominator = sqrt(v) / sqrt(correction2) + epsilon
    return p - (m / denominator) * (learning_rate / correction1), m, v


adam_update = primitive(
    "adam_update",
    _adam_infer,
    definition=_adam_definition,
    flops=lambda inputs, outputs, parameters: 14 * inputs[0].size,
    multiple_outputs=True,
    doc="""(p, g, m, v, learning_rate, correction1, correction2) to (p', m', v'), as torch.optim.

    Kingma and Ba (2015): m' = b1 m + (1-b1) g; v' = b2 v + (1-b2) g^2;
    p' = p - learning_rate / c1 * m' / (sqrt(v') / sqrt(c2) + epsilon) with c_i = 1 - b_i^t.
    Weight decay is added to g, or, decoupled (AdamW, Loshchilov and Hutter, 2019), scales p by
    1 - learning_rate * weight_decay first.""",
)


def _average_infer(average: TensorSpec, p: TensorSpec, rate: TensorSpec) -> TensorSpec:
    _check("average_update", (average, p), (rate,))
    return average


average_update = primitive(
    "average_update",
    _average_infer,
    definition=lambda average, p, rate: average + (p - average) * rate,
    flops=lambda inputs, outputs, parameters: 3 * inputs[0].size,
    doc="""(average, p, rate) to average': a running average of a parameter, rate in [0, 1].

    average' = average + rate * (p - average).""",
)
