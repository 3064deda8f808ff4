"""The command as users run it: a process, its output, its exit status."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import accelkit as ak
from accelkit import bench
from accelkit.bench.processes import request
from accelkit.bench.report import RESULT_FIELDS, SCHEMA_VERSION

TINY = ("--model", "lenet5", "--batch-size", "2", "--steps", "3", "--warmup", "1")
NUMPY = ("--backend", "numpy", *TINY)

BROKEN = "raise RuntimeError('the driver is on fire')\n"
MISSING = "import a_framework_that_nobody_installed\n"
CRASHING = """
import os, signal, sys
print("about to crash", file=sys.stderr, flush=True)
os.kill(os.getpid(), signal.SIGABRT)
"""
CHATTY = """
from accelkit_numpy import NumpyBackend
print("this goes to standard output")
class Backend(NumpyBackend):
    name = "chatty"
"""


def load(path: Path) -> dict:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_report_holds_everything_that_was_measured(bench, tmp_path):
    done = bench(*NUMPY, "--json", "out.json", "--seed", "5")
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "out.json")
    assert list(report) == ["schema_version", "environment", "settings", "results"]
    assert report["schema_version"] == SCHEMA_VERSION
    environment = report["environment"]
    for name in ("accelkit", "commit", "python", "platform", "cpu", "memory_bytes", "threads"):
        assert name in environment
    assert environment["versions"]["numpy"]
    assert environment["devices"]["numpy:cpu:0"]["driver"].startswith("numpy ")
    assert report["settings"]["seed"] == 5
    assert report["settings"]["input_shape"] == [28, 28, 1]
    (result,) = report["results"]
    assert tuple(result) == RESULT_FIELDS
    assert set(result["step_time_s"]) == {"median", "p95", "min", "iqr", "samples"}
    assert len(result["step_time_s"]["samples"]) == 3
    assert len(result["losses"]) == 4
    assert all(map(math.isfinite, result["losses"]))
    assert result["error"] is None


def test_without_a_terminal_there_are_plain_lines_and_a_table(bench):
    done = bench(*NUMPY)
    assert done.returncode == 0, done.stderr
    assert "[1/1] numpy: compiling\n" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    for column in ("device", "compile s", "step ms", "IQR", "p95", "images/s", "GFLOP/s"):
        assert column in done.stdout
    for column in ("peak MiB", "first loss", "last loss", "difference", "numpy:cpu:0"):
        assert column in done.stdout
    assert "process resident set" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_on_a_terminal_there_is_a_progress_bar(tmp_path):
    import pty

    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "accelkit.bench", *NUMPY],
        stdout=subprocess.PIPE,
        stderr=secondary,
        cwd=tmp_path,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            part = os.read(primary, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(primary)
    assert process.communicate()[0]
    assert process.returncode == 0
    assert "━".encode() in shown
    assert b"[1/1]" not in shown


def test_a_profile_is_printed_and_its_trace_written(bench, tmp_path):
    done = bench(*NUMPY, "--profile", "trace.json")
    assert done.returncode == 0, done.stderr
    assert "numpy:cpu:0: time per layer" in done.stdout
    assert "numpy:cpu:0: time per primitive" in done.stdout
    assert load(tmp_path / "trace.json")["traceEvents"]


def test_the_trace_has_a_name_by_default(bench, tmp_path):
    done = bench(*NUMPY, "--profile")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "accelkit-trace.json").exists()


def test_a_report_compares_with_an_earlier_one(bench, tmp_path):
    assert bench(*NUMPY, "--json", "old.json").returncode == 0
    compare = (*NUMPY, "--compare", "old.json")
    assert bench(*compare).returncode == 0
    assert bench(*compare, "--fail-over", "1e9").returncode == 0
    old = load(tmp_path / "old.json")
    old["results"][0]["step_time_s"]["median"] = 1e-9
    (tmp_path / "old.json").write_text(json.dumps(old))
    done = bench(*compare, "--fail-over", "5%")
    assert done.returncode == 3
    assert "REGRESSION: numpy:cpu:0: step time grew by" in done.stderr
    assert "Compared with" in done.stdout


def test_comparing_with_other_settings_is_refused_before_measuring(bench, tmp_path):
    assert bench(*NUMPY, "--json", "old.json").returncode == 0
    done = bench(*NUMPY, "--batch-size", "3", "--compare", "old.json")
    assert done.returncode == 2
    assert "batch_size 2, now 3" in done.stderr
    assert "compiling" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--backend", "nmpy"), "Unknown backend 'nmpy'. Did you mean 'numpy'?"),
        (("--device", "numpy:cuda"), "has no device 'numpy:cuda'. It has: numpy:cpu:0."),
        (("--device", "numpy:cpu:x"), "does not name a device"),
        (("--backend", "numpy", "--image-size", "20"), "Layer 'features.5' (MaxPool2d)"),
        (("--backend", "numpy", "--json", "."), "is a folder"),
        (("--steps", "many"), "invalid int value: 'many'"),
        (("--stps", "3"), "unrecognized arguments: --stps 3"),
    ],
)
def test_bad_options_end_with_status_2_and_no_traceback(bench, arguments, words):
    done = bench(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "compiling" not in done.stderr


@pytest.mark.parametrize("ask", [{"arguments": ("--traceback",)}, {"ACCELKIT_TRACEBACK": "1"}])
def test_tracebacks_on_request(bench, ask):
    done = bench("--backend", "nmpy", *ask.pop("arguments", ()), **ask)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "UnknownNameError" in done.stderr


def test_a_broken_backend_is_a_row_and_the_others_go_on(bench, plug_in, tmp_path):
    path = plug_in("broken", BROKEN)
    done = bench("--backend", "broken,numpy", *TINY, "--json", "out.json", PYTHONPATH=path)
    assert done.returncode == 1
    broken, numpy = load(tmp_path / "out.json")["results"]
    assert tuple(broken) == tuple(numpy) == RESULT_FIELDS
    assert broken["backend"] == "broken"
    assert "the driver is on fire" in broken["error"]
    assert broken["step_time_s"] is None
    assert numpy["error"] is None
    assert "broken FAILED" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_crash_of_a_framework_is_a_row_with_its_last_words(bench, plug_in):
    path = plug_in("crashing", CRASHING)
    done = bench("--backend", "crashing,numpy", *TINY, PYTHONPATH=path)
    assert done.returncode == 1
    assert "killed by SIGABRT" in done.stdout
    assert "about to crash" in done.stdout
    assert "numpy:cpu:0" in done.stdout


def test_a_missing_framework_fails_if_asked_for_by_name(bench, plug_in):
    path = plug_in("missing", MISSING)
    done = bench("--backend", "missing,numpy", *TINY, PYTHONPATH=path)
    assert done.returncode == 1
    assert "a_framework_that_nobody_installed" in done.stdout


def test_what_a_framework_prints_does_not_disturb(bench, plug_in):
    path = plug_in("chatty", CHATTY)
    done = bench("--backend", "chatty", *TINY, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "this goes to standard output" not in done.stdout


def test_the_list_names_devices_models_and_reasons(bench, plug_in):
    done = bench("--list", PYTHONPATH=plug_in("broken", BROKEN))
    assert done.returncode == 0, done.stderr
    assert "numpy:cpu:0: " in done.stdout
    assert "broken: unavailable: " in done.stdout
    assert "the driver is on fire" in done.stdout
    assert "alexnet --variant 2012: 60,965,224 parameters" in done.stdout


def test_help_has_examples(bench):
    done = bench("--help")
    assert done.returncode == 0
    assert "python -m accelkit.bench --backend all" in done.stdout


@pytest.mark.slow
def test_all_means_all_that_are_installed_and_they_agree_on_the_losses(bench, plug_in, tmp_path):
    path = plug_in("missing", MISSING)
    done = bench(*TINY, "--backend", "all", "--json", "out.json", PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing: left out: " in done.stderr
    usable = {info.device.backend for info in ak.devices()}
    results = load(tmp_path / "out.json")["results"]
    assert {result["backend"] for result in results} == usable
    assert len({result["flops_per_step"] for result in results}) == 1
    for result in results:
        assert result["losses"] == pytest.approx(results[0]["losses"], rel=1e-5)


def test_a_kind_that_no_backend_has_is_an_error(bench):
    done = bench(*TINY, "--backend", "numpy", "--device", "tpu")
    assert done.returncode == 2
    assert "has no device 'numpy:tpu'" in done.stderr


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Children do as well: they would ignore SIGINT where a shell started us in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.usefixtures("heeds_interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_workers_and_writes_nothing(number, tmp_path):
    command = [
        *(sys.executable, "-m", "accelkit.bench", "--backend", "numpy", "--model", "lenet5"),
        *("--steps", "100000", "--json", "out.json"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step" in line:
                break
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_closing_a_request_ends_its_worker():
    settings = bench.Settings("numpy", "lenet5", batch_size=2, steps=100000)
    events = request("measure", threads=1, settings=settings.to_json(), profile=False)
    before = set(psutil.Process().children())
    assert next(events)["event"] == "stage"
    (worker,) = set(psutil.Process().children()) - before
    events.close()
    _, alive = psutil.wait_procs([worker], timeout=10)
    assert alive == []


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs processor affinity")
def test_workers_use_the_threads_they_are_given(tmp_path, bench):
    done = bench(*NUMPY, "--threads", "1", "--json", "out.json")
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "out.json")["environment"]["threads"] == 1
