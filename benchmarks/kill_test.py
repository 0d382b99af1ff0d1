"""Kills a run again and again, and asks whether the weights show it.

    python -m benchmarks.kill_test --kills=20

The same run is trained twice: once in peace, once killed with SIGKILL at random
moments and started again until it comes to its end. Every variable of the last
checkpoint, the metrics of every epoch and the summary must be the same, bit for bit.
Kills fall into start-up, into training, and into the writing of a checkpoint.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd

from benchmarks import report

ROOT = pathlib.Path(__file__).parents[1]
KINDS = ("writing", "training", "start-up", "training", "writing")
STARTUP_SECONDS = 6.0
JITTER_SECONDS = 0.03
POLL_SECONDS = 0.0005


def run_unkilled(flags, workdir):
    """Trains a run from its start to its end in one process.

    Args:
        flags: Flags of `train.py`, without `--workdir`.
        workdir: Folder of the run.
    """
    _finish(_start(flags, workdir), workdir)


def kill_and_resume(flags, kills, seed, workdir):
    """Trains the same run, killed with SIGKILL so many times on its way.

    Args:
        flags: Flags of `train.py`, without `--workdir`.
        kills: Number of kills.
        seed: Decides the moments.
        workdir: Folder of the run.

    Returns:
        One dictionary a kill: the `kind` of moment, the `step` of the newest
        checkpoint then, and whether the kill `left_part` of a file behind.

    Raises:
        RuntimeError: The run came to its end before the last kill, or failed.
    """
    rng = np.random.default_rng(seed)
    checkpoints = pathlib.Path(workdir) / "checkpoints"
    killed = []
    for kind in itertools.islice(itertools.cycle(KINDS), kills):
        stale = _parts(checkpoints)
        process = _start(flags, workdir)
        _await_moment(kind, checkpoints, stale, process, rng)
        if process.poll() is not None:
            raise RuntimeError(
                f"The run ended by itself after {len(killed)} of {kills} kills; give "
                f"it more epochs, or see {_log(workdir)}."
            )
        process.kill()
        process.wait()
        left = bool(_parts(checkpoints) - stale)
        killed.append({"kind": kind, "step": _newest(checkpoints), "left_part": left})
    _finish(_start(flags, workdir), workdir)
    return killed


def differences(workdir, other):
    """Returns the names of what differs between two finished runs; empty if equal."""
    workdir, other = pathlib.Path(workdir), pathlib.Path(other)
    found = [
        name
        for name in ("metrics.csv", "summary.json")
        if (workdir / name).read_bytes() != (other / name).read_bytes()
    ]
    mine, theirs = map(_last_arrays, (workdir, other))
    return found + [
        name
        for name in sorted(mine.keys() | theirs.keys())
        if name not in mine or name not in theirs or mine[name] != theirs[name]
    ]


def _start(flags, workdir):
    command = [sys.executable, "train.py", *flags, f"--workdir={workdir}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with open(_log(workdir), "a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def _finish(process, workdir):
    if process.wait():
        output = _log(workdir).read_text()
        raise RuntimeError(f"train.py exited with {process.returncode}:\n{output}")


def _log(workdir):
    """What the run prints; beside its folder, which must be its own."""
    return pathlib.Path(f"{workdir}.log")


def _await_moment(kind, checkpoints, stale, process, rng):
    """Returns at a random moment of this kind, or when the process has ended."""
    if kind == "start-up":
        _await(lambda: False, process, timeout=rng.uniform(0.0, STARTUP_SECONDS))
        return
    # New checkpoints show that it trains, and that it gets on from kill to kill.
    for _ in range(rng.integers(1, 3)):
        before = _newest(checkpoints)
        _await(lambda before=before: _newest(checkpoints) > before, process)
    if kind == "writing":
        _await(lambda: _parts(checkpoints) - stale, process)
    else:
        time.sleep(rng.uniform(0.0, JITTER_SECONDS))


def _await(condition, process, timeout=float("inf")):
    end = time.monotonic() + timeout
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def _parts(checkpoints):
    """Name and last change of each file being written, or left half-written."""
    found = set()
    for path in checkpoints.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def _newest(checkpoints):
    """The step of the newest checkpoint; -1 before the first."""
    steps = [int(path.stem.split("-")[1]) for path in checkpoints.glob("step-*.npz")]
    return max(steps, default=-1)


def _last_arrays(workdir):
    """Name → (type, shape, bytes) of all that the last checkpoint holds."""
    path = max((workdir / "checkpoints").glob("step-*.npz"))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in arrays.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    flags = [
        "--flagfile=configs/digits.cfg",
        f"--epochs={arguments.epochs}",
        "--checkpoint_every=3",
        f"--seed={arguments.seed}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        peace, killed = (pathlib.Path(folder) / name for name in ("peace", "killed"))
        run_unkilled(flags, peace)
        kills = kill_and_resume(flags, arguments.kills, arguments.seed, killed)
        different = differences(peace, killed)
    table = pd.DataFrame(kills)
    table.insert(0, "kill", range(1, len(table) + 1))
    print(report.markdown(table))
    row = {
        "run": " ".join(flags),
        "kills": len(kills),
        **{
            f"in {kind}": int((table.kind == kind).sum()) for kind in sorted(set(KINDS))
        },
        "cut a file short": int(table.left_part.sum()),
        "equal, bit for bit": "no: " + ", ".join(different) if different else "yes",
    }
    report.write("kill_test", pd.DataFrame([row]))
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
