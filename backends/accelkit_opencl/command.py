"""The commands of ``python -m accelkit.opencl``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import accelkit
from accelkit import losses, models, optim, passes, registry, train
from accelkit.command_line import positive, rate
from accelkit.device import Device
from accelkit.errors import (
    AccelkitError,
    BackendError,
    CompileError,
    DeviceError,
    OptionError,
)
from accelkit_opencl import OpenclBackend
from accelkit_opencl.bundle import seal, write_bundle, write_sources
from accelkit_opencl.compile import OpenclExecutable
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import discover, open_device
from accelkit_opencl.trials import Trials
from accelkit_opencl.tuning import (
    Tunable,
    Tuned,
    load_choices,
    products_in,
    save_choices,
    tunable,
    tune,
)

__all__ = ["main"]

_BUDGET_S = 30.0  # of tuning
_AROUND_S = 1.0  # of a command's time: starting Python, and ending it


def main(arguments: Sequence[str]) -> int:
    """Run one command; errors become one line on stderr and exit status 2, failures 1."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except AccelkitError as error:
        print(f"error: {error}", file=sys.stderr)
        failed = BackendError, CompileError  # the options were good
        return 1 if isinstance(error, failed) else 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accelkit.opencl",
        description="OpenCL devices, tuning, ahead-of-time bundles, and a check of all primitives.",
        epilog="Programs use what the tuner found; with ACCELKIT_OPENCL_NO_TUNE=1 in the "
        "environment any program takes the defaults. Exit status: 0 done; 1 a program or a "
        "check failed; 2 bad options, or no such device; 130 interrupted.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("devices", help="list OpenCL devices and what they can do")
    command.set_defaults(run=_devices)

    command = commands.add_parser(
        "tune",
        help="measure the fastest kernels for a model",
        description="Measures the fastest kernels for the matrix products and convolutions of a "
        "model: those that the table of this device and driver lacks, or all if it lacks none.",
    )
    _add_model(command)
    command.add_argument(
        "--budget",
        type=rate,
        default=_BUDGET_S,
        metavar="SECONDS",
        help="time limit of the whole command; the best found so far is kept (default: 30)",
    )
    command.set_defaults(run=_tune)

    command = commands.add_parser("bundle", help="compile a model ahead of time into a folder")
    _add_model(command)
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument(
        "--emit-sources",
        action="store_true",
        help="write OpenCL C and a build script for vendor compilers instead of a binary",
    )
    _add_no_tune(command, "default kernels, instead of tuning those that the table lacks")
    command.set_defaults(run=_bundle)

    command = commands.add_parser("seal", help="record the image that a bundle's build.sh built")
    command.add_argument("folder", type=Path, help="the bundle")
    command.add_argument("--device", default="opencl", help="device that the image is for")
    command.set_defaults(run=_seal)

    command = commands.add_parser("check", help="run the parity kit on a device")
    command.add_argument("--device", default="opencl", help="default: the preferred one")
    command.add_argument("-k", dest="select", default="", help="only tests that match")
    _add_no_tune(command, "default kernels, instead of those of the tuner's table")
    command.set_defaults(run=_check)
    return parser


