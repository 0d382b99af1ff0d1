"""The command line: what a good run leaves, and what is said about a bad one."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tomllib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from clidmu_tf import data
from clidmu_tf.errors import UserError
from clidmu_tf.files import read_arrays
from clidmu_tf.runs import config as config_module
from clidmu_tf.runs import evaluation, outcome, strategies, training
from clidmu_tf.runs import tasks as run
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
from command import assert_refused, numbers_alone

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
    "--train_examples=300",
    "--epochs=2",
    "--batch_size=50",
    "--noise=symmetric",
    "--noise_rate=0.4",
    "--snapshots=2",
)


def start(*arguments):
    """Runs `train.py` in a process of its own."""
    command = [sys.executable, ROOT / "train.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A good run's workdir, and the process that made it."""
    workdir = tmp_path_factory.mktemp("good") / "run"
    return workdir, start(*SMALL, f"--workdir={workdir}")


# --- a good run


def test_good_run_leaves_what_was_promised(finished):
    workdir, process = finished
    assert process.returncode == 0, process.stderr
    left = {p.relative_to(workdir).as_posix() for p in contents(workdir)}
    assert {
        "config.cfg",
        "source.json",
        "fingerprint.npz",
        "metrics.csv",
        "summary.json",
        "curves.png",
        "weights.png",
        "export/1/saved_model.pb",
        "export_ensemble/1/saved_model.pb",
        "checkpoints/step-000000006.npz",
        "checkpoints/step-000000012.npz",
    } <= left
    assert any(name.startswith("tensorboard/train/events") for name in left)
    assert not [name for name in left if ".part" in name or "/part/" in name]
    for picture in ("curves.png", "weights.png"):
        assert (workdir / picture).read_bytes().startswith(b"\x89PNG")
    assert (workdir / "metrics.csv").read_text().count("\n") == 1 + 2


def test_summary_says_what_the_run_came_to(finished):
    workdir, process = finished
    summary = json.loads((workdir / "summary.json").read_text())
    rows = np.genfromtxt(workdir / "metrics.csv", delimiter=",", names=True)
    best = rows["snapshot_clid"].argmin()
    labels = Experiment(config_module.read(workdir / "config.cfg")).source.train
    assert summary == {
        "dataset": "digits",
        "method": "clid_mu",
        "epochs": 2,
        "train_examples": 300,
        "wrong_labels": np.mean(labels.labels != labels.clean_labels),
        "accuracy_on": "test labels",
        "noise": "symmetric",
        "noise_rate": 0.4,
        "last_accuracy": rows["val_accuracy"][-1],
        "best_by_clid_accuracy": rows["val_accuracy"][best],
        "best_by_clid_epoch": best + 1,
        "snapshot_ensemble_accuracy": summary["snapshot_ensemble_accuracy"],
    }
    for name in ("last_accuracy", "snapshot_ensemble_accuracy"):
        assert f"{summary[name]:.4f}" in process.stdout


def test_its_config_runs_again_to_the_same_numbers(finished, cli, tmp_path):
    workdir, _ = finished
    to = tmp_path / "again"
    with numbers_alone():
        again = cli(f"--flagfile={workdir}/config.cfg", f"--workdir={to}")
    assert again.code == 0, again.err
    for name in ("metrics.csv", "summary.json"):
        assert (to / name).read_text() == (workdir / name).read_text()


def test_evaluate_needs_the_finished_workdir_alone(finished, cli):
    workdir, _ = finished
    before = contents(workdir)
    found = cli("--task=evaluate", f"--workdir={workdir}")
    summary = json.loads((workdir / "summary.json").read_text())
    last, ensemble = found.out.splitlines()[-2:]
    assert last.startswith("classifier") and "on 500 test labels" in last
    assert f"accuracy {summary['last_accuracy']:.4f}" in last
    assert f"accuracy {summary['snapshot_ensemble_accuracy']:.4f}" in ensemble
    assert contents(workdir) == before


def test_second_run_in_a_finished_workdir_changes_nothing(finished, cli):
    workdir, _ = finished
    before = contents(workdir)
    found = cli(*SMALL, f"--workdir={workdir}")
    assert found.code == 0 and "This run is finished: raise --epochs" in found.out
    assert "snapshot ensemble" in found.out  # the table once more
    assert contents(workdir) == before


def test_export_of_an_unfinished_run_serves_its_last_checkpoint(cli, tmp_path):
    workdir = tmp_path / "run"
    flag = f"--workdir={workdir}"
    kill = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "tensorboard", lambda workdir: kill)
        stopped = cli(*SMALL, flag)
    assert stopped.code == 75 and "Saved at step 1 and stopped" in stopped.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", None)  # an export needs no data
        exported = cli("--task=export", flag)
    assert exported.code == 0 and "as of step 1 " in exported.out
    saved = read_arrays(workdir / "checkpoints" / "step-000000001.npz").values()
    served = tf.saved_model.load(str(workdir / "export" / "1")).variables
    kernels = [v.numpy() for v in served if len(v.shape) > 1]
    assert len(kernels) > 3
    for kernel in kernels:
        assert any(np.array_equal(kernel, array) for array in saved)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.cfg")), ids=str)
