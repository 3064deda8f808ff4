"""What is public is documented, and what the documents say is so."""

from __future__ import annotations

import builtins
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import accelkit_models
import pytest
from core.registrations import undone

import accelkit
from accelkit import errors

ROOT = Path(__file__).parents[2]


def modules() -> Iterator[ModuleType]:
    for package in (accelkit, accelkit_models):
        yield package
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not info.name.endswith("__main__"):
                yield importlib.import_module(info.name)


MODULES = {module.__name__: module for module in modules()}


def is_documented(value: Any) -> bool:
    """Whether it has a docstring of its own or of what it overrides; not a dataclass's default."""
    text = inspect.getdoc(value) or ""
    generated = inspect.isclass(value) and text.startswith(f"{value.__name__}(")
    return bool(text) and not generated


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines."""
    for name, value in vars(owner).items():
        if name.startswith("_"):
            continue
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(function):
            yield name, getattr(owner, name)  # with the documentation of what it overrides
        elif isinstance(function, property):
            yield name, function


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name: str) -> None:
    module = MODULES[name]
    assert module.__doc__, f"{name} has no docstring"
    undocumented = []
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)  # everything listed exists
        if not (inspect.isfunction(value) or inspect.isclass(value)):
            continue
        if not is_documented(value):
            undocumented.append(public)
        if inspect.isclass(value) and value.__module__ == name:
            undocumented += [f"{public}.{m}" for m, f in members(value) if not is_documented(f)]
    assert not undocumented


def test_the_namespace_has_no_undocumented_function() -> None:
    functions = {n: getattr(accelkit, n) for n in accelkit.__all__}
    assert not [n for n, f in functions.items() if callable(f) and not is_documented(f)]


def test_the_drawn_tree_of_errors_is_the_tree() -> None:
    text = errors.__doc__ or ""
    drawn = re.findall(r"[├└]── (\w+)", text)
    assert sorted([*drawn, "AccelkitError"]) == sorted(errors.__all__)
    for line in text.splitlines():
        match = re.match(r"(.*)[├└]── (\w+) *(?:\((\w+)\))?", line)
        if match is None:
            continue
        error = getattr(errors, match[2])
        parents = [b for b in error.__mro__[1:] if b.__name__ in errors.__all__]
        assert len(parents) == len(match[1]) // 4, line
        if match[3]:
            assert issubclass(error, getattr(builtins, match[3])), line


@pytest.fixture
def _nothing_stays_registered() -> Iterator[None]:
    with undone():
        yield


@pytest.mark.usefixtures("_nothing_stays_registered")
@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_examples_of_the_documents_run(document: str) -> None:
    if document == "README.md":
        pytest.importorskip("torch")
        pytest.importorskip("jax")
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    module = ModuleType("document")
    sys.modules["document"] = module  # dataclasses look their module up
    try:
        for block in blocks:
            exec(compile(block, document, "exec"), module.__dict__)
    finally:
        del sys.modules["document"]


def test_places_named_for_contributors_are_those_there_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| `")]
    missing = []
    named: set[Path] = set()
    for line in table:
        folder = ""
        for place in re.findall(r"`([\w./*]+)`", line.split("|")[1]):
            folder = place.rpartition("/")[0] if place.startswith(("accelkit", "tests")) else folder
            candidates = [place, f"accelkit/{place}", f"{folder}/{place}"]
            hits = (list(ROOT.glob(candidate.rstrip("/"))) for candidate in candidates)
            found = next(filter(None, hits), [])
            named.update(found)
            if not found:
                missing.append(place)
    assert not missing
    modules = {p for p in (ROOT / "accelkit").iterdir() if re.match(r"[a-z]\w*(\.py)?$", p.name)}
    assert modules <= named, f"not named: {sorted(p.name for p in modules - named)}"
