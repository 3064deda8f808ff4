"""The tuner: what it keeps, what a crash costs, and that its table is used afterwards."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from accelkit_opencl import command, profile_of, trials
from accelkit_opencl.command import main
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.lowering import Choice, Profile, choice_key
from accelkit_opencl.products import lower_matmul
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import Runtime
from accelkit_opencl.trials import Trials
from accelkit_opencl.tuning import Tuned, different_candidates, load_choices, tunable, tune

from accelkit import registry

PROFILE = Profile(cpu=True, compute_units=2)
PRODUCT = Matmul(1, 100, 96, 64)
LARGE = Matmul(1, 900, 960, 640)


class Crash:
    """Aborts the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return os.abort, ()


def test_a_crash_costs_one_choice(runtime: Runtime) -> None:
    good, bad = ("matmul", PRODUCT, Choice()), ("matmul", Crash(), Choice())
    other = ("matmul", PRODUCT, Choice(6, 2))
    with closing(Trials(runtime.device, PROFILE, limit_s=100.0, workers=2)) as trying:
        trying.compile_ahead([good, bad, other], within_s=100.0)  # type: ignore[list-item]
        assert trying.crashes == 1
        assert trying(*bad) == math.inf  # type: ignore[arg-type]
        assert trying.crashes == 1
        assert 0 < trying(*good) < math.inf
        assert 0 < trying(*other) < math.inf
        assert trying("matmul", Crash(), Choice()) == math.inf  # type: ignore[arg-type]
        assert trying.crashes == 2
        assert 0 < trying(*good) < math.inf


def test_a_choice_that_takes_too_long_is_stopped(runtime: Runtime) -> None:
    with closing(Trials(runtime.device, PROFILE, limit_s=0.0, workers=1)) as trying:
        assert trying("matmul", PRODUCT, Choice()) == math.inf
        assert trying.crashes == 1
        trying.compile_ahead([("matmul", PRODUCT, Choice(6, 2))], within_s=100.0)
        assert trying.crashes == 2


class Measuring:
    """A stand-in for Trials: these seconds for every choice."""

    workers = 2

    def __init__(
        self, seconds: Callable[[Choice], float], calls: list[Choice] | None = None
    ) -> None:
        self.seconds, self.calls = seconds, calls

    def __call__(self, kind: str, product: Matmul, choice: Choice, **limits: float) -> float:
        assert limits["within_s"] > 0
        if self.calls is not None:
            self.calls.append(choice)
        return self.seconds(choice)

    def compile_ahead(self, items: Any, *, within_s: float) -> None:
        assert within_s > 0


def test_the_fastest_is_kept_if_it_is_clearly_faster() -> None:
    other = different_candidates("matmul", PRODUCT, PROFILE)[1]

    def measured(gain: float) -> Choice:
        measure = Measuring(lambda choice: gain if choice == other else 1.0)
        (found,) = tune(tunable([("matmul", PRODUCT)], PROFILE), measure)
        assert found.key == choice_key("matmul", PRODUCT)
        return found.choice

    assert measured(0.5) == other
    assert measured(0.99) == Choice()
    assert measured(math.inf) == Choice()


def test_a_lucky_measurement_is_not_believed() -> None:
    """What was fastest once, and slower than the default when measured again, is not kept."""
    other = different_candidates("matmul", PRODUCT, PROFILE)[1]
    times = {other: iter((0.5, 1.1))}
    measure = Measuring(lambda choice: next(times[choice]) if choice in times else 1.0)
    (found,) = tune(tunable([("matmul", PRODUCT)], PROFILE), measure)
    assert (found.choice, found.best_s) == (Choice(), 1.0)


