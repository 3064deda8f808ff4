"""Data types, and how they promote.

A :class:`DType` is a singleton with the name and semantics of the Python Array API standard
(https://data-apis.org/array-api/latest/API_specification/type_promotion.html), plus
``float16`` and ``bfloat16``. Python scalars are weak: they take the dtype of the tensor beside
them as long as their kind fits.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np

from accelkit.errors import DTypeError

__all__ = [
    "ALL",
    "DType",
    "bfloat16",
    "bool_",
    "default_float",
    "default_int",
    "dtype",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "promote",
    "promote_scalar",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]


class DType:
    """One element type. Compare with ``is`` or ``==``; also equal to its name.

    Attributes:
        name: The standard name, e.g. ``"float32"``.
        kind: ``"b"`` bool, ``"i"`` signed, ``"u"`` unsigned, ``"f"`` floating.
        itemsize: Size of one element in bytes.
    """

    __slots__ = ("bits", "itemsize", "kind", "name")

    def __init__(self, name: str, kind: str, itemsize: int) -> None:
        self.name: Final = name
        self.kind: Final = kind
        self.itemsize: Final = itemsize
        self.bits: Final = 8 * itemsize

    @property
    def is_floating(self) -> bool:
        """Whether this is a floating-point type, and so whether it can carry a gradient."""
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        """Whether this is a signed or unsigned integer type."""
        return self.kind in "iu"

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype of the same layout (``bfloat16`` is provided by ml_dtypes)."""
        return _numpy_dtype(self.name)

    def __repr__(self) -> str:
        return f"accelkit.{self.name}"

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, str) and other == self.name)

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return dtype, (self.name,)


bool_ = DType("bool", "b", 1)
int8 = DType("int8", "i", 1)
int16 = DType("int16", "i", 2)
int32 = DType("int32", "i", 4)
int64 = DType("int64", "i", 8)
uint8 = DType("uint8", "u", 1)
uint16 = DType("uint16", "u", 2)
uint32 = DType("uint32", "u", 4)
uint64 = DType("uint64", "u", 8)
float16 = DType("float16", "f", 2)
bfloat16 = DType("bfloat16", "f", 2)
float32 = DType("float32", "f", 4)
float64 = DType("float64", "f", 8)

ALL: Final = (
    bool_,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
    float16,
    bfloat16,
    float32,
    float64,
)
_BY_NAME: Final = {d.name: d for d in ALL}
default_float: Final = float32
default_int: Final = int64


@functools.cache
def _numpy_dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    found: np.dtype = np.dtype(name)
    return found


_PYTHON_TYPES: Final[dict[type, DType]] = {bool: bool_, int: default_int, float: default_float}


def dtype(spec: object) -> DType:
    """Find the dtype for a DType, a name, a NumPy dtype or scalar type, or a Python type.

    Raises:
        DTypeError: if ``spec`` names no supported type (complex types are not supported).
    """
    if isinstance(spec, DType):
        return spec
    try:
        return _find(spec)
    except TypeError as error:  # unhashable, or refused below
        if isinstance(error, DTypeError):
            raise
        raise _unsupported(spec) from None


def _unsupported(spec: object) -> DTypeError:
    return DTypeError(f"Unsupported dtype {spec!r}. Supported: {', '.join(_BY_NAME)}.")


@functools.lru_cache(maxsize=256)
def _find(spec: object) -> DType:
    if isinstance(spec, type) and spec in _PYTHON_TYPES:
        return _PYTHON_TYPES[spec]
    name = spec if isinstance(spec, str) else None
    if spec is None:  # NumPy's default dtype, which is nobody's wish here
        raise _unsupported(spec)
    if name is None:
        try:
            name = np.dtype(spec).name  # type: ignore[call-overload]
        except (TypeError, ValueError):
            name = str(spec)
    found = _BY_NAME.get(name)
    if found is None:
        raise _unsupported(spec)
    return found


@functools.cache
def promote(a: DType, b: DType) -> DType:
    """The dtype that an operation of ``a`` and ``b`` computes in.

    Within a kind the larger one; signed with unsigned the next larger signed type; float16 with
    bfloat16 gives float32. As in the standard, integer with floating and bool with number do
    not mix by themselves.

    Raises:
        DTypeError: where the standard leaves the promotion undefined.
    """
    if a is b:
        return a
    kinds = {a.kind, b.kind}
    if kinds == {"f"}:
        return float32 if a.itemsize == b.itemsize else max(a, b, key=lambda d: d.itemsize)
    if len(kinds) == 1:
        return max(a, b, key=lambda d: d.itemsize)
    if kinds == {"i", "u"}:
        signed, unsigned = (a, b) if a.kind == "i" else (b, a)
        if signed.itemsize > unsigned.itemsize:
            return signed
        if unsigned.itemsize < 8:
            return _BY_NAME[f"int{unsigned.bits * 2}"]
    raise DTypeError(
        f"{a} and {b} do not promote to a common dtype. Convert one of them with "
        f"`.astype(...)` first."
    )


def promote_scalar(tensor_dtype: DType, scalar: bool | int | float) -> DType:
    """The dtype of an operation between a tensor and a Python scalar: the tensor's own.

    Raises:
        DTypeError: if the scalar's kind does not fit, e.g. ``2.5`` beside an integer tensor.
    """
    kind = tensor_dtype.kind
    if isinstance(scalar, bool):
        fits = kind == "b"
    elif isinstance(scalar, int):
        fits = kind in "iuf"
    else:
        fits = kind == "f"
    if not fits:
        raise DTypeError(
            f"The Python {type(scalar).__name__} {scalar!r} does not fit a tensor of dtype "
            f"{tensor_dtype}. Convert the tensor with `.astype(...)` first."
        )
    return tensor_dtype
