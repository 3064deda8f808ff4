"""Questions about dtypes: promotion, casting, limits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from accelkit import dtypes, registry
from accelkit.device import Device, current_device, devices
from accelkit.dtypes import DType
from accelkit.errors import DTypeError, OptionError, UnknownNameError
from accelkit.tensor import Tensor


class FloatInfo(NamedTuple):
    """Limits of a floating dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


class IntegerInfo(NamedTuple):
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: DType


def _dtype_of(x: Any) -> DType:
    return x.dtype if isinstance(x, Tensor) else dtypes.dtype(x)


def finfo(type: DType | Tensor | str, /) -> FloatInfo:
    """Limits of a floating dtype.

    Raises:
        DTypeError: for a dtype that is not floating.
    """
    found = _dtype_of(type)
    if not found.is_floating:
        raise DTypeError(f"finfo needs a floating dtype, got {found}.")
    if found is dtypes.bfloat16:
        import ml_dtypes

        info: Any = ml_dtypes.finfo(found.numpy)
    else:
        info = np.finfo(found.numpy)
    return FloatInfo(
        found.bits,
        float(info.eps),
        float(info.max),
        float(info.min),
        float(info.smallest_normal),
        found,
    )


def iinfo(type: DType | Tensor | str, /) -> IntegerInfo:
    """Limits of an integer dtype.

    Raises:
        DTypeError: for a dtype that is not an integer.
    """
    found = _dtype_of(type)
    if not found.is_integer:
        raise DTypeError(f"iinfo needs an integer dtype, got {found}.")
    info = np.iinfo(found.numpy)
    return IntegerInfo(found.bits, int(info.max), int(info.min), found)


def result_type(*arrays_and_dtypes: Any) -> DType:
    """The dtype that an operation on the arguments computes in.

    Raises:
        OptionError: without arguments.
        DTypeError: if they have no common dtype.
    """
    scalars = [x for x in arrays_and_dtypes if isinstance(x, bool | int | float)]
    strong = [_dtype_of(x) for x in arrays_and_dtypes if not isinstance(x, bool | int | float)]
    if not strong:
        if not scalars:
            raise OptionError("result_type needs at least one argument.")
        if any(isinstance(s, bool) for s in scalars):
            if not all(isinstance(s, bool) for s in scalars):
                raise DTypeError("bool and numbers do not promote to a common dtype.")
            return dtypes.bool_
        has_float = any(isinstance(s, float) for s in scalars)
        return dtypes.default_float if has_float else dtypes.default_int
    result = strong[0]
    for other in strong[1:]:
        result = dtypes.promote(result, other)
    for value in scalars:
        dtypes.promote_scalar(result, value)
    return result


def can_cast(from_: DType | Tensor, to: DType, /) -> bool:
    """Whether promotion alone leads from one dtype to the other."""
    try:
        return dtypes.promote(_dtype_of(from_), dtypes.dtype(to)) is dtypes.dtype(to)
    except DTypeError:
        return False


_KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "",
    "numeric": "iuf",
}


def isdtype(dtype: DType, kind: Any) -> bool:
    """Whether a dtype is of a kind (``"integral"``, ``"real floating"``, ...) or one of several."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str) and kind in _KINDS:
        return dtypes.dtype(dtype).kind in _KINDS[kind] and _KINDS[kind] != ""
    if isinstance(kind, str) and kind not in {d.name for d in dtypes.ALL}:
        raise UnknownNameError.of("kind of dtype", kind, {*_KINDS, *(d.name for d in dtypes.ALL)})
    return dtypes.dtype(dtype) is dtypes.dtype(kind)


class NamespaceInfo:
    """What this namespace can do: ``__array_namespace_info__`` of the Array API standard."""

    def capabilities(self) -> dict[str, Any]:
        """Features that the standard leaves open; data-dependent shapes not while tracing."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Device:
        """Where new tensors go."""
        return current_device()

    def devices(self) -> list[Device]:
        """All devices that can be used now."""
        return [info.device for info in devices()]

    def default_dtypes(self, *, device: Device | None = None) -> dict[str, DType]:
        """The dtypes of Python numbers and of indices."""
        return {
            "real floating": dtypes.default_float,
            "integral": dtypes.default_int,
            "indexing": dtypes.int64,
        }

    def dtypes(self, *, device: Device | None = None, kind: Any = None) -> dict[str, DType]:
        """The dtypes of a device, by name, all or those of a kind."""
        place = device or current_device()
        names = registry.backend(place.backend).dtype_names(place)
        known = (d for d in dtypes.ALL if d.name in names)
        return {d.name: d for d in known if kind is None or isdtype(d, kind)}


def __array_namespace_info__() -> NamespaceInfo:
    """The inspection interface of the Array API standard."""
    return NamespaceInfo()
