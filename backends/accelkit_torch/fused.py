"""Nodes of compiled graphs that stand for several primitives, and what runs for them.

They exist only inside this backend: :mod:`accelkit_torch.rewrites` introduces them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from accelkit import dtypes
from accelkit.graph import Graph, Node, TensorSpec
from accelkit.primitives import get
from accelkit.primitives.primitive import Primitive
from accelkit_torch import convolution, normalization, winograd

_aten = torch.ops.aten

# --- specs ----------------------------------------------------------------------------------------


def _conv2d_bias_infer(x: TensorSpec, w: TensorSpec, b: TensorSpec, **geometry: Any) -> Any:
    return get("conv2d").infer([x, w], geometry)


def _conv2d_backward_infer(
    x: TensorSpec, w: TensorSpec, g: TensorSpec, *, wanted: Sequence[bool], **geometry: Any
) -> tuple[TensorSpec, ...]:
    specs = (x, w, TensorSpec((w.shape[3],), w.dtype))
    return tuple(spec for spec, want in zip(specs, wanted, strict=True) if want)


def _winograd_infer(name: str) -> Callable[..., Any]:
    """The rule of a convolution that moves by one."""

    def infer(*specs: TensorSpec, tile: int, **geometry: Any) -> Any:
        by_one = {"strides": (1, 1), "dilation": (1, 1), "groups": 1}
        return get(name).infer(specs[:2], geometry | by_one)

    return infer


def _pool_infer(x: TensorSpec, **geometry: Any) -> tuple[TensorSpec, ...]:
    (y,) = get("max_pool2d").infer([x], geometry)
    n, h, w, c = y.shape
    return y, TensorSpec((n, c, h, w), dtypes.int64)


def _cross_entropy_infer(
    logits: TensorSpec, labels: TensorSpec, *, label_smoothing: float
) -> tuple[TensorSpec, ...]:
    rows = logits.shape[:-1]
    return TensorSpec(rows, logits.dtype), logits, TensorSpec(rows, dtypes.int64)


def _checked_cross_entropy_infer(
    logits: TensorSpec, labels: TensorSpec, weights: TensorSpec, *, label_smoothing: float
) -> tuple[TensorSpec, ...]:
    kept = _cross_entropy_infer(logits, labels, label_smoothing=label_smoothing)
    return *kept, TensorSpec((), dtypes.bool_)


def _add_matmul_infer(c: TensorSpec, a: TensorSpec, b: TensorSpec, **transposes: Any) -> Any:
    return get("matmul").infer([a, b], transposes)


def _attention_infer(
    q: TensorSpec, k: TensorSpec, v: TensorSpec, *, scale: float
) -> tuple[TensorSpec, ...]:
    wide = dtypes.float32 if q.dtype.bits == 16 else q.dtype
    return q, TensorSpec(q.shape[:3], wide)


def _sgd_infer(
    *specs: TensorSpec, count: int, conditional: bool, **options: Any
) -> tuple[TensorSpec, ...]:
    first = 2 if conditional else 1
    return specs[first : first + count] * 2


def _adam_infer(
    *specs: TensorSpec, count: int, conditional: bool, **options: Any
) -> tuple[TensorSpec, ...]:
    first = 4 if conditional else 3
    return specs[first : first + count] * 3


CONV2D_BIAS: Final = Primitive("torch_conv2d_bias", _conv2d_bias_infer)
CONV2D_BACKWARD: Final = Primitive(
    "torch_conv2d_backward", _conv2d_backward_infer, multiple_outputs=True
)
# The same convolutions in tiles, see accelkit.winograd; the first with or without a bias.
WINOGRAD_CONV2D: Final = Primitive("torch_winograd_conv2d", _winograd_infer("conv2d"))
WINOGRAD_CONV2D_INPUT_GRAD: Final = Primitive(
    "torch_winograd_conv2d_input_grad", _winograd_infer("conv2d_input_grad")
)
WINOGRAD_CONV2D_WEIGHT_GRAD: Final = Primitive(
    "torch_winograd_conv2d_weight_grad", _winograd_infer("conv2d_weight_grad")
)
MAX_POOL2D: Final = Primitive("torch_max_pool2d", _pool_infer, multiple_outputs=True)
MAX_POOL2D_GRAD: Final = Primitive("torch_max_pool2d_grad", lambda x, indices, g, **geometry: x)
# (logits, labels) to (loss, log-probabilities, indices of the labels), and the gradient from these.
CROSS_ENTROPY: Final = Primitive("torch_cross_entropy", _cross_entropy_infer, multiple_outputs=True)
CROSS_ENTROPY_GRAD: Final = Primitive(
    "torch_cross_entropy_grad",
    lambda log_probability, index, g, *, label_smoothing: log_probability,
)
# The same in host memory with a bool[] behind it: whether all labels of samples with a weight are
# classes.
CHECKED_CROSS_ENTROPY: Final = Primitive(
    "torch_checked_cross_entropy", _checked_cross_entropy_infer, multiple_outputs=True
)
# c + op(a) @ op(b) for a bias c (n,), and the same rectified; c + scale * op(a) @ op(b), in place,
# for a donated matrix c.
ADD_MATMUL: Final = Primitive("torch_add_matmul", _add_matmul_infer)
ADD_MATMUL_RELU: Final = Primitive("torch_add_matmul_relu", _add_matmul_infer)
ACCUMULATE_MATMUL: Final = Primitive(
    "torch_accumulate_matmul", lambda c, a, b, *, scale, transpose_a, transpose_b: c
)
# (N, heads, T, d), (N, heads, S, d) twice to softmax(scale * q @ k.T) @ v and the logarithms of the
# sums in its denominator; (cotangent, q, k, v, both results) to the cotangents of q, k and v.
ATTENTION: Final = Primitive("torch_attention", _attention_infer, multiple_outputs=True)
ATTENTION_GRAD: Final = Primitive(
    "torch_attention_grad",
    lambda g, q, k, v, y, sums, *, scale: (q, k, v),
    multiple_outputs=True,
)
# A truth value as all bits of a byte or none, and a float times a number where they are set, else
# zero.
MASK_BITS: Final = Primitive("torch_mask_bits", lambda mask: TensorSpec(mask.shape, dtypes.int8))
KEEP: Final = Primitive("torch_keep", lambda x, bits, *, scale: x)
# (learning rate, parameters, gradients, momenta); `accumulated`: the gradients are already added
# to the momenta, divided by the factor of these; `conditional`: a bool[] after the scalars says
# whether anything changes.
SGD: Final = Primitive("torch_sgd", _sgd_infer, multiple_outputs=True)
# (learning rate, corrections, parameters, gradients, first and second moments)
ADAM: Final = Primitive("torch_adam", _adam_infer, multiple_outputs=True)


# --- implementations ------------------------------------------------------------------------------


def _conv2d_backward(x: Tensor, w: Tensor, g: Tensor, **options: Any) -> list[Tensor]:
    return [t for t in convolution.conv2d_backward(x, w, g, **options) if t is not None]


def _add_matmul(c: Tensor, a: Tensor, b: Tensor, *, transpose_a: bool, transpose_b: bool) -> Tensor:
    return torch.addmm(c, a.t() if transpose_a else a, b.t() if transpose_b else b)


def _add_matmul_relu(
    c: Tensor, a: Tensor, b: Tensor, *, transpose_a: bool, transpose_b: bool
) -> Tensor:
    return torch._addmm_activation(c, a.t() if transpose_a else a, b.t() if transpose_b else b)


def accumulate_matmul(
    c: Tensor, a: Tensor, b: Tensor, *, scale: float, transpose_a: bool, transpose_b: bool
) -> Tensor:
    """``c += scale * op(a) @ op(b)`` in place: the product itself is never stored."""
    return c.addmm_(a.t() if transpose_a else a, b.t() if transpose_b else b, alpha=scale)


def _attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    y, sums = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, scale=scale)
    return y, sums


def _attention_grad(*arrays: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *arrays, 0.0, False, scale=scale
    )
    return q, k, v


def _mask_bits(mask: Tensor) -> Tensor:
    return mask.view(torch.int8).neg()


_INTEGERS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep(x: Tensor, bits: Tensor, *, scale: float, out: Tensor | None = None) -> Tensor:
    """``scale * x`` where ``bits`` are set, +0 where not, whatever ``x`` is there.

    Args:
        x: Floating.
        bits: int8 of the same shape, -1 or 0.
        scale: A number of the dtype of ``x``.
        out: Where the result goes; may be ``x``.
    """
    integer = _INTEGERS[x.element_size()]
    scaled = x if scale == 1.0 else torch.mul(x, scale, out=out)
    target = out if scale == 1.0 else scaled
    found = torch.bitwise_and(
        scaled.view(integer),
        bits.to(integer),  # sign and all; in one call with the other it takes longer
        out=None if target is None else target.view(integer),
    )
    return found.view(x.dtype)


FUSED: Final[dict[str, Callable[..., Any]]] = {
    CONV2D_BIAS.name: convolution.conv2d,
    CONV2D_BACKWARD.name: _conv2d_backward,
    MAX_POOL2D.name: convolution.max_pool2d_with_indices,
    MAX_POOL2D_GRAD.name: convolution.max_pool2d_indices_grad,
    CROSS_ENTROPY.name: normalization.cross_entropy_and_probability,
    CHECKED_CROSS_ENTROPY.name: normalization.checked_cross_entropy,
    CROSS_ENTROPY_GRAD.name: normalization.cross_entropy_grad_of_probability,
    ADD_MATMUL.name: _add_matmul,
    ADD_MATMUL_RELU.name: _add_matmul_relu,
    ACCUMULATE_MATMUL.name: accumulate_matmul,
    ATTENTION.name: _attention,
    ATTENTION_GRAD.name: _attention_grad,
    MASK_BITS.name: _mask_bits,
    KEEP.name: keep,
}

# Those that take a workspace first.
WITH_WORKSPACE: Final[dict[str, Callable[..., Any]]] = {
    WINOGRAD_CONV2D.name: winograd.conv2d,
    WINOGRAD_CONV2D_INPUT_GRAD.name: winograd.conv2d_input_grad,
    WINOGRAD_CONV2D_WEIGHT_GRAD.name: winograd.conv2d_weight_grad,
}


def nodes_with_workspace(graph: Graph) -> list[Node]:
    """Those of a rewritten graph that take a workspace, in order."""
    return [node for node in graph.nodes if node.primitive.name in WITH_WORKSPACE]