def test_the_default_is_measured_first_and_no_kernels_twice_but_to_confirm() -> None:
    calls: list[Choice] = []
    list(tune(tunable([("matmul", PRODUCT)], PROFILE), Measuring(lambda _: 1.0, calls)))
    assert calls[0] == Choice()
    names = [lower_matmul(PRODUCT, PROFILE, choice).launches[-1].source.name for choice in calls]
    assert len(set(names)) == len(names) > 1
    assert calls == different_candidates("matmul", PRODUCT, PROFILE)


class Clock(Measuring):
    """A measurement takes a second, and every choice is as fast as the default."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(lambda _: 1.0)
        self.now = 0.0
        self.measured: list[int] = []
        self.ahead: list[list[int]] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def __call__(self, kind: str, product: Matmul, choice: Choice, **limits: float) -> float:
        assert limits["within_s"] == 10.0 - self.now
        self.now += 1.0
        self.measured.append(product.m)
        return 1.0

    def compile_ahead(self, items: Any, *, within_s: float) -> None:
        self.ahead.append([product.m for _, product, _ in items])


def test_every_product_is_tried_before_any_gets_a_third_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two choices of each, compiled for as many products at once as there are workers."""
    clock = Clock(monkeypatch)
    products = [("matmul", Matmul(1, m, 960, 640)) for m in (900, 800, 100)]
    assert len(list(tune(tunable(products, PROFILE), clock, budget_s=10.0))) == 3
    assert clock.measured == [900, 900, 800, 800, 100, 100, 900, 800, 100, 900]
    assert clock.ahead[:3] == [[900, 900, 800, 800], [100, 100], [900, 800]]


def test_a_later_choice_replaces_a_result_only_if_it_is_confirmed() -> None:
    first, second, third = different_candidates("matmul", LARGE, PROFILE)[1:4]
    times = {first: [0.8, 0.8], second: [0.5, 1.5], third: [0.7, 0.7]}
    measure = Measuring(lambda choice: times[choice].pop(0) if choice in times else 1.0)
    found = [row.choice for row in tune(tunable([("matmul", LARGE)], PROFILE), measure)]
    assert found == [first, third]


def test_what_one_choice_alone_was_measured_of_is_not_tuned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def slow(_: Choice) -> float:
        clock[0] += 40.0
        return 1.0

    assert list(tune(tunable([("matmul", PRODUCT)], PROFILE), Measuring(slow))) == []


def test_no_candidate_is_begun_after_the_budget_and_none_without_choice() -> None:
    def never(_: Choice) -> float:
        raise AssertionError("measured")

    assert (
        list(tune(tunable([("matmul", PRODUCT)], PROFILE), Measuring(never), budget_s=-1.0)) == []
    )
    assert tunable([("matmul", PRODUCT)], Profile(cpu=False)) == []