def test_every_config_file_is_understood(path):
    with flagsaver.flagsaver():
        left = flags.FLAGS(["train.py", f"--flagfile={path}"])
        assert left == ["train.py"]
        fields = Config.__dataclass_fields__
        config = Config(**{name: flags.FLAGS[name].value for name in fields})
    assert config.workdir.startswith("runs/")


def test_config_comes_back_from_its_file(tmp_path):
    config = Config(learning_rate=1e-7, resume=False, data_dir="/a b=c", seed=3)
    (tmp_path / "config.cfg").write_text("# words\n" + "\n".join(config.flags()))
    assert config_module.read(tmp_path / "config.cfg") == config


def test_largest_seed_trains(cli, tmp_path):
    largest = (*SMALL, "--seed=4294967295", "--epochs=1", "--steps_per_epoch=1")
    # VRI, the augmentation and the meta batches draw from it too.
    more = ("--weight_net=vri", "--augment=flip,", "--meta_batch_size=20")
    assert cli(*largest, *more, f"--workdir={tmp_path / 'run'}").code == 0


def test_settings_without_use_are_named(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *args: (None, None))
    monkeypatch.setattr(outcome, "finish", lambda *args: None)
    flags = ("--weight_net=vri", "--warmup_epochs=1", "--meta_examples=30")
    for method, words in [
        ("cross_entropy", "no use of --weight_net=vri --warmup_epochs=1.\n"),
        ("clid_mu", ""),
    ]:
        workdir = f"--workdir={tmp_path / method}"
        found = cli(*SMALL, f"--method={method}", *flags, workdir)
        assert found.code == 0 and found.out.endswith(words)
        assert ("no use of" in found.out) == bool(words)


# --- what is wrong with the command


def test_installed_command_is_train_py_by_another_name(tmp_path):
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = script["clidmu-tf"].split(":")
    wrapper = tmp_path / "clidmu-tf"  # as pip writes it
    wrapper.write_text(f"from {module} import {function}\n{function}()\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for flag in ("--helpshort", "--epochs=0"):
        ours = start(flag)
        theirs = subprocess.run(
            [sys.executable, wrapper, flag],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert theirs.returncode == ours.returncode
        for a, b in ((ours.stdout, theirs.stdout), (ours.stderr, theirs.stderr)):
            a = a.replace(str(ROOT / "train.py"), str(wrapper))
            assert a.replace("train.py: ", "clidmu-tf: ") == b
    assert theirs.stderr.startswith("clidmu-tf: --epochs must be 1 or more")
    assert theirs.stderr.count("\n") == 1  # TensorFlow's start says nothing


def test_a_python_without_the_packages_is_told_so():
    without = [sys.executable, "-S", ROOT / "train.py"]  # no site-packages
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = subprocess.run(without, capture_output=True, text=True, env=environment)
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert "has no absl" in found.stderr and "pip install" in found.stderr


def test_oracle_without_true_labels_is_refused(cli, tmp_path):
    class_folders(tmp_path / "images")
    workdir = tmp_path / "run"
    found = cli(
        *("--dataset=folder", f"--data_dir={tmp_path / 'images'}", "--image_size=8"),
        *("--batch_size=4", "--meta_objective=mae", f"--workdir={workdir}"),
    )
    assert_refused(found, "supervised meta objective needs true", "--clean_label_key")
    assert not workdir.exists()


def class_folders(root):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (9, 9), (40 * i, 0, 0)).save(root / name / f"{i}.png")


def test_export_outlives_the_folder_that_was_trained_on(cli, tmp_path):
    class_folders(tmp_path / "images")
    workdir = tmp_path / "run"
    trained = cli(
        *("--dataset=folder", f"--data_dir={tmp_path / 'images'}", "--image_size=8"),
        *("--batch_size=4", "--epochs=1", f"--workdir={workdir}"),
    )
    assert trained.code == 0, trained.err
    written = contents(workdir / "export")
    shutil.rmtree(workdir / "export")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    found = cli("--task=export", f"--workdir={workdir}")
    assert found.code == 0, found.err
    names = workdir / "export" / "1" / "assets.extra" / "labels.txt"
    assert names.read_text() == "cat\ndog\n"
    assert contents(workdir / "export").keys() == written.keys()
    (workdir / "source.json").unlink()
    found = cli("--task=export", f"--workdir={workdir}")
    assert_refused(found, "holds no source.json", "--task=train")


def test_corrupt_image_is_refused_by_name_or_skipped(cli, tmp_path):
    class_folders(tmp_path / "images")
    (tmp_path / "images" / "cat" / "broken.png").write_text("no image")
    settings = (
        *("--dataset=folder", f"--data_dir={tmp_path / 'images'}", "--image_size=8"),
        *("--batch_size=4", "--epochs=1", "--method=cross_entropy"),
        f"--workdir={tmp_path / 'run'}",
    )
    assert_refused(cli(*settings), "cat/broken.png", "--on_bad_image=skip")
    assert not (tmp_path / "run").exists()
    assert cli(*settings, "--on_bad_image=skip").code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["train_examples"] == 10 and summary["wrong_labels"] is None


@pytest.mark.parametrize("label", [10, -1])
@pytest.mark.parametrize("which", ["train", "test"])
def test_labels_out_of_range_are_refused(which, label, cli, tmp_path, monkeypatch):
    source = data.load("digits")
    getattr(source, which).labels[3] = label
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: source)
    found = cli(*SMALL, f"--workdir={tmp_path / 'run'}")
    name = {"train": "training", "test": "test"}[which]
    assert_refused(found, f"The {name} data of digits", f"received {label} at index 3")
    assert not (tmp_path / "run").exists()


