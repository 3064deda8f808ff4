"""Traced functions as TensorFlow's runtime keeps them, without what traced them.

A traced function holds a graph of Python objects, and with each operation the Python stack at which
it was made; whatever compiles the graph writes those stacks out as text, line by line. A step of a
vision transformer, of 6,400 operations, keeps 80 MB less without them. So the definition alone is
registered, under another name: what was traced can go.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

__all__ = ["runtime_function"]

_numbers: Final = itertools.count()


def runtime_function(traced: Any) -> Callable[[list[Any]], Sequence[Any]]:
    """A call of what a ``ConcreteFunction`` computes: a list of tensors to a list of tensors.

    Operands are not compared with the signature, which would take longer than a small program.
    Where a version of TensorFlow has moved what this needs, it is the traced function itself.
    """
    context = _context()
    if context is None:
        return lambda inputs: traced(*inputs)
    return _Registered(context, traced)


def _context() -> Any:
    """TensorFlow's eager context, None where a version has moved it."""
    try:
        from tensorflow.python.eager import context
    except ImportError:
        return None
    found = context.context()
    needed = ("add_function_def", "call_function", "get_function_def", "remove_function")
    return found if all(hasattr(found, name) for name in needed) else None


class _Registered:
    """A function of the runtime, and those that it calls; they go with this object.

    Args:
        context: TensorFlow's eager context.
        traced: A ``ConcreteFunction``, which is not kept.
    """

    def __init__(self, context: Any, traced: Any) -> None:
        self._context = context
        self._captured = list(traced.captured_inputs)
        self._count = len(traced.outputs)
        names: dict[str, str] = {}
        self._name = _register(context, traced.function_def.signature.name, names).encode()
        # at the end of the process the context goes with all that it has
        weakref.finalize(self, _remove, context, tuple(names.values())).atexit = False

    def __call__(self, inputs: list[Any]) -> Sequence[Any]:
        found = self._context.call_function(self._name, inputs + self._captured, self._count)
        return found or []


def _register(context: Any, name: str, names: dict[str, str]) -> str:
    """Register a function and what it calls by new names, which ``names`` gets."""
    if name not in names:
        definition = context.get_function_def(name)
        for called in _calls(definition):
            called.name = _register(context, called.name, names)
        definition.signature.name = names[name] = f"accelkit_{next(_numbers)}_{name}"
        context.add_function_def(definition)
    return names[name]


def _calls(definition: Any) -> Iterator[Any]:
    """The ``NameAttrList`` of each function that a ``FunctionDef`` calls."""
    for node in definition.node_def:
        for attribute in node.attr.values():
            if attribute.HasField("func"):
                yield attribute.func
            yield from attribute.list.func


def _remove(context: Any, names: Sequence[str]) -> None:
    for name in names:
        context.remove_function(name)
