"""A run that was cut, at whatever moment, ends as if it had not been."""

import errno
import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest

from clidmu_tf.engine.callbacks import MetricsLog
from clidmu_tf.engine.checkpoints import Checkpointer, variables_of
from clidmu_tf.errors import Preempted, UserError
from clidmu_tf.files import read_arrays, write_arrays, write_atomically
from clidmu_tf.runs import training
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
from command import train

pytestmark = pytest.mark.slow

STEPS, EPOCHS = 6, 3


def config_of(workdir, **changes):
    settings = {
        "workdir": str(workdir),
        "train_examples": 300,
        "batch_size": 50,
        "epochs": EPOCHS,
        "noise": "symmetric",
        "noise_rate": 0.4,
        "augment": "flip",
        "meta_batch_size": 40,
        "meta_examples": 100,
        "warmup_epochs": 1,
        "weight_net": "vri",  # it draws random numbers, the state of which is saved
        "lr_schedule": "cosine",
        "snapshots": 2,
        "checkpoint_every": 4,
    }
    return Config(**(settings | changes))


class Whole:
    """What a finished run left, but for pictures and logs."""

    def __init__(self, workdir):
        self.metrics = (workdir / "metrics.csv").read_text()
        self.summary = json.loads((workdir / "summary.json").read_text())
        files = sorted((workdir / "checkpoints").iterdir())
        self.arrays = {file.name: read_arrays(file) for file in files}

    def assert_same(self, other):
        assert self.metrics == other.metrics
        assert self.summary == other.summary
        assert list(self.arrays) == list(other.arrays)
        for file, arrays in self.arrays.items():
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, other.arrays[file][name])


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uncut") / "run"
    train(config_of(workdir))
    return workdir


def test_uncut_run_keeps_the_last_two_checkpoints(uncut):
    files = sorted(path.name for path in (uncut / "checkpoints").iterdir())
    saved = [name for name in files if name.startswith("step-")]
    assert saved == ["step-000000016.npz", "step-000000018.npz"]
    assert len(files) == 4  # and two snapshots
    assert (uncut / "metrics.csv").read_text().count("\n") == 1 + EPOCHS


class Cut(keras.callbacks.Callback):
    """Does something to the run after some step."""

    def __init__(self, step, act):
        super().__init__()
        self.step, self.act = step, act

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            self.act()


def crash():
    raise MemoryError("out of memory")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def fill_disk():
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = no_space


CUTS = [
    # after which step, what happens, what the run ends with, where it goes on
    (3, crash, MemoryError("out of memory"), 0),
    (5, crash, MemoryError("out of memory"), 4),
    (9, terminate, Preempted("Saved at step 9"), 9),
    (12, terminate, Preempted("Saved at step 12"), 12),
    (14, fill_disk, UserError("No space left on device"), 12),
    (18, terminate, Preempted("Saved at step 18"), 18),
]


def test_run_cut_in_every_way_ends_as_the_uncut_one(uncut, tmp_path, capsys):
    config = config_of(tmp_path / "run")
    for step, act, error, goes_on_at in CUTS:
        keras.utils.set_random_seed(step)  # what the process drew before is no matter
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", os.fsync)  # undoes `fill_disk`
            cut = Cut(step, act)
            patch.setattr(training, "tensorboard", lambda workdir, cut=cut: cut)
            with pytest.raises(type(error), match=str(error)):
                train(config)
        assert saver_of(tmp_path / "run").restore(model_of(uncut)) == goes_on_at
        assert not (tmp_path / "run" / "summary.json").exists()
    capsys.readouterr()
    train(config)
    assert "Going on at step 18 of 18" in capsys.readouterr().out
    Whole(uncut).assert_same(Whole(tmp_path / "run"))


@pytest.fixture
def copy(uncut, tmp_path):
    """A run that was killed after its last checkpoint."""
    workdir = shutil.copytree(uncut, tmp_path / "copy")
    (workdir / "summary.json").unlink()
    return workdir


def damage(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "cut short":
        content = content[: len(content) // 2]
    elif kind == "emptied":
        content = b""
    else:
        content[len(content) // 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["cut short", "emptied", "one bit flipped"])
def test_damaged_checkpoint_falls_back_to_the_one_before(kind, copy, caplog):
    damage(copy / "checkpoints" / "step-000000018.npz", kind)
    model = model_of(copy)
    assert saver_of(copy).restore(model) == 16
    assert "step-000000018.npz is damaged" in caplog.text


def test_run_goes_on_from_the_checkpoint_before(uncut, copy):
    damage(copy / "checkpoints" / "step-000000018.npz", "cut short")
    part = copy / "checkpoints" / "step-000000004.npz.part"
    part.write_bytes(b"what a kill left")
    train(config_of(copy))
    Whole(uncut).assert_same(Whole(copy))
    assert not part.exists()


def test_damaged_snapshot_is_named(copy):
    path = next((copy / "checkpoints").glob("snapshot-*.npz"))
    damage(path, "cut short")
    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        train(config_of(copy))


def test_no_checkpoint_that_can_be_read_is_an_error(copy):
    for path in (copy / "checkpoints").glob("step-*.npz"):
        damage(path, "cut short")
    with pytest.raises(UserError, match="No checkpoint in .* can be read"):
        train(config_of(copy))
    assert len(list((copy / "checkpoints").glob("step-*.npz"))) == 2


def model_of(workdir, **changes):
    return Experiment(config_of(workdir, **changes)).model


def saver_of(workdir):
    return Checkpointer(workdir / "checkpoints", MetricsLog(workdir / "metrics.csv"))


def test_restoring_puts_back_every_variable(uncut):
    model, saver = model_of(uncut), saver_of(uncut)
    assert saver.restore(model) == 18
    variables = variables_of(model)
    names = [f"{name} {variable.path}" for name, variable in variables.items()]
    for part in ("momentum", "iteration", "seed_generator", "class_mean", "accuracy"):
        assert any(part in name for name in names), part
    assert len(saver.metrics_log.rows) == EPOCHS
    record = read_arrays(uncut / "checkpoints" / "step-000000018.npz")
    for name, variable in variables.items():
        np.testing.assert_array_equal(variable.numpy(), record[name])


@pytest.mark.parametrize(
    "changes",
    [{"backbone": "small_cnn"}, {"weight_net": "wnet"}, {"optimizer": "adam"}],
)
def test_checkpoint_of_another_network_is_refused(uncut, changes):
    model = model_of(uncut, **changes)
    before = {n: variable.numpy() for n, variable in variables_of(model).items()}
    with pytest.raises(UserError, match="of another network"):
        saver_of(uncut).restore(model)
    for name, variable in variables_of(model).items():
        np.testing.assert_array_equal(variable.numpy(), before[name])


# --- files


def test_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def write(file):
        file.write(b"ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"file \(No space left on device\).*intact"):
        write_atomically(path, write)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def write(file):
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    write_atomically(path, write)
    assert path.read_bytes() == b"new"


def test_arrays_come_back_with_their_types(tmp_path):
    arrays = {"a": np.float32([1, np.nan]), "b": np.uint32(7), "c": np.array("text")}
    write_arrays(tmp_path / "file.npz", **arrays)
    found = read_arrays(tmp_path / "file.npz")
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_any_damage_is_noticed(tmp_path):
    path = tmp_path / "file.npz"
    values = np.arange(40.0)
    write_arrays(path, values=values, step=3)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :]
        )
        try:  # some bytes, such as a time of day, mean nothing
            found = read_arrays(path)
        except UserError:
            continue
        assert found["step"] == 3
        np.testing.assert_array_equal(found["values"], values)
