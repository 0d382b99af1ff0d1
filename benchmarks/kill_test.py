"""Kills runs again and again, and asks whether what they leave shows it.

    python -m benchmarks.kill_test --kills=200  # 40 minutes; --phases=export for a try

Each phase is done twice: once in peace, once killed with SIGKILL and started again
until it comes to its end, as often as it takes to be killed so many times. Every other
kill falls before a change of a file in the phase's folder, each of them in turn, the
others at a random moment, from the start of Python on. All files must then be the same,
but for TensorBoard's and the lock, and in place of an old export there must be one,
the old or the new, at any time.
"""

import argparse
import dataclasses
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import tensorflow as tf

from benchmarks import report
from benchmarks.prepare import write_images, write_lists
from clidmu_tf.runs import export

ROOT = pathlib.Path(__file__).parents[1]
NEVER = 10**9
# What a run leaves behind its last checkpoint.
OF_THE_END = ("*.csv", "*.png", "report.html", "summary.json", "export*")
# What is not the same from run to run, or is compared as what it holds.
APART = (
    *("events.out.tfevents*", "lock", "*.pb"),
    *("*.npz", "variables.*", "*.tfrecord-*"),
)


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run's life.

    Attributes:
        flags: Flags of `train.py`, which works in a folder that is yet to be named.
        folder: The flag that names it.
        start: Makes the folder as it is before the phase.
    """

    flags: list[str]
    folder: str = "workdir"
    start: Callable[[pathlib.Path], None] = lambda folder: None


def phases_in(scratch, seed):
    """The phases by name.

    Args:
        scratch: Folder for what they share.
        seed: Of the runs.
    """
    run = ["--flagfile=configs/digits.cfg", "--train_examples=300", f"--seed={seed}"]
    train = [*run, "--epochs=6", "--batch_size=50", "--checkpoint_every=3"]
    of_trials = ["--trials=3", "--tune_space=batch_size", "--method=cross_entropy"]
    search = [*run, "--task=tune", "--epochs=2", "--batch_size=40", *of_trials]
    finished, images = scratch / "finished", scratch / "images"

    def finish(folder):
        if not finished.exists():
            run_in_peace(Phase(train), finished)
        shutil.copytree(finished, folder)

    def train_to_the_end(folder):
        finish(folder)
        for pattern in OF_THE_END:
            for path in folder.glob(pattern):
                if path.name != "metrics.csv":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def write_data(folder):
        if not images.exists():
            lines, _ = write_images(images, 40, side=64)
            write_lists(images, lines)

    prepare = ["--task=prepare", "--dataset=webvision/mini", f"--manual_dir={images}"]
    return {
        "train": Phase(train),
        "end": Phase(train, start=train_to_the_end),
        "audit": Phase(["--task=audit"], start=finish),
        "export": Phase(["--task=export"], start=finish),
        "tune": Phase(search),
        "prepare": Phase(prepare, folder="data_dir", start=write_data),
    }


def run_in_peace(phase, folder):
    """Does a phase unkilled; returns its seconds, and its changes of files."""
    began = time.monotonic()
    process = start(phase, folder)
    process.wait()
    check(process, folder)
    changes = int(log_of(folder).read_text().split()[-1])
    return time.monotonic() - began, changes


def kill_again_and_again(phase, folder, kills, seconds, changes, rng, peace):
    """Does a phase, killed so many times.

    Args:
        phase: The phase.
        folder: Where; not there yet.
        kills: Number of kills.
        seconds: What it takes in peace.
        changes: Changes of files that it makes in peace.
        rng: Decides the moments.
        peace: What it leaves in peace, by name.

    Returns:
        How often it came to its end, and the set of what differed then.
    """
    order, killed, ended, different = rng.permutation(changes), 0, 0, set()
    begin(phase, folder)
    while True:
        at_a_change = killed % 2 == 0 and killed < kills
        last = 1 + order[killed // 2 % changes] if at_a_change else NEVER
        process = start(phase, folder, last)
        if not at_a_change and killed < kills:
            wait_until(process, rng.uniform(0, 1.1 * seconds))
        process.wait()
        if process.returncode == -signal.SIGKILL:
            killed += 1
            different |= without_an_export(phase, folder)
            continue
        check(process, folder)
        ended += 1
        different |= differences(peace, contents(folder))
        if killed == kills:
            return ended, different
        begin(phase, folder)


def begin(phase, folder):
    """Makes the folder as it is before the phase."""
    shutil.rmtree(folder, ignore_errors=True)
    phase.start(folder)


def start(phase, folder, last=NEVER):
    """Starts a phase that is killed before its last change of a file."""
    flags = [*phase.flags, f"--{phase.folder}={folder}"]
    command = [sys.executable, "-m", "benchmarks.killed_at", folder, str(last), *flags]
    with open(log_of(folder), "w") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def wait_until(process, seconds):
    """Kills a process after so many seconds, unless it has ended."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()


def check(process, folder):
    """Raises a RuntimeError where a process failed."""
    if process.returncode:
        output = log_of(folder).read_text()
        raise RuntimeError(f"train.py exited with {process.returncode}:\n{output}")


def log_of(folder):
    """What a phase prints; beside its folder, which must be its own."""
    return pathlib.Path(f"{folder}.log")


def without_an_export(phase, folder):
    """Says that there is none, where there was one before the phase."""
    if "--task=export" not in phase.flags:
        return set()
    try:
        export.load(folder / "export" / "1")
    except ValueError as error:
        return {str(error)}
    return set()


def contents(folder):
    """What a folder holds, by name: bytes of files, arrays, columns of records."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(map(path.match, APART)):
            found[name] = path.read_bytes().replace(bytes(folder), b"FOLDER")
        elif path.match("*.npz"):
            with np.load(path) as file:
                found |= {f"{name} {key}": file[key].tobytes() for key in file.files}
        elif path.match("variables.index"):
            reader = tf.train.load_checkpoint(path.with_suffix(""))
            keys = [key for key in reader.get_variable_to_dtype_map() if key[0] != "_"]
            found |= {f"{name} {k}": reader.get_tensor(k).tobytes() for k in keys}
        elif path.match("*.tfrecord-*"):
            records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
            found |= {f"{name} {i}": columns(r) for i, r in enumerate(records)}
    return found


def columns(record):
    """The columns of a record, which protobuf writes in any order."""
    features = tf.train.Example.FromString(record).features.feature
    return {name: value.SerializeToString() for name, value in features.items()}


def differences(one, two):
    """The names of what differs, or is in one alone."""
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--phases", default="train,end,audit,export,tune,prepare")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names, rows = arguments.phases.split(","), []
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        phases = phases_in(pathlib.Path(scratch), arguments.seed)
        for i, name in enumerate(names):
            kills = arguments.kills // len(names) + (i < arguments.kills % len(names))
            peace, folder = (pathlib.Path(scratch) / f"{name}{n}" for n in (0, 1))
            begin(phases[name], peace)
            seconds, changes = run_in_peace(phases[name], peace)
            ended, different = kill_again_and_again(
                *(phases[name], folder, kills, seconds, changes, rng, contents(peace))
            )
            row = {
                "phase": name,
                "kills": kills,
                "before a change of a file": (kills + 1) // 2,
                "of which there are": changes,
                "at a random moment": kills // 2,
                "came to its end": ended,
                "differences": ", ".join(sorted(different)) or 0,
            }
            rows.append(row)
            print(row, flush=True)
            report.write("kill_test", pd.DataFrame(rows))
    sys.exit(any(row["differences"] for row in rows))


if __name__ == "__main__":
    main()
