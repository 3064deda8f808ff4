"""Commands on data sets: pack one into raw pixels, verify a pack, say what a source holds."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from accelkit.command_line import end_with, natural
from accelkit.data.batches import BatchPlan
from accelkit.data.opening import open_source
from accelkit.data.packed import PackedSource
from accelkit.data.packing import pack
from accelkit.data.records import Source
from accelkit.errors import AccelkitError, CorruptDataError

Report = Callable[[int, int, int], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 for success, 1 for a failure or damage, 2 if it could not begin, 130 when interrupted.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        return int(options.run(options, options.open(options)))
    except AccelkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if options.begun or isinstance(error, CorruptDataError) else 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accelkit.data",
        description=__doc__,
        epilog="exit status: 0 done; 1 it failed, or damage was found; 2 it could not begin: bad "
        "options, or data that cannot be used; 130 interrupted",
    )
    parser.set_defaults(begun=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    source_help = "folder of classes, pack, 'a-{00..09}.tar', .npz, digits, shapes:COUNT:SIZE"

    packing = commands.add_parser("pack", help="decode and resize once, store raw pixels")
    packing.add_argument("source", metavar="SRC", help=source_help)
    packing.add_argument("destination", metavar="DEST", help="directory to make, or to continue")
    packing.add_argument(
        "--size", type=natural, default=256, help="side of the square; 0 keeps images as they are"
    )
    packing.add_argument("--threads", type=natural, default=2, help="threads that decode")
    packing.add_argument(
        "--skip-corrupt", action="store_true", help="leave out images that cannot be read"
    )
    _add_split(packing)
    packing.set_defaults(open=_open, run=_pack)

    verifying = commands.add_parser("verify", help="check every record of a pack")
    verifying.add_argument("destination", metavar="DEST", help="directory of the pack")
    verifying.set_defaults(open=lambda options: PackedSource(options.destination), run=_verify)

    information = commands.add_parser("info", help="say what a source holds")
    information.add_argument("source", metavar="SRC", help=source_help)
    _add_split(information)
    information.set_defaults(open=_open, run=_info)
    return parser


def _add_split(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--split",
        choices=("train", "test"),
        default="train",
        help="part of a source that has both (default: train)",
    )


def _open(options: argparse.Namespace) -> Source:
    return open_source(options.source, split=options.split)


def _pack(options: argparse.Namespace, source: Source) -> int:
    with _progress(options, "packing") as report:
        packed = pack(
            source,
            options.destination,
            size=options.size or None,
            threads=options.threads,
            on_corrupt="skip" if options.skip_corrupt else "raise",
            progress=report,
        )
    print(f"{packed!r}, {len(packed.header.skipped)} skipped")
    return 0


def _verify(options: argparse.Namespace, packed: PackedSource) -> int:
    damaged = 0
    with _progress(options, "verifying") as report:
        for index in range(len(packed)):
            try:
                packed[index]
            except CorruptDataError as error:
                damaged += 1
                print(error, file=sys.stderr)
            report(index + 1, len(packed), damaged)
    print(f"{packed!r}, {damaged} damaged")
    return 1 if damaged else 0


def _info(options: argparse.Namespace, source: Source) -> int:
    shape, dtype, _, _ = BatchPlan(source, 1).form
    print(f"{source!r}\nfirst image: {dtype}{list(shape)}\nclasses: {len(source.classes)}")
    return 0


@contextmanager
def _progress(options: argparse.Namespace, what: str) -> Iterator[Report]:
    """What takes reports; the first one says in ``options`` that the work has begun."""
    with _display(what) as display:

        def report(done: int, total: int, bad: int) -> None:
            options.begun = True
            display(done, total, bad)

        yield report


@contextmanager
def _display(what: str) -> Iterator[Report]:
    """A bar on a terminal; elsewhere a line for every tenth of the work."""
    if not sys.stderr.isatty():
        yield _Lines(what)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[bad]} bad"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None, bad=0)
        yield lambda done, total, bad: progress.update(task, completed=done, total=total, bad=bad)


class _Lines:
    def __init__(self, what: str) -> None:
        self._what = what
        self._tenths = 0

    def __call__(self, done: int, total: int, bad: int) -> None:
        tenths = 10 * done // max(total, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            print(f"{self._what}: {done} of {total}, {bad} bad", file=sys.stderr)


if __name__ == "__main__":
    end_with(main)