def test_a_hopeless_choice_runs_once(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    monkeypatch.setattr(trials, "_run", lambda *_: runs.append(1) or 2.0)
    provider = SourceProvider(runtime, keep_binaries=False)
    lowering = lower_matmul(PRODUCT, PROFILE)
    assert trials.measure(lowering, PRODUCT, runtime, provider, give_up_s=1.0) == 2.0
    assert len(runs) == 2  # the first one compiles
    runs.clear()
    trials.measure(lowering, PRODUCT, runtime, provider, give_up_s=3.0)
    assert len(runs) == 4


class FirstIsFastest(Trials):
    """Half a second for the first choice after the default, one for all others."""

    def start(self) -> None:
        self.tried: dict[Any, list[Choice]] = {}

    def compile_ahead(self, items: Any, *, within_s: float) -> None:
        pass

    def __call__(self, kind: str, product: Any, choice: Choice, **limits: float) -> float:
        tried = self.tried.setdefault((kind, product), [])
        if choice not in tried:
            tried.append(choice)
        return 0.5 if tried.index(choice) == 1 else 1.0


def test_the_command_writes_a_table_that_is_used_afterwards(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ACCELKIT_OPENCL_NO_TUNE")
    monkeypatch.setattr(command, "Trials", FirstIsFastest)
    backend = registry.backend("opencl")
    before = backend.profile(runtime.device).choices
    arguments = ["--model", "lenet5", "--batch-size", "2", "--device", str(runtime.device)]
    try:
        assert main(["tune", *arguments]) == 0
        printed = capsys.readouterr().out
        assert "(100% of the arithmetic); written to" in printed
        assert " 2.00x  " in printed
        choices = load_choices(runtime)
        assert set(choices.values()) - {Choice()}
        assert backend.profile(runtime.device).choices == choices
    finally:
        backend.use_choices(runtime.device, before)
    assert profile_of(runtime).choices == choices
    monkeypatch.setenv("ACCELKIT_OPENCL_NO_TUNE", "1")
    assert profile_of(runtime).choices == {}


def test_a_second_run_goes_on_where_the_first_one_ended(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = registry.backend("opencl")
    before = backend.profile(runtime.device).choices
    found: list[list[str]] = []

    def search(device: Any, trials: Any, products: Any, deadline: float) -> None:
        found.append([item.key for item in products])

    monkeypatch.setattr(command, "_search", search)
    monkeypatch.setattr(Trials, "start", lambda _: None)
    arguments = ["tune", "--model", "lenet5", "--batch-size", "2", "--device", str(runtime.device)]
    try:
        for known in (0, 2, None):
            tuned = dict.fromkeys(found[0][:known] if found else [], Choice())
            backend.use_choices(runtime.device, tuned)
            assert main(arguments) == 0
    finally:
        backend.use_choices(runtime.device, before)
    assert found[1] == found[0][2:]
    assert found[2] == found[0]


def test_an_interrupted_tuner_keeps_what_it_found(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = registry.backend("opencl")
    before = backend.profile(runtime.device).choices
    found = Tuned(choice_key("matmul", PRODUCT), Choice(5, 2), 2.0, 1.0)

    def interrupted(*_: Any, **__: Any) -> Iterator[Tuned]:
        yield found
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "tune", interrupted)
    try:
        with closing(Trials(runtime.device, PROFILE)) as unused:
            products = tunable([("matmul", PRODUCT)], PROFILE)
            command._search(runtime.device, unused, products, time.perf_counter() + 9)
    finally:
        backend.use_choices(runtime.device, before)
    assert "1 of 1 products tuned until it was interrupted (100%" in capsys.readouterr().out
    assert load_choices(runtime) == {found.key: found.choice}


def test_a_bundle_is_tuned_unless_it_is_to_have_the_defaults(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    backend = registry.backend("opencl")
    before = backend.profile(runtime.device).choices
    searched: list[int] = []
    monkeypatch.setattr(command, "_search", lambda *found: searched.append(len(found[2])))
    monkeypatch.setattr(command, "_executables", lambda *_: {})  # compiling is tested elsewhere
    monkeypatch.setattr(command, "write_bundle", lambda *_: None)
    model = ["--model", "lenet5", "--batch-size", "2", "--device", str(runtime.device)]
    try:
        backend.use_choices(runtime.device, {"matmul of another model": Choice(5, 2)})
        assert main(["bundle", *model, "--out", str(tmp_path)]) == 0
        assert len(searched) == 1
        assert searched[0] > 0
        assert main(["bundle", *model, "--no-tune", "--out", str(tmp_path)]) == 0
        assert len(searched) == 1
        assert backend.profile(runtime.device).choices == {}
    finally:
        backend.use_choices(runtime.device, before)


def test_a_tuned_choice_decides_the_kernel() -> None:
    tuned = Profile(
        cpu=True, compute_units=2, choices={choice_key("matmul", PRODUCT): Choice(5, 2)}
    )
    named = lower_matmul(PRODUCT, tuned).launches[-1].source.name
    assert named == lower_matmul(PRODUCT, PROFILE, Choice(5, 2)).launches[-1].source.name
    assert named != lower_matmul(PRODUCT, PROFILE).launches[-1].source.name
