"""The Array API standard's namespace, and what it says about dtypes and devices."""

from __future__ import annotations

import numpy as np
import pytest

import accelkit as ak
from accelkit.errors import DTypeError, OptionError

# Everything of the standard's main namespace, 2024.12, but complex numbers.
STANDARD = [
    "__array_namespace_info__", "abs", "acos", "acosh", "add", "all", "any", "arange", "argmax",
    "argmin", "argsort", "asarray", "asin", "asinh", "astype", "atan", "atan2", "atanh",
    "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift",
    "bitwise_xor", "bool", "broadcast_arrays", "broadcast_to", "can_cast", "ceil", "clip",
    "concat", "copysign", "cos", "cosh", "count_nonzero", "cumulative_prod", "cumulative_sum",
    "diff", "divide", "e", "empty", "empty_like", "equal", "exp", "expand_dims", "expm1", "eye",
    "finfo", "flip", "float32", "float64", "floor", "floor_divide", "from_dlpack", "full",
    "full_like", "greater", "greater_equal", "hypot", "iinfo", "inf", "int16", "int32", "int64",
    "int8", "isdtype", "isfinite", "isinf", "isnan", "less", "less_equal", "linspace", "log",
    "log10", "log1p", "log2", "logaddexp", "logical_and", "logical_not", "logical_or",
    "logical_xor", "matmul", "matrix_transpose", "max", "maximum", "mean", "meshgrid", "min",
    "minimum", "moveaxis", "multiply", "nan", "negative", "newaxis", "nextafter", "nonzero",
    "not_equal", "ones", "ones_like", "permute_dims", "pi", "positive", "pow", "prod",
    "reciprocal", "remainder", "repeat", "reshape", "result_type", "roll", "round",
    "searchsorted", "sign", "signbit", "sin", "sinh", "sort", "sqrt", "square", "squeeze",
    "stack", "std", "subtract", "sum", "take", "take_along_axis", "tan", "tanh", "tensordot",
    "tile", "tril", "triu", "trunc", "uint16", "uint32", "uint64", "uint8", "unique_all",
    "unique_counts", "unique_inverse", "unique_values", "unstack", "var", "vecdot", "where",
    "zeros", "zeros_like",
]  # fmt: skip


def test_namespace() -> None:
    assert ak.zeros(1).__array_namespace__() is ak
    assert ak.zeros(1).__array_namespace__(api_version="2024.12") is ak
    with pytest.raises(OptionError, match=r"2024.12"):
        ak.zeros(1).__array_namespace__(api_version="1999.01")
    missing = [name for name in STANDARD if not hasattr(ak, name)]
    assert missing == []
    assert set(ak.__all__) <= set(dir(ak))


def test_inspection() -> None:
    info = ak.__array_namespace_info__()
    assert info.default_device() is ak.device("numpy")
    assert info.default_device() in info.devices()
    assert info.default_dtypes()["real floating"] == "float32"
    assert set(info.dtypes(kind="signed integer")) == {"int8", "int16", "int32", "int64"}
    assert info.dtypes(kind=("bool", "real floating"))["bool"] is ak.bool
    assert info.capabilities()["boolean indexing"] is True


def test_dtype_questions() -> None:
    assert ak.isdtype(ak.float32, "real floating")
    assert ak.isdtype(ak.int8, ("bool", "signed integer"))
    assert not ak.isdtype(ak.int8, "complex floating")
    assert ak.can_cast(ak.int8, ak.int16)
    assert not ak.can_cast(ak.int16, ak.int8)
    assert not ak.can_cast(ak.int16, ak.float32)
    assert ak.finfo(ak.float32).eps == np.finfo("float32").eps
    assert ak.finfo("bfloat16").bits == 16
    assert ak.iinfo(ak.zeros(1, dtype="uint8")).max == 255
    assert ak.result_type(ak.int8, 3, ak.uint8) == "int16"
    assert ak.result_type(1, 2.0) == "float32"
    for call in (lambda: ak.finfo(ak.int8), lambda: ak.iinfo(ak.float32)):
        with pytest.raises(DTypeError, match="dtype, got"):
            call()
    with pytest.raises(DTypeError, match=r"Python float 1.5 does not fit"):
        ak.result_type(ak.int8, 1.5)
    with pytest.raises(OptionError, match="at least one argument"):
        ak.result_type()
