"""The side-by-side benchmark: its workload, its rivals' agreement, its statistics and command."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import measure as measuring
from benchmarks import native, report, side_by_side
from benchmarks.measure import Plan, ProgramError, ProgramProcess, Result, deviations, ratio
from benchmarks.program import PROGRAMS
from benchmarks.workload import Workload, pooling_matrix

SMALL_ALEXNET = Workload("alexnet", 2, 2, width=1 / 16)
MLP = Workload("mlp", 32, 2)
# torch-compile takes half a minute to compile, and accelkit's program is one for all backends:
# `make bench` checks the others in every run.
CHECKED = [
    name
    for name in PROGRAMS
    if name not in ("torch-compile", "accelkit-jax", "accelkit-tensorflow")
]


def parameters(workload: Workload) -> int:
    return sum(weight.size for weight in workload.weights().values())


class TestWorkload:
    def test_alexnet_is_torchvisions(self):
        workload = Workload("alexnet", 1, 1)
        assert parameters(workload) == 61_100_840
        # 714.2 M multiply-adds forward; twice that backward, but for conv1's input gradient.
        assert workload.flops_per_step == 2 * (3 * 714_188_480 - 70_276_800)
        assert workload.feature_sizes() == [27, 13, 13, 13, 6]

    def test_mlp(self):
        assert parameters(MLP) == 101_386
        assert MLP.flops_per_step == 2 * 32 * (3 * (128 * 256 + 256 * 256 + 2560) - 128 * 256)

    def test_same_seed_same_data(self):
        for a, b in zip(MLP.batch(), MLP.batch(), strict=True):
            assert np.array_equal(a, b)
        other = dataclasses.replace(MLP, seed=1)
        assert not np.array_equal(MLP.weights()["dense1.weight"], other.weights()["dense1.weight"])

    def test_too_small_image_names_the_layer(self):
        assert Workload("alexnet", 1, 1, image_size=63).feature_sizes()[-1] == 1
        with pytest.raises(ValueError, match=r"image_size=62 .* nothing is left after conv5"):
            Workload("alexnet", 1, 1, image_size=62).feature_sizes()

    @pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 13])
    def test_pooling_matrix_is_torchs_adaptive_pool(self, size):
        x = torch.arange(float(size)).sin()
        expected = torch.nn.functional.adaptive_avg_pool1d(x[None], 6)[0]
        np.testing.assert_allclose(pooling_matrix(size) @ x.numpy(), expected, rtol=1e-6)


class TestPrograms:
    def test_rivals_do_not_use_accelkit(self):
        for path in Path(native.__file__).parent.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.split(".")[0].startswith("accelkit") for name in names), path

    def test_rivals_exist(self):
        for entry in PROGRAMS.values():
            assert entry.rival is None or entry.rival in PROGRAMS

    @pytest.mark.timeout(300)
    def test_all_compute_the_same(self, tmp_path):
        workloads = [
            dataclasses.replace(workload, **measuring._AGREEMENT_SETTINGS)
            for workload in (SMALL_ALEXNET, MLP)
        ]
        for workload in workloads:
            np.savez(tmp_path / f"{workload.model}.npz", **workload.weights())
        results: dict[str, list[Result]] = {workload.model: [] for workload in workloads}
        for name in CHECKED:
            process = ProgramProcess(name, 2)
            try:
                for workload in workloads:
                    weights = str(tmp_path / f"{workload.model}.npz")
                    losses = process.request(
                        "losses", workload=workload.to_json(), weights=weights, steps=5
                    )
                    results[workload.model].append(Result(name, losses=losses))
            finally:
                process.close()
        for found in results.values():
            assert len(found) == len(CHECKED)
            assert max(deviations(found).values()) <= measuring.AGREEMENT_BOUND, found

    @pytest.mark.parametrize(
        "change", [{"weight_decay": 0.0}, {"momentum": 0.85}, {"learning_rate": 0.0021}]
    )
    def test_the_comparison_notices_another_update(self, change):
        correct = dataclasses.replace(MLP, **measuring._AGREEMENT_SETTINGS)
        weights = correct.weights()
        curves = []
        for workload in (correct, correct, dataclasses.replace(correct, **change)):
            program = PROGRAMS["torch-eager"].builder()(workload, weights)
            losses = [float(program.step()) for _ in range(measuring.AGREEMENT_STEPS)]
            curves.append(Result(str(len(curves)), losses=losses))
        first, second, changed = deviations(curves).values()
        assert first == second == 0
        assert changed > 3 * measuring.AGREEMENT_BOUND


class TestMeasure:
    @pytest.mark.timeout(120)
    def test_two_programs_take_turns(self):
        lines: list[str] = []
        plan = Plan(rounds=2, samples=3, steps_per_sample=2, check_batch_size=4)
        results = measuring.measure(
            ["torch-eager", "torch-channels-last"], MLP, plan, log=lines.append
        )
        assert [result.name for result in results] == ["torch-eager", "torch-channels-last"]
        for result in results:
            assert result.error is None
            assert [len(turn) for turn in result.rounds_s] == [3, 3]
            assert min(min(turn) for turn in result.rounds_s) > 0
            assert result.build_s > 0
            assert result.peak_memory_bytes > 50e6
            assert result.version.startswith("torch 2.")
        assert lines.count("round 2 of 2") == 1
        stored = json.loads(json.dumps(report.to_json({}, [(MLP, results)])))
        assert stored["schema_version"] == report.SCHEMA_VERSION
        figures = stored["workloads"][0]["results"][0]
        assert figures["step_time_s"]["rounds"] == results[0].rounds_s
        assert figures["loss_deviation"] <= measuring.AGREEMENT_BOUND

    def test_failure_of_a_request_is_reported_and_survived(self):
        process = ProgramProcess("torch-eager", 1)
        try:
            with pytest.raises(ProgramError, match="run was asked for before build"):
                process.request("run", samples=1, steps_per_sample=1)
            assert process.request("peak_memory") > 1e6
        finally:
            process.close()

    def test_death_of_a_process_is_reported(self):
        process = ProgramProcess("torch-eager", 1)
        try:
            process._process.kill()
            with pytest.raises(ProgramError, match="torch-eager died with exit code -9"):
                process.request("peak_memory")
        finally:
            process.close()

    def test_statistics(self):
        slow = Result("a", rounds_s=[[2.0, 4.0, 3.0], [30.0, 30.0, 30.0]])
        fast = Result("b", rounds_s=[[1.0, 2.0, 3.0], [10.0, 10.0, 10.0]])
        assert ratio(slow, fast) == pytest.approx((1.5 + 3) / 2)
        figures = measuring.summary(slow)
        assert figures["min"] == 2
        assert figures["median"] == 17
        assert figures["iqr"] == pytest.approx(30 - 3.25)

    def test_deviations_are_from_the_median(self):
        results = [
            Result("a", losses=[1.0, 2.0]),
            Result("b", losses=[1.0, 2.0]),
            Result("c", losses=[1.0, 2.2]),
            Result("failed"),
        ]
        assert deviations(results) == pytest.approx({"a": 0, "b": 0, "c": 0.1})


class TestReport:
    def test_markdown(self):
        good = Result("torch-eager", "torch 2", [1.0], 2.5, [[0.1, 0.1]], 2**30)
        bad = Result("jax-jit", "jax 0", error="it broke\nwith details")
        text = report.markdown(report.describe_machine(2), [(MLP, [good, bad])])
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in table}) == 1
        assert "| torch 2 | 2.5 | 100 | 0 | 100 | 320 |" in table[2]
        assert "failed: it broke" in table[3]
        assert "with details" not in text


class TestCommand:
    def test_list(self, capsys):
        assert side_by_side.main(["--list"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in printed] == list(PROGRAMS)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--programs", "jax-jot"], "unknown program 'jax-jot'. Did you mean jax-jit"),
            (["--batch-size", "0"], "must be at least 1, got 0"),
            (["--image-size", "40"], "nothing is left after conv5"),
            (["--model", "vgg"], "invalid choice: 'vgg'"),
        ],
    )
    def test_bad_usage(self, capsys, arguments, message):
        with pytest.raises(SystemExit) as stop:
            side_by_side.main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err

    def test_missing_framework(self, monkeypatch, capsys):
        entry = dataclasses.replace(PROGRAMS["jax-jit"], framework="no_such_framework")
        monkeypatch.setitem(PROGRAMS, "jax-jit", entry)
        with pytest.raises(SystemExit):
            side_by_side.main(["--programs", "jax-jit"])
        assert "jax-jit cannot run: no_such_framework is not installed" in capsys.readouterr().err

    def test_disagreement_and_failure_give_exit_status_one(self, monkeypatch, capsys, tmp_path):
        def pretend(names, workload, plan, *, log):
            return [
                Result("torch-eager", "t", [1.0, 1.0], 1.0, [[0.1]], 1),
                Result("jax-jit", "j", [1.0, 1.0], 1.0, [[0.1]], 1),
                Result("torch-compile", "t", [1.0, 1.5], 1.0, [[0.1]], 1),
                Result("tensorflow-xla", "f", error="it broke"),
            ]

        monkeypatch.setattr(side_by_side, "measure", pretend)
        path = tmp_path / "new" / "out.json"
        assert side_by_side.main(["--model", "mlp", "--json", str(path)]) == 1
        errors = capsys.readouterr().err
        assert "torch-compile computes something else" in errors
        assert "tensorflow-xla failed: it broke" in errors
        assert "torch-eager" not in errors
        assert json.loads(path.read_text())["workloads"][0]["results"][3]["error"] == "it broke"
