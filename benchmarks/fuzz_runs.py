"""Mutated files of a workdir through what reads them; a part of `benchmarks.fuzz`."""

import collections
import pathlib
import tempfile

import numpy as np

from benchmarks.mutations import mutate, told
from clidmu_tf.errors import UserError
from clidmu_tf.files import read_arrays, write_arrays
from clidmu_tf.runs import config as config_module
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.workdir import write_config


def configs(count, seed):
    """The row of `config.cfg`."""
    return fuzz("config.cfg", count, seed, write_settings, judge_settings)


def checkpoints(count, seed):
    """The row of checkpoints."""
    return fuzz("checkpoint", count, seed, write_checkpoint, judge_checkpoint)


def fuzz(name, count, seed, write, judge):
    """The row of a kind of file.

    Args:
        name: What the table calls it.
        count: Mutations.
        seed: Decides them.
        write: Writes a whole file.
        judge: What became of a mutated one: refused, believed or wrong.
    """
    found = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, name)
        write(path)
        original = path.read_bytes()
        for i in range(count):
            path.write_bytes(mutate(original, np.random.default_rng((seed, i))))
            try:
                found[judge(path)] += 1
            except UserError as error:
                found["refused" if "\n" not in str(error) else "wrong"] += 1
            except Exception:
                found[told()] += 1
    believed = found["believed"] + found["wrong"]
    bad = (found["traceback"], found["wrong"])
    return [(name, count, found["refused"], believed, *bad)]


def write_settings(path):
    write_config(path, Config(noise="symmetric", noise_rate=0.6), "A run")


def judge_settings(path):
    """No line of a file that is believed may have been left out, or read otherwise."""
    settings = config_module.read(path).flags()
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    return (
        "believed" if all(map(_is_among, lines, [settings] * len(lines))) else "wrong"
    )


def _is_among(line, settings):
    """Whether a line says what a setting is, in these words or as the same number."""
    name, _, value = line.partition("=")
    known = dict(setting.split("=", 1) for setting in settings)
    try:
        return known[name] == value or float(known[name]) == float(value)
    except (KeyError, ValueError):
        return False


def write_checkpoint(path):
    write_arrays(path, **arrays())


def arrays():
    rng = np.random.default_rng(0)
    return {"weights": rng.normal(size=(9, 5)), "step": np.array(3), "rows": "[]"}


def judge_checkpoint(path):
    found, expected = read_arrays(path), arrays()
    same = [*found] == [*expected] and all(
        np.array_equal(found[name], value) for name, value in expected.items()
    )
    return "believed" if same else "wrong"


SUBJECTS = {"configs": configs, "checkpoints": checkpoints}
