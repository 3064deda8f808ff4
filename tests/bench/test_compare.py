"""Comparing two reports."""

from __future__ import annotations

import copy
import json

import pytest

from accelkit.bench.compare import check_comparable, compare, read_report
from accelkit.bench.report import SCHEMA_VERSION, document, failed_result, write_json
from accelkit.bench.settings import Settings
from accelkit.errors import OptionError

SETTINGS = Settings("numpy", "lenet5", batch_size=4)
ENVIRONMENT = {
    "cpu": "Some processor, 2 cores",
    "threads": 2,
    "devices": {"torch:cuda:0": {"description": "Some GPU"}},
}


def result(device: str = "numpy:cpu:0", median: float = 1.0, peak: int | None = 1000) -> dict:
    found = failed_result(SETTINGS, device, "")
    return found | {
        "error": None,
        "step_time_s": {"median": median},
        "peak_memory_bytes": peak,
        "peak_memory_method": "read somehow",
    }


def report(*results: dict) -> dict:
    return json.loads(json.dumps(document(ENVIRONMENT, SETTINGS, results)))


def regressions(old: dict, new: dict, fail_over: float) -> list[str]:
    return [line for entry in compare(old, new) for line in entry.regressions(fail_over)]


def test_a_slower_step_is_a_regression_only_beyond_the_limit():
    old, new = report(result(median=1.0)), report(result(median=1.1))
    assert regressions(old, new, 0.11) == []
    (line,) = regressions(old, new, 0.09)
    assert line == "numpy:cpu:0: step time grew by 10.0%, more than 9.0%"


def test_faster_and_smaller_is_none():
    old, new = report(result()), report(result(median=0.5, peak=500))
    assert regressions(old, new, 0.0) == []
    assert compare(old, new)[0].growth() == {"step time": -0.5, "peak memory": -0.5}


def test_more_memory_is_a_regression():
    (line,) = regressions(report(result(peak=1000)), report(result(peak=1200)), 0.1)
    assert line == "numpy:cpu:0: peak memory grew by 20.0%, more than 10.0%"


@pytest.mark.parametrize("change", [{"peak_memory_bytes": None}, {"peak_memory_method": "other"}])
def test_memory_that_was_read_otherwise_is_not_compared(change):
    (entry,) = compare(report(result(peak=1000)), report(result(peak=9000) | change))
    assert entry.memories_bytes is None
    assert list(entry.growth()) == ["step time"]


def test_a_backend_that_fails_now_is_a_regression():
    for device in ("numpy:cpu:0", "numpy"):  # the second failed before its device was known
        new = report(failed_result(SETTINGS, device, "it broke"))
        (line,) = regressions(report(result()), new, 10.0)
        assert line == "numpy:cpu:0 was measured before and fails now: it broke"


def test_devices_without_a_counterpart_are_left_out():
    old = report(result("numpy:cpu:0"), failed_result(SETTINGS, "jax", "it broke"))
    new = report(result("numpy:cpu:0"), result("jax:cpu:0"), failed_result(SETTINGS, "tpu", "no"))
    assert [entry.device for entry in compare(old, new)] == ["numpy:cpu:0"]


def test_another_device_behind_the_same_name_is_refused():
    old, new = report(result("torch:cuda:0")), report(result("torch:cuda:0"))
    new["environment"]["devices"]["torch:cuda:0"]["description"] = "Another GPU"
    with pytest.raises(OptionError, match="was 'Some GPU' in the --compare report"):
        compare(old, new)


def test_reports_of_the_same_machine_and_settings_are_comparable():
    old = report(result())
    settings = copy.deepcopy(old["settings"]) | {"steps": 99, "warmup": 9, "time_limit_s": 5}
    check_comparable(old, ENVIRONMENT, settings, ["numpy", "jax"])


@pytest.mark.parametrize(
    ("environment", "settings", "backends", "words"),
    [
        ({"cpu": "Another"}, {}, ["numpy"], "of another machine: it has cpu 'Some processor"),
        ({"threads": 4}, {}, ["numpy"], "of another machine: it has threads 2, now 4"),
        ({}, {"batch_size": 8}, ["numpy"], "of other settings: it has batch_size 4, now 8"),
        ({}, {"precision": "tf32"}, ["numpy"], "precision 'float32', now 'tf32'"),
        ({}, {}, ["jax", "torch"], "no figures of jax, torch, only of numpy"),
    ],
)
def test_what_cannot_be_compared_is_refused(environment, settings, backends, words):
    old = report(result())
    with pytest.raises(OptionError) as caught:
        check_comparable(old, ENVIRONMENT | environment, old["settings"] | settings, backends)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "is no report of this benchmark"),
        ('{"traceEvents": []}', "it has no schema_version, environment, settings, results"),
        (json.dumps(report(result()) | {"schema_version": 99}), "has schema version 99"),
        (json.dumps(report(result()) | {"environment": "x"}), "it has no environment."),
        (json.dumps(report(result()) | {"settings": [1]}), "it has no settings."),
        (json.dumps(report(result()) | {"results": "x"}), "it has no results."),
        (json.dumps(report(result()) | {"results": ["x"]}), "no devices with their figures"),
        (json.dumps(report({"backend": "a", "device": "a", "error": None})), "with their figures"),
    ],
)
def test_files_that_are_no_reports_are_refused(text, words, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(OptionError) as caught:
        read_report(path)
    assert words in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        read_report(tmp_path / "none.json")


def test_reading_gives_what_was_written(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(report(result())))
    assert read_report(path) == report(result())
    assert read_report(path)["schema_version"] == SCHEMA_VERSION


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    path, limits = tmp_path / "report.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OptionError, match=r"report\.json could not be written: File too large"):
            write_json(path, ["x" * 1000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
