"""Kills training runs with SIGKILL at random moments and resumes them until they are complete.

Run ``python benchmarks/kill_resume.py`` for the long form. Every run that completes must have
the weights, the log and the data position, byte for byte, of a run that was never killed. A
run is a forked child of a process that has imported everything, so that most kills hit training
and saving, not the start of Python. The moment of a kill is drawn in the run's own processor
time (Linux), so that kills are spread over the run however busy the machine is.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from accelkit.checkpoint import load_checkpoint
from accelkit.training.train import main as train

ARGUMENTS = (
    "--data=shapes:160:32", "--model=lenet5", "--model-option=channels=3", "--image-size=32",
    "--epochs=3", "--batch-size=16", "--learning-rate=0.02", "--checkpoint-every=2",
    "--threads=1", "--progress=none", "--resume", "--keep-last=2",
)  # fmt: skip


def start(directory: Path) -> int:
    """Fork a run; returns its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        warnings.simplefilter("error")  # a damaged checkpoint may only be found if there is one
        places = (f"--checkpoint={directory / 'checkpoints'}", f"--log-dir={directory / 'log'}")
        status = train([*ARGUMENTS, *places])
    except BaseException as error:
        print(f"the run died of {error!r}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def processor_time_s(pid: int) -> float:
    """Processor time of all threads of a process that exists, even if it has ended."""
    return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) returns on Linux


def has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_at(pid: int, moment_s: float, delay_s: float) -> None:
    """Kill a run after some processor time and a little more, in which it may wait for a disk."""
    while not has_ended(pid) and processor_time_s(pid) < moment_s:
        time.sleep(0.001)
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)


def result(directory: Path) -> tuple[object, ...]:
    """What must not depend on interruptions."""
    checkpoint = load_checkpoint(directory / "checkpoints")
    tensors = {name: array.tobytes() for name, array in checkpoint.tensors.items()}
    log = (directory / "log" / "log.jsonl").read_bytes()
    info = checkpoint.info
    return tensors, log, info.step, info.data_position, info.metric, info.schedule


def kill_runs(kills: int, seed: int) -> Counter[str]:
    """Kill and resume until ``kills`` have hit; counts kills, completed runs, and saves hit.

    Prints the counts after each run that was completed.

    Raises:
        AssertionError: if a run fails to resume, or ends differently.
    """
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        pid = start(Path(place, "reference"))
        _, status, usage = os.wait4(pid, 0)
        assert status == 0
        whole_s = usage.ru_utime + usage.ru_stime
        expected = result(Path(place, "reference"))
        while counts["kills"] < kills or counts["in a row"]:
            directory = Path(place, "run")
            pid = start(directory)
            if counts["kills"] < kills:
                kill_at(pid, rng.uniform(0.0, 0.8) * whole_s, rng.uniform(0.0, 0.005))
            status = os.waitpid(pid, 0)[1]
            if os.WIFSIGNALED(status):
                counts["kills"] += 1
                counts["in a row"] += 1
                unfinished = list((directory / "checkpoints").glob(".tmp-*"))
                counts["kills within a save"] += bool(unfinished)
                continue
            assert status == 0, f"a run failed to resume after {counts['in a row']} kills"
            assert result(directory) == expected, "a resumed run ended differently"
            hidden = [p.name for p in (directory / "checkpoints").iterdir() if p.name[0] == "."]
            assert hidden == [".lock"], hidden
            counts["completed runs"] += 1
            counts["in a row"] = 0
            shutil.rmtree(directory)
            print(dict(counts), flush=True)
    del counts["in a row"]
    return counts


def main() -> int:
    """Kill a run so many times and resume it; what differs raises. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    counts = kill_runs(options.kills, options.seed)
    print(f"{dict(counts)} in {time.monotonic() - began:.0f} s; all byte-identical")
    return 0


if __name__ == "__main__":
    sys.exit(main())
