"""The recipes whose accuracies the README reports: they are read, and their parts fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelkit.training.assembly import assemble
from accelkit.training.options import parse_options

RECIPES = Path(__file__).parents[2] / "benchmarks" / "recipes"


@pytest.mark.parametrize(("name", "steps"), [("digits", 600), ("shapes", 800)])
def test_recipe_fits_its_data(name: str, steps: int) -> None:
    parts = assemble(parse_options([f"--config={RECIPES / name}.toml"]))
    assert (parts.steps, parts.model.classes) == (steps, 10)
    assert parts.evaluation_loader is not None
    training, held_out = parts.loader.plan.source, parts.evaluation_loader.plan.source
    assert repr(training) != repr(held_out)
    for loader in (parts.loader, parts.evaluation_loader):
        assert next(iter(loader)).image.shape[1:3] == parts.model.input_shape[:2]
        loader.close()


def test_every_recipe_is_tried() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.toml")) == ["digits", "shapes"]
