"""The command: measure each target in turn, then report."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from accelkit.bench import compare, report
from accelkit.bench.environment import describe
from accelkit.bench.listing import print_listing
from accelkit.bench.options import Options, Target, parse, wants_traceback
from accelkit.bench.processes import Event, probe_all, request
from accelkit.bench.profile import chrome_trace
from accelkit.bench.progress import Progress, progress
from accelkit.errors import AccelkitError, BackendUnavailableError, DeviceError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["main"]

FAILED: Final = 1
BAD_OPTIONS: Final = 2
REGRESSION: Final = 3
INTERRUPTED: Final = 130
_PLAIN_WIDTH: Final = 160  # where there is no terminal to ask


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (see ``--help``)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    previous = signal.signal(signal.SIGTERM, _interrupt)  # ends the workers too
    try:
        return _run(parse(words))
    except AccelkitError as error:
        if wants_traceback(words):
            raise
        print(f"accelkit.bench: error: {error}", file=sys.stderr)
        return BAD_OPTIONS
    except KeyboardInterrupt:
        print("accelkit.bench: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def _run(options: Options) -> int:
    console = _console()
    if options.list_only:
        print_listing(console, options.threads)
        return 0
    environment = describe(options.threads)
    old = _earlier_report(options, environment)
    targets = _existing(options)
    report.print_header(console, environment, options.settings)
    session = _Session(options, environment)
    with progress(len(targets)) as shown:
        for target in targets:
            session.measure(target, shown)
    return _report(console, session, old)


def _earlier_report(options: Options, environment: dict[str, Any]) -> compare.Report | None:
    if options.compare_path is None:
        return None
    old = compare.read_report(options.compare_path)
    settings = report.document(environment, options.settings, [])["settings"]
    backends = [target.backend for target in options.targets]
    compare.check_comparable(old, environment, settings, backends)
    return old


def _existing(options: Options) -> list[Target]:
    """The targets without devices that do not exist, which is an error if they were asked for.

    Raises:
        DeviceError, BackendUnavailableError: naming the devices that there are.
    """
    asked = [target.device for target in options.targets if ":" in target.device]
    answers = probe_all(asked, options.threads)
    found = []
    for target in options.targets:
        error = _error(answers.get(target.device, ()))
        if error is None:
            found.append(target)
        elif target.is_required:
            kind = BackendUnavailableError if error["is_missing"] else DeviceError
            raise kind(error["message"])
        else:
            _note(f"{target.device} is left out: {error['message']}")
    if not found:
        raise DeviceError("No device is left to measure; the lines above say why.")
    return found


def _error(events: Sequence[Event]) -> dict[str, Any] | None:
    return next((event["error"] for event in events if event["event"] == "error"), None)


def _note(text: str) -> None:
    print(f"accelkit.bench: {text}", file=sys.stderr, flush=True)


class _Session:
    """Collects what the workers report."""

    def __init__(self, options: Options, environment: dict[str, Any]) -> None:
        self.options = options
        self.environment = environment
        self.results: list[report.Result] = []
        self.profiles: list[dict[str, Any]] = []
        self.profile_errors: list[str] = []

    def measure(self, target: Target, shown: Progress) -> None:
        """Measure one target in a worker; its failure is a result too."""
        settings = dataclasses.replace(self.options.settings, device=target.device)
        shown.begin(target.device, settings.warmup + settings.steps)
        events = request(
            "measure",
            threads=self.options.threads,
            settings=settings.to_json(),
            profile=self.options.profile_path is not None,
        )
        with contextlib.closing(events):
            shown.end(self._listen(target, events, shown))

    def _listen(self, target: Target, events: Iterable[Event], shown: Progress) -> str:
        """Follow a worker to its end, and say how it ended."""
        name = target.device
        outcome = "no result"
        for event in events:
            kind = event.pop("event")
            if kind == "device":
                name = event.pop("device")
                self.environment["devices"][name] = event
            elif kind == "stage":
                shown.stage(event["text"])
            elif kind == "step":
                shown.step(event)
            elif kind == "result":
                self.results.append(event["result"])
                outcome = _summary(event["result"])
            elif kind == "profile":
                self.profiles.append(event["profile"])
            else:
                outcome = self._failed(target, name, event["error"])
        return outcome

    def _failed(self, target: Target, name: str, error: dict[str, Any]) -> str:
        if self.options.traceback:
            print(error["traceback"], file=sys.stderr, flush=True)
        message: str = error["message"]
        if self.results and self.results[-1]["device"] == name:  # it failed after its figures
            self.profile_errors.append(f"{name} could not be profiled: {message}")
        elif error["is_missing"] and not target.is_required:
            return f"left out: {message}"
        else:
            failed = report.failed_result(self.options.settings, name, message)
            self.results.append(failed)
        return f"failed: {message}"


def _summary(result: report.Result) -> str:
    median = result["step_time_s"]["median"]
    return f"{median * 1e3:,.1f} ms per step, loss {result['losses'][-1]:.5f}"


def _report(console: Console, session: _Session, old: compare.Report | None) -> int:
    options = session.options
    if not session.results:
        raise BackendUnavailableError(
            "No backend could be measured: none is installed. `--list` says why."
        )
    report.print_results(console, session.results, session.environment["devices"])
    for found in session.profiles:
        report.print_profile(console, found)
    document = report.document(session.environment, options.settings, session.results)
    if options.profile_path is not None and session.profiles:
        report.write_json(options.profile_path, chrome_trace(session.profiles))
        _note(f"wrote {options.profile_path}; open it in https://ui.perfetto.dev")
    if options.json_path is not None:
        report.write_json(options.json_path, document)
        _note(f"wrote {options.json_path}")
    for line in session.profile_errors:
        _note(line)
    regressions = _compared(console, options, old, document)
    for line in regressions:
        _note(f"REGRESSION: {line}")
    if session.profile_errors or len(report.succeeded(session.results)) < len(session.results):
        return FAILED
    return REGRESSION if regressions else 0


def _compared(
    console: Console, options: Options, old: compare.Report | None, new: compare.Report
) -> list[str]:
    """Print the comparison; the regressions beyond what is allowed."""
    if old is None:
        return []
    found = compare.compare(old, new)
    compare.print_comparison(console, found, old["environment"]["started"])
    if options.fail_over is None:
        return []
    return [line for entry in found for line in entry.regressions(options.fail_over)]