def test_run_that_diverges_says_so(cli, tmp_path):
    found = cli(*SMALL, "--learning_rate=1e30", f"--workdir={tmp_path / 'run'}")
    assert_refused(found, "The loss is nan", "lower the learning rate", code=3)


@pytest.mark.parametrize("name", ["val_loss", "snapshot_clid"])
def test_run_that_diverges_in_its_last_step_saves_nothing(
    name, cli, tmp_path, monkeypatch
):
    # One step: its loss is that of the weights before it.
    bad = (*SMALL, "--method=cross_entropy", "--learning_rate=1e30", "--epochs=1")
    if name == "snapshot_clid":
        good = {"accuracy": 0.1, "loss": 2.3}
        monkeypatch.setattr(evaluation, "evaluator", lambda *args: lambda: good)
    workdir = tmp_path / "run"
    found = cli(*bad, "--steps_per_epoch=1", f"--workdir={workdir}")
    assert_refused(found, f"{name} is nan after epoch 1", "learning rate", code=3)
    assert not list((workdir / "checkpoints").iterdir())
    assert not (workdir / "metrics.csv").exists()


def test_interrupt_is_said_in_a_line(cli, monkeypatch):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setitem(run.TASKS, "train", interrupt)
    words = "Interrupted: run the same", "go on from the last checkpoint"
    assert_refused(cli("--task=train"), *words, code=130)


# --- whose the workdir is


@pytest.mark.parametrize("task", ["audit", "evaluate", "export"])
def test_task_on_a_run_takes_no_settings_of_another(task, finished, cli):
    workdir, _ = finished
    task = (f"--task={task}", f"--workdir={workdir}")
    found = cli(*task, *SMALL, "--dataset=foo", "--seed=1", "--jit=off")
    assert_refused(found, "which differs in --seed=1 --dataset=foo: leave them out")


def test_workdir_of_another_run_is_not_touched(finished, cli):
    workdir, _ = finished
    before = contents(workdir)
    found = cli(*SMALL, "--seed=1", "--epochs=3", f"--workdir={workdir}")
    assert_refused(found, "holds another run", "--seed=1 --epochs=3")
    found = cli(*SMALL, "--resume=false", f"--workdir={workdir}")
    assert_refused(found, "already holds this run")
    assert contents(workdir) == before


def test_workdir_with_other_files_is_not_touched(cli, tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    assert_refused(
        cli(*SMALL, f"--workdir={tmp_path}"), "is not empty and holds no run"
    )
    assert os.listdir(tmp_path) == ["thesis.tex"]
    found = cli(*SMALL, f"--workdir={tmp_path / 'thesis.tex'}")
    assert_refused(found, "holds no run")
    found = cli(*SMALL, f"--workdir={tmp_path / 'thesis.tex' / 'run'}")
    assert_refused(found, "cannot be used (Not a directory)")
    assert (tmp_path / "thesis.tex").read_text() == "words"


def test_workdir_that_may_not_be_written_is_refused(cli, tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = cli(*SMALL, f"--workdir={tmp_path / 'shared'}")
    assert_refused(found, "cannot be used (Permission denied)", "may write to")
    assert not os.listdir(tmp_path / "shared")


def test_kill_while_the_workdir_was_taken_does_no_harm(tmp_path):
    (tmp_path / "config.cfg.part").write_text("--tas")
    workdir, config = run.Workdir(tmp_path), Config()
    workdir.claim(config)
    (tmp_path / "checkpoints").rmdir()
    workdir.claim(config)
    assert workdir.checkpoints.is_dir() and workdir.read_config() == config


def test_full_disk_is_named(cli, tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    found = cli(*SMALL, f"--workdir={tmp_path / 'run'}")
    assert_refused(found, "Could not write", "No space left on device", "make room")


# --- devices


def test_task_index_may_be_a_string_as_in_tensorflow():
    strategies.check_tf_config(
        '{"cluster": {"worker": ["a:1"]}, "task": {"index": "0"}}'
    )


def test_batch_must_divide_by_the_replicas():
    three = types.SimpleNamespace(num_replicas_in_sync=3)
    with pytest.raises(UserError, match="--batch_size=50 .* their number, 3"):
        strategies.distribute(three, None, 50)
