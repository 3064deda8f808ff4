"""What tensors do by operators and methods: each is a function of the :mod:`accelkit` namespace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from accelkit.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from accelkit.tensor import Tensor

__all__ = ["TensorMethods"]

_NUMBERS = (bool, int, float, np.generic)
_Operator = Callable[["Tensor", Any], "Tensor"]


def _method(name: str) -> Callable[..., Tensor]:
    """A method that calls the function of this name with the tensor first."""

    def method(self: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return _function(name)(self, *arguments, **options)

    method.__name__ = name
    method.__doc__ = f"See :func:`accelkit.{name}`."
    return method


def _reduction(name: str) -> Callable[..., Tensor]:
    """As :func:`_method`; the axis may be given by position, as in NumPy."""

    def method(self: Tensor, axis: Any = None, **options: Any) -> Tensor:
        return _function(name)(self, axis=axis, **options)

    method.__name__ = name
    method.__doc__ = f"See :func:`accelkit.{name}`."
    return method


def _forward(name: str) -> Callable[[Tensor, Any], Tensor]:
    """The operator that calls the function of this name; it refuses what is no number."""

    def operate(self: Tensor, other: Any) -> Tensor:
        if type(other) is type(self) or isinstance(other, _NUMBERS):
            return _function(name)(self, other)
        return _refused(other)

    return operate


def _reflected(name: str) -> Callable[[Tensor, Any], Tensor]:
    """As :func:`_forward`, for a tensor on the right-hand side."""

    def operate(self: Tensor, other: Any) -> Tensor:
        if isinstance(other, _NUMBERS):
            return _function(name)(other, self)
        return _refused(other)

    return operate


def _refused(other: Any) -> Tensor:
    """Python's own answer to an operand that is no number; NumPy's would mislead."""
    if isinstance(other, np.ndarray):
        raise DTypeError(
            f"A NumPy array of shape {other.shape} stands beside a tensor. Put it on the tensor's "
            f"device first: accelkit.asarray(array, device=tensor.device)."
        )
    answer: Tensor = NotImplemented
    return answer


@functools.cache
def _function(name: str) -> Callable[..., Tensor]:
    from accelkit import ops

    found: Callable[..., Tensor] = getattr(ops, name)
    return found


class TensorMethods:
    """The operators and methods of :class:`~accelkit.tensor.Tensor`, which computes by them."""

    __slots__ = ()

    __add__: ClassVar[_Operator] = _forward("add")
    __radd__: ClassVar[_Operator] = _reflected("add")
    __sub__: ClassVar[_Operator] = _forward("subtract")
    __rsub__: ClassVar[_Operator] = _reflected("subtract")
    __mul__: ClassVar[_Operator] = _forward("multiply")
    __rmul__: ClassVar[_Operator] = _reflected("multiply")
    __truediv__: ClassVar[_Operator] = _forward("divide")
    __rtruediv__: ClassVar[_Operator] = _reflected("divide")
    __floordiv__: ClassVar[_Operator] = _forward("floor_divide")
    __rfloordiv__: ClassVar[_Operator] = _reflected("floor_divide")
    __mod__: ClassVar[_Operator] = _forward("remainder")
    __rmod__: ClassVar[_Operator] = _reflected("remainder")
    __pow__: ClassVar[_Operator] = _forward("pow")
    __rpow__: ClassVar[_Operator] = _reflected("pow")
    __and__: ClassVar[_Operator] = _forward("bitwise_and")
    __rand__: ClassVar[_Operator] = _reflected("bitwise_and")
    __or__: ClassVar[_Operator] = _forward("bitwise_or")
    __ror__: ClassVar[_Operator] = _reflected("bitwise_or")
    __xor__: ClassVar[_Operator] = _forward("bitwise_xor")
    __rxor__: ClassVar[_Operator] = _reflected("bitwise_xor")
    __lshift__: ClassVar[_Operator] = _forward("bitwise_left_shift")
    __rlshift__: ClassVar[_Operator] = _reflected("bitwise_left_shift")
    __rshift__: ClassVar[_Operator] = _forward("bitwise_right_shift")
    __rrshift__: ClassVar[_Operator] = _reflected("bitwise_right_shift")
    __matmul__: ClassVar[_Operator] = _forward("matmul")
    __rmatmul__: ClassVar[_Operator] = _reflected("matmul")
    __eq__: ClassVar[_Operator] = _forward("equal")  # type: ignore[assignment]
    __ne__: ClassVar[_Operator] = _forward("not_equal")  # type: ignore[assignment]
    __lt__: ClassVar[_Operator] = _forward("less")
    __le__: ClassVar[_Operator] = _forward("less_equal")
    __gt__: ClassVar[_Operator] = _forward("greater")
    __ge__: ClassVar[_Operator] = _forward("greater_equal")
    __neg__ = _method("negative")
    __pos__ = _method("positive")
    __abs__ = _method("abs")
    __invert__ = _method("bitwise_invert")
    __getitem__ = _method("getitem")

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TypeError(
            "Tensors are immutable. Build a new one, for example with accelkit.where(mask, value, "
            "tensor) or accelkit.concat."
        )

    # --- shapes and reductions --------------------------------------------------------------------

    astype = _method("astype")
    flatten = _method("flatten")
    squeeze = _method("squeeze")
    expand_dims = _method("expand_dims")
    permute_dims = _method("permute_dims")
    swap_axes = _method("swap_axes")
    clip = _method("clip")
    abs = _method("abs")
    exp = _method("exp")
    log = _method("log")
    sqrt = _method("sqrt")
    square = _method("square")
    sum = _reduction("sum")
    mean = _reduction("mean")
    var = _reduction("var")
    std = _reduction("std")
    max = _reduction("max")
    min = _reduction("min")
    prod = _reduction("prod")
    all = _reduction("all")
    any = _reduction("any")
    argmax = _reduction("argmax")
    argmin = _reduction("argmin")

    def reshape(self: Any, *shape: Any) -> Tensor:
        """The same elements under another shape, given as a tuple or as numbers; -1 is deduced."""
        extents = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        return _function("reshape")(self, tuple(extents))

    @property
    def T(self: Any) -> Tensor:
        """The transpose of a matrix."""
        if self.ndim != 2:
            raise ShapeError(f"`.T` needs two axes, got shape {self.shape}.")
        return _function("swap_axes")(self, 0, 1)

    @property
    def mT(self: Any) -> Tensor:
        """The transpose of each matrix in a stack: the last two axes swapped."""
        if self.ndim < 2:
            raise ShapeError(f"`.mT` needs at least two axes, got shape {self.shape}.")
        return _function("swap_axes")(self, -2, -1)
