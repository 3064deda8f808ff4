"""The benchmark of elementwise kernels and reductions: what it counts, checks and writes."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyopencl", reason="the OpenCL backend's extra is not installed")

from benchmarks import opencl_elementwise
from benchmarks.opencl_elementwise import CASES, Case, Lab, Measurement, main


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab("opencl")


def moved_bytes(lab: Lab, name: str, elements: int) -> int:
    (case,) = (c for c in CASES if c.name == name)
    return lab.runner(case, elements)[1]


def test_bytes_are_those_of_inputs_and_results(lab: Lab) -> None:
    assert moved_bytes(lab, "a * b + c", 4096) == 4 * 4 * 4096
    assert moved_bytes(lab, "compare", 4096) == (4 + 4 + 1) * 4096
    assert moved_bytes(lab, "SGD update", 4096) == 5 * 4 * 4096 + 4  # and the learning rate
    assert moved_bytes(lab, "sum of rows", 4096) == 4 * 4096 + 4 * 4


def test_data_in_the_cache_is_gone_through_as_often_as_it_fits(lab: Lab) -> None:
    case = next(c for c in CASES if c.name == "relu")
    found = opencl_elementwise.measure(lab, case, 8192, 3, time.perf_counter, cached_elements=2048)
    assert found.cached_bytes == found.moved_bytes == found.copied_bytes == 2 * 4 * 8192
    assert len(found.cached_s) == len(found.case_s) == len(found.copy_s) == 3
    small = opencl_elementwise.measure(lab, case, 1024, 1, time.perf_counter)
    assert small.cached_bytes == small.moved_bytes  # all of it fits


def test_ratio_is_of_rates() -> None:
    found = Measurement("x", moved_bytes=300, copied_bytes=100, cached_bytes=150)
    found.case_s, found.cached_s, found.copy_s = [6.0, 9.0], [6.0, 2.0], [1.0, 3.0]
    assert found.bandwidth == 50.0
    assert found.times_copy == 2.0
    assert found.median_times_copy == 1.5
    assert found.cached_times_copy == pytest.approx(4 / 3)
    assert str(found).split() == ["x", "6000.000", "ms", "0.00", "GB/s", "2.00", "1.50", "1.33"]


def test_updates_take_their_own_results(lab: Lab) -> None:
    case = next(c for c in CASES if c.name == "SGD update")
    run, _ = lab.runner(case, 4096)
    run()  # would fail on donated arguments if it took the old ones
    assert lab.check(case) <= opencl_elementwise.DEVIATION


def test_command_measures_and_writes_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    arguments = ["--elements", "4096", "--rounds", "2", "--only", "tanh,sum of rows"]
    arguments += ["--clock", "processor", "--cached-elements", "2048"]
    assert main([*arguments, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [m["name"] for m in report["measurements"]] == ["tanh", "sum of rows"]
    for measurement in report["measurements"]:
        assert len(measurement["case_s"]) == len(measurement["copy_s"]) == 2
        assert len(measurement["cached_s"]) == 2
        assert min(measurement["case_s"]) > 0
        assert measurement["cached_times_copy"] > 0
    assert report["schema_version"] == opencl_elementwise.SCHEMA_VERSION
    assert report["cached_elements"] == 2048
    _, _, header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["best", "rate", "best", "median", "in", "cache"]
    assert [row[:20].strip() for row in rows] == ["tanh", "sum of rows"]
    assert {len(row) for row in rows} == {len(header)}


def test_wrong_results_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Lab, "check", lambda self, case: float("nan"))
    monkeypatch.setattr(opencl_elementwise, "CASES", (Case("relu", lambda x: x),))
    assert main(["--elements", "1024", "--rounds", "1"]) == 1
    assert "relu: results deviate" in capsys.readouterr().err


@pytest.mark.parametrize(
    "bad",
    [
        ["--elements", "1000"],
        ["--cached-elements", "0"],
        ["--rounds", "0"],
        ["--only", "nothing"],
    ],
)
def test_bad_usage(bad: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(bad)
    assert error.value.code == 2


def test_names_are_unique_and_arguments_have_the_size_asked_for() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        arrays = case.arrays(2048)
        assert len(arrays) == len(case.inputs)
        assert max(array.size for array in arrays) == 2048
        again = dataclasses.replace(case).arrays(2048)
        assert all(np.array_equal(a, b) for a, b in zip(arrays, again, strict=True))
