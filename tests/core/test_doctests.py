"""The examples in the documentation run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
from core.registrations import undone

import accelkit

MODULES = [
    "accelkit",
    *sorted(
        info.name
        for info in pkgutil.walk_packages(accelkit.__path__, "accelkit.")
        if not info.name.endswith("__main__")
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    with undone():
        failed, _ = doctest.testmod(module, optionflags=flags)
    assert failed == 0


def test_there_are_examples_of_the_main_functions() -> None:
    finder = doctest.DocTestFinder()
    for function in (
        accelkit.grad,
        accelkit.jit,
        accelkit.vjp,
        accelkit.cond,
        accelkit.scan,
        accelkit.trace,
        accelkit.Tensor,
        accelkit.primitive,
        accelkit.custom_vjp,
        accelkit.device,
        accelkit.default_device,
    ):
        found = finder.find(function, function.__name__, module=False)
        assert any(test.examples for test in found), function.__name__
