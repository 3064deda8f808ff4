"""How modules print: a tree of layers, and a table of what they declare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from accelkit.graph import TensorSpec
from accelkit.nn.containers import Sequential
from accelkit.nn.module import Module, ModuleSpec

__all__ = ["module_lines", "spec_lines"]


def module_lines(module: Module, name: str = "", indent: str = "") -> Iterator[str]:
    """One line per module, children below their parent; fields at their default are left out."""
    own = [f for f in _fields(module) if not _is_child(module, f) and not _is_default(module, f)]
    options = ", ".join(f"{f.name}={getattr(module, f.name)!r}" for f in own)
    children = list(_children(module))
    kind = type(module).__name__
    label = f"{indent}{name}: " if name else indent
    yield f"{label}{kind}({options})" if options or not children else f"{label}{kind}"
    for child_name, child in children:
        yield from module_lines(child, child_name, indent + "  ")


def _fields(module: Module) -> tuple[Field[Any], ...]:
    return tuple(f for f in fields(module) if f.repr) if is_dataclass(module) else ()


def _is_child(module: Module, field: Field[Any]) -> bool:
    return isinstance(module, Sequential) or isinstance(getattr(module, field.name), Module)


def _is_default(module: Module, field: Field[Any]) -> bool:
    # By their text: the equality of arrays is no single truth.
    return field.default is not MISSING and repr(getattr(module, field.name)) == repr(field.default)


def _children(module: Module) -> Iterator[tuple[str, Module]]:
    if isinstance(module, Sequential):
        yield from module.layers
        return
    for field in _fields(module):
        value = getattr(module, field.name)
        if isinstance(value, Module):
            yield field.name, value


def spec_lines(spec: ModuleSpec) -> Iterator[str]:
    """A table of parameters and state: name, shape, number of elements; the totals below."""
    rows = [(name, p.shape, p.size) for name, p in spec.parameters.items()]
    rows += [(f"{name} (state)", s.shape, s.size) for name, s in spec.state.items()]
    width = max((len(name) for name, _, _ in rows), default=0)
    shapes = max((len(str(shape)) for _, shape, _ in rows), default=0)
    for name, shape, size in rows:
        yield f"{name:{width}}  {shape!s:{shapes}}  {size:>13,}"
    yield f"{spec.parameter_count:,} parameters; output {_shown(spec.output)}"


def _shown(output: Any) -> str:
    """The spec of one result, or of several in their containers."""
    if isinstance(output, Mapping):
        return ", ".join(f"{name}: {_shown(part)}" for name, part in output.items())
    if isinstance(output, tuple | list) and not isinstance(output, TensorSpec):
        return f"({', '.join(map(_shown, output))})"
    return str(output)