def _add_no_tune(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--no-tune", dest="tune", action="store_false", help=text)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="alexnet", help="name of a registered model")
    command.add_argument("--variant", help="of the model")
    command.add_argument("--batch-size", type=positive, default=32, help="default: 32")
    command.add_argument("--image-size", type=positive, help="default: the model's")
    command.add_argument("--width", type=rate, help="factor on all layer widths")
    command.add_argument("--classes", type=positive, help="default: the model's")
    command.add_argument("--device", default="opencl", help="default: the preferred one")


def _device(name: str) -> Device:
    device = accelkit.device(name)
    if device.backend != OpenclBackend.name:
        raise DeviceError(f"{device} is no OpenCL device. Name one as 'opencl[:kind[:index]]'.")
    return device


def _devices(options: argparse.Namespace) -> int:
    for found in discover():
        handle = found.handle
        double = "float64" if handle.double_fp_config else "no float64"
        print(
            f"{found.device}  {handle.name.strip()}  {handle.global_mem_size / 2**30:.1f} GiB, "
            f"largest buffer {handle.max_mem_alloc_size / 2**30:.1f} GiB, "
            f"{handle.max_compute_units} compute units, {double}, "
            f"{handle.platform.name} {handle.driver_version}, {handle.version}, {handle.profile}"
        )
    return 0


def _training(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The training step of a model on a device, with a state and a batch."""
    device = _device(options.device)
    model = models.build(
        options.model,
        variant=options.variant,
        image_size=options.image_size,
        width=options.width,
        classes=options.classes,
    )
    optimizer = optim.sgd(model.learning_rate, momentum=0.9, weight_decay=5e-4)
    step = train.TrainStep(model.module, losses.SoftmaxCrossEntropy(), optimizer, device=device)
    shape = (options.batch_size, *model.input_shape)
    batch = (np.zeros(shape, np.float32), np.zeros(options.batch_size, np.int32))
    return step, step.init(0, shape), batch


def _tune(options: argparse.Namespace) -> int:
    deadline = time.perf_counter() + options.budget - _AROUND_S
    device = _device(options.device)
    if not _backend().profile(device).cpu:
        print(f"Nothing to tune: the kernels for {device} follow from its limits.")
        return 0
    with contextlib.closing(_trials(device)) as trials:
        trials.start()  # while the model is traced
        products = _products(*_training(options))
        _search(device, trials, _not_tuned(device, products) or products, deadline)
    return 0


def _trials(device: Device) -> Trials:
    return Trials(device, _backend().profile(device))


def _products(step: Any, state: Any, batch: Any) -> list[Tunable]:
    """What there is to tune in a training step, which includes the products of evaluation."""
    profile = _backend().profile(step.device)
    found = products_in([passes.prepare(step.graph(state, batch), _backend())])
    return tunable(found, profile)


def _not_tuned(device: Device, products: list[Tunable]) -> list[Tunable]:
    """Those that the tuner's table lacks."""
    known = _backend().profile(device).choices
    return [item for item in products if item.key not in known]


def _search(
    device: Device,
    trials: Trials,
    products: list[Tunable],
    deadline: float,
) -> None:
    """Tune products with a progress bar, and use the results; an interruption keeps them too."""
    from rich.progress import Progress

    flops = {item.key: item.product.flops for item in products}
    found: dict[str, Tuned] = {}
    ended = "tuned"
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"Tuning {device}", total=sum(flops.values()))
        budget_s = deadline - time.perf_counter()
        try:
            for row in tune(products, trials, budget_s=budget_s):
                if row.key not in found:
                    progress.advance(bar, flops[row.key])
                found[row.key] = row  # a later one is faster
        except KeyboardInterrupt:
            ended = "tuned until it was interrupted"
    rows = list(found.values())
    path = save_choices({row.key: row.choice for row in rows}, open_device(device))
    _backend().use_choices(device, load_choices(open_device(device)))
    for row in rows:
        print(
            f"{row.default_s * 1e3:9.2f} ms -> {row.best_s * 1e3:9.2f} ms  "
            f"{row.default_s / row.best_s:4.2f}x  {row.key}"
        )
    share = sum(flops[row.key] for row in rows) / max(sum(flops.values()), 1)
    print(
        f"{len(rows)} of {len(products)} products {ended} ({share:.0%} of the arithmetic); "
        f"written to {path}"
    )
    if len(rows) < len(products):
        print("The others have the defaults; run it again to tune them too.")
    if trials.crashes:
        print(f"{trials.crashes} choices crashed the driver or took too long.")


def _bundle(options: argparse.Namespace) -> int:
    device = _device(options.device)
    try:
        options.out.mkdir(parents=True, exist_ok=True)  # before what takes minutes
    except OSError as error:
        raise OptionError(
            f"--out {options.out} cannot be written: {error.strerror}. Give a folder."
        ) from error
    runtime = open_device(device)
    start = time.perf_counter()
    training = _training(options)
    if options.emit_sources:  # for accelerators: see Runtime.has_winograd
        profile = _backend().profile(device)
        _backend().use_profile(device, replace(profile, winograd=False))
    if not options.tune:
        _backend().use_choices(device, {})
    elif not options.emit_sources:
        products = _not_tuned(device, _products(*training))
        if products:
            with contextlib.closing(_trials(device)) as trials:
                _search(device, trials, products, time.perf_counter() + _BUDGET_S)
    programs = {name: e.program.plan for name, e in _executables(*training).items()}
    profile = _backend().profile(device)
    if options.emit_sources:
        write_sources(options.out, programs, profile)
        print(f"Sources written to {options.out}. Build them with {options.out / 'build.sh'}.")
        return 0
    build = SourceProvider(runtime, keep_binaries=False).build
    write_bundle(options.out, programs, runtime, profile, build)
    took = time.perf_counter() - start
    print(f"Bundle for {device} written to {options.out} in {took:.1f} s.")
    return 0


def _executables(step: Any, state: Any, batch: Any) -> dict[str, OpenclExecutable]:
    """The training and the evaluation step of a model, compiled for its device."""
    evaluation = train.EvalStep(step.recipe.model, losses.SoftmaxCrossEntropy(), device=step.device)
    found: dict[str, Any] = {
        "train": step.compile(state, batch),
        "evaluate": evaluation.compile(state, batch),
    }
    return found


def _seal(options: argparse.Namespace) -> int:
    seal(options.folder, open_device(_device(options.device)))
    print(f"{options.folder} is complete.")
    return 0


def _backend() -> OpenclBackend:
    found = registry.backend(OpenclBackend.name)
    assert isinstance(found, OpenclBackend)
    return found


def _check(options: argparse.Namespace) -> int:
    try:
        import pytest
    except ImportError as error:
        raise DeviceError(
            "The check needs pytest and hypothesis: pip install pytest hypothesis"
        ) from error
    device = _device(options.device)
    os.environ["ACCELKIT_OPENCL_CHECK_DEVICE"] = str(device)
    if not options.tune:
        _backend().use_choices(device, {})
    suite = Path(__file__).with_name("conformance.py")
    selection = ["-k", options.select] if options.select else []
    ended = pytest.main(["-q", "-p", "no:cacheprovider", str(suite), *selection])
    statuses: dict[int, int] = {
        pytest.ExitCode.OK: 0,
        pytest.ExitCode.INTERRUPTED: 130,
        pytest.ExitCode.USAGE_ERROR: 2,
        pytest.ExitCode.NO_TESTS_COLLECTED: 2,
    }
    return statuses.get(int(ended), 1)
