"""The stored result, its tables, pictures, and the README's part."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import layers, overheads, plots, readme, report
from benchmarks.measure import Plan, Result
from benchmarks.results_file import SCHEMA_VERSION, Measured, Report
from benchmarks.workload import Workload

ENVIRONMENT = {
    "cpu": "a processor",
    "threads": 2,
    "platform": "a system",
    "python": "3",
    "commit": "abc",
    "started": "now",
}


def result(name: str, *turns: float, memory: int = 2**30, error: str | None = None) -> Result:
    """A program with two samples per turn."""
    return Result(
        name,
        version=f"{name} 1",
        losses=[1.0, 1.0],
        loss=7.0,
        import_s=1.0,
        build_s=0.5,
        first_step_s=10.0,
        turns_s={i: [s, s] for i, s in enumerate(turns)},
        peak_memory_bytes=memory,
        error=error,
    )


@pytest.fixture
def found() -> Report:
    measured = Measured(Workload("alexnet", 32, 2))
    first = [
        result("torch-eager", 0.3, 0.3, memory=2**29),
        result("torch-channels-last", 0.2, 0.2),
        result("jax-jit", error="it broke|here\nwith details"),
        result("keras-torch", 0.4, 0.4),
        result("accelkit-torch", 0.1, 0.3, memory=2**31),
    ]
    measured.add(first, Plan(turns=2), started="now", commit="abc")
    second = [result("tinygrad-opencl", 9.0), result("accelkit-opencl", 0.3, 0.3)]
    measured.add(second, Plan(turns=2), started="later", commit="abc")
    sections = {
        "machine": {"peak_flops": 2e11, "peak_bytes_per_s": 2e10, "products": {}},
        "layers": {
            "batch_size": 2,
            "backends": {
                "numpy": {
                    "compiled_step_s": 0.5,
                    "nodes": [
                        {
                            "layer": "conv1",
                            "primitive": "conv2d",
                            "phase": "forward",
                            "duration_s": 0.25,
                            "flops": 10**10,
                            "traffic_bytes": 10**8,
                        },
                        {
                            "layer": "",
                            "primitive": "less",
                            "phase": "update",
                            "duration_s": 1e-6,
                            "flops": 1,
                            "traffic_bytes": 8,
                        },
                    ],
                },
                "jax": {"error": "no such device"},
            },
        },
        "overheads": {
            "imports_s": {"accelkit": 0.1},
            "backends": {
                "numpy": {
                    "dispatch_us": {
                        name: [3.0, 1.0] for name in ("add", "multiply", "exp", "sum", "matmul")
                    },
                    "stages_s": dict.fromkeys(overheads.STAGES, 0.125),
                    "step_s": 0.25,
                    "small_step_s": 0.0005,
                    "primitives": [150, 128],
                    "memory_bytes": [2**30, 2**31, None],
                },
                "opencl": {"error": "no driver"},
            },
        },
    }
    return Report(dict(ENVIRONMENT), {"alexnet-train": measured}, sections)


def test_figures(found):
    figures = {f.name: f for f in found.workloads["alexnet-train"].figures()}
    ours = figures["accelkit-torch"]
    assert ours.native.rival == "torch-channels-last"
    assert ours.native.time == pytest.approx((0.5 + 1.5) / 2)
    assert ours.memory == 4  # the one that needs least is not the fastest
    assert ours.peer.rival == "keras-torch"
    assert ours.peer.time == pytest.approx((0.25 + 0.75) / 2)
    assert ours.best.rival == "torch-channels-last"
    assert ours.step_s == pytest.approx(0.2)
    assert ours.examples_per_s == pytest.approx(160)
    assert ours.compile_s == pytest.approx(9.8)
    assert figures["torch-eager"].native.time == pytest.approx(1.5)
    assert figures["torch-channels-last"].native == ("torch-channels-last", 1.0)
    assert figures["torch-channels-last"].memory == 2
    # Programs of different runs are not compared, slow ones in the turns that they took.
    opencl = figures["accelkit-opencl"]
    assert opencl.native is None
    assert opencl.memory is None
    assert opencl.best is None
    assert opencl.peer.time == pytest.approx(0.3 / 9)
    assert "jax-jit" not in figures
    assert found.workloads["alexnet-train"].problems() == [
        "jax-jit failed: it broke|here\nwith details"
    ]


def test_layers_of_a_baseline_stand_beside_those_of_now(found):
    section = found.sections["layers"]
    assert "Before and now" not in layers.markdown(section)
    node = {**section["backends"]["numpy"]["nodes"][0], "primitive": "pad", "duration_s": 0.125}
    earlier = {"commit": "abc1", "compiled_step_s": 0.75, "nodes": [node]}
    section["baseline"] = {
        "backends": {"numpy": earlier, "jax": earlier, "torch": {"error": "no torch then"}}
    }
    text = layers.markdown(section)
    assert "(commit abc1)" in text
    table = [line.replace(" ", "") for line in text[text.index("### Before") :].splitlines()]
    assert "|primitive|numpy|" in table  # JAX has no figure now
    assert "|conv2d|→250.0|" in table
    assert "|pad|125.0→|" in table
    assert "|compiledstep|750.0→500.0|" in table
    assert not any(line.startswith("|less|") for line in table)
    assert "torch failed: no torch then" in text


def test_losses_of_the_workload_itself_are_compared_where_nothing_is_random():
    for task, count in (("train", 0), ("infer", 1)):
        measured = Measured(Workload("alexnet", 32, 2, task=task))
        results = [result(n, 1.0) for n in ("torch-eager", "jax-jit", "accelkit-jax")]
        results[2].loss = 7.01
        measured.add(results, Plan(), started="now", commit=None)
        assert len(measured.problems()) == count
    assert "accelkit-jax: its first loss 7.01 differs from 7.0" in measured.problems()[0]


def test_a_stored_report_is_read_back(found, tmp_path):
    path = tmp_path / "new" / "results.json"
    found.write(path)
    again = Report.read(path)
    assert again.to_json() == json.loads(json.dumps(found.to_json()))
    stored = json.loads(path.read_text())
    stored["schema_version"] = SCHEMA_VERSION + 1
    with pytest.raises(ValueError, match="expected 2: measure again"):
        Report.from_json(stored)


def test_markdown(found):
    text = report.markdown(found)
    tables = re.split(r"\n\n", text)
    for table in (part for part in tables if part.startswith("|")):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    assert "| accelkit on PyTorch | 200 |" in text
    assert "| 1.000 | 0.500 | 1.000 |" in text
    assert "failed: it broke\\|here" in text
    assert "with details" not in text
    for words in (
        "200 GFLOP/s",
        "conv1",
        "| others |",
        "3.0 / 1.0",
        "opencl failed: no driver",
        "250.00 = 250.0 + 0.0 + 0.0",
        "| 2,000 |",
        "150 / 128",
    ):
        assert words in text


def test_pictures(found, tmp_path):
    pytest.importorskip("matplotlib")
    paths = plots.draw(found, tmp_path)
    names = {path.name for path in paths}
    assert names == {"alexnet-train.png", "ratios.png", "roofline.png"}
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5_000


class TestReadme:
    def test_the_part_between_the_markers_is_replaced(self, found):
        text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
        new = readme.replaced(text, found)
        assert new.startswith(f"before\n{readme.BEGIN}\n")
        assert new.endswith(f"{readme.END}\nafter\n")
        assert "old" not in new
        assert "| accelkit on PyTorch | 200 |" in new
        over_native, _, rest = new.partition("Over ")
        assert "| workload | torch |" in over_native
        assert "| alexnet-train | 1.00 |" in over_native
        assert "Over the fastest of all other programs" in rest
        assert readme.replaced(new, found) == new

    def test_missing_markers_are_an_error(self, found):
        with pytest.raises(ValueError, match="needs the lines"):
            readme.replaced("no markers", found)

    def test_the_repositorys_readme_is_the_one_generated(self, capsys):
        assert readme.main(["--check"]) == 0, capsys.readouterr().err

    def test_the_stored_result_is_a_report_with_its_pictures(self):
        stored = Report.read(readme.STORED)
        folder = readme.STORED.parent
        assert (folder / "README.md").read_text(encoding="utf-8") == report.markdown(stored)
        for name, measured in stored.workloads.items():
            assert measured.figures()
            assert (folder / f"{name}.png").exists()
            assert not measured.failures()
