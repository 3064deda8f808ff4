"""``python -m benchmarks``: options, exit status, files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.measure import Result
from benchmarks.program import PROGRAMS
from benchmarks.workload import WORKLOADS

_MISSING = PROGRAMS["torch-eager"].missing()
needs_torch = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))


def pretend(names, workload, plan, *, log):
    """Results without running anything."""
    found = []
    for position, name in enumerate(names):
        own = Result(name, "1", [1.0], 7.0, 0.1, 0.1, 2.0, {0: [0.1 + position]}, 2**28)
        found.append(own)
    return found


def test_list(capsys):
    assert command.main(["--list"]) == 0
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert words == [*WORKLOADS, *command.SECTIONS, *PROGRAMS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--programs", "jax-jot"], "unknown program 'jax-jot'. Did you mean jax-jit"),
        (["--workloads", "alexnet-trian"], "Did you mean alexnet-train"),
        (["--batch-size", "0"], "must be at least 1, got 0"),
        (["--only-report", "--output", "no/such/folder"], "there is no no/such/folder"),
    ],
)
def test_bad_usage(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@needs_torch
def test_a_missing_framework_is_left_out_or_an_error(monkeypatch, capsys, tmp_path):
    entry = dataclasses.replace(PROGRAMS["jax-jit"], requires=("no_such",))
    monkeypatch.setitem(PROGRAMS, "jax-jit", entry)
    monkeypatch.setattr(command, "measure", pretend)
    with pytest.raises(SystemExit):
        command.main(["--programs", "jax-jit"])
    assert "jax-jit cannot run: no_such is not installed" in capsys.readouterr().err
    common = ["--workloads", "mlp-train", "--output", str(tmp_path)]
    assert command.main(["--programs", "native", *common]) == 0
    assert "jax-jit is left out: no_such is not installed" in capsys.readouterr().err
    (run,) = json.loads((tmp_path / "results.json").read_text())["workloads"]["mlp-train"]["runs"]
    names = [r["name"] for r in run["results"]]
    can_run = [n for n, e in PROGRAMS.items() if e.kind == "native" and e.missing() is None]
    assert names == can_run
    assert "jax-jit" not in names


@needs_torch
def test_runs_are_added(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "measure", pretend)
    common = ["--workloads", "mlp-train", "--output", str(tmp_path)]
    for add in ([], ["--add"], ["--add"]):
        assert command.main(["--programs", "torch-eager,accelkit-torch", *common, *add]) == 0
    path = tmp_path / "results.json"
    assert len(json.loads(path.read_text())["workloads"]["mlp-train"]["runs"]) == 3
    note = ["--note", "measured on a Monday"]
    assert command.main(["--only-report", "--output", str(tmp_path), *note]) == 0
    assert "measured on a Monday" in (tmp_path / "README.md").read_text()
    assert {p.name for p in tmp_path.iterdir()} >= {"README.md", "mlp-train.png", "ratios.png"}
    # Another size cannot be compared with what is there.
    assert command.main(["--programs", "torch", *common, "--add", "--batch-size", "8"]) == 0
    stored = json.loads(path.read_text())
    assert len(stored["workloads"]["mlp-train"]["runs"]) == 1
    stored["environment"]["cpu"] = "another"
    path.write_text(json.dumps(stored))
    with pytest.raises(SystemExit):
        command.main(["--programs", "torch", *common, "--add"])


@needs_torch
def test_failures_give_exit_status_one(monkeypatch, capsys, tmp_path):
    def failing(names, workload, plan, *, log):
        results = pretend(names, workload, plan, log=log)
        results[1].error, results[1].turns_s = "it broke", {}
        results[2].loss = 8.0
        return results

    monkeypatch.setattr(command, "measure", failing)
    arguments = ["--workloads", "mlp-infer", "--output", str(tmp_path), "--programs", "torch"]
    assert command.main(arguments) == 1
    errors = capsys.readouterr().err
    assert "torch-channels-last failed: it broke" in errors
    assert "torch-compile: its first loss 8.0 differs" in errors


def test_a_baseline_is_a_checkout(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--baseline", str(tmp_path), "--output", str(tmp_path / "out")])
    assert "is no checkout of accelkit" in capsys.readouterr().err


@pytest.mark.timeout(120)
def test_sections_on_the_reference_backend(tmp_path):
    checkout = str(Path(command.__file__).parent.parent)  # compared with itself
    arguments = ["--quick", "--programs", "accelkit-numpy", "--baseline", checkout, "--workloads"]
    assert command.main([*arguments, "machine,overheads,layers", "--output", str(tmp_path)]) == 0
    sections = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert sections["machine"]["peak_flops"] > 1e8
    assert sections["machine"]["peak_bytes_per_s"] > 1e8
    found = sections["overheads"]["backends"]["numpy"]
    assert all(ours > 0 < theirs for ours, theirs in found["dispatch_us"].values())
    assert sections["overheads"]["imports_s"]["accelkit"] > 0
    profiles = sections["layers"]["backends"], sections["layers"]["baseline"]["backends"]
    assert all(found["numpy"]["nodes"] for found in profiles)
    text = (tmp_path / "README.md").read_text()
    for words in ("## Overheads", "## Layers and primitives", "conv2d_weight_grad", "roofline.png"):
        assert words in text
