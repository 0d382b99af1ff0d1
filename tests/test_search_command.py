"""A search from the command line: killed, finished, started again."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras_tuner
import pandas as pd
import pytest

from clidmu_tf.errors import UserError
from clidmu_tf.runs import config as config_module
from clidmu_tf.runs import tasks as run
from clidmu_tf.runs import trials
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.workdir import Workdir

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
SMALL = Config(
    task="tune",
    train_examples=150,
    noise="symmetric",
    noise_rate=0.4,
    batch_size=40,
    epochs=2,
    trials=3,
    snapshots=1,
    tune_space="learning_rate,batch_size",
    method="cross_entropy",
    checkpoint_every=2,
)


def command(config):
    return [sys.executable, ROOT / "train.py", *config.flags()]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A search killed in its second trial, then started again; and an unkilled one."""
    killed, whole = (
        SMALL.replace(workdir=str(tmp_path_factory.mktemp(name) / "search"))
        for name in ("killed", "whole")
    )
    asked_before = killed.replace(trials=2)  # a search may be asked for more trials
    process = subprocess.Popen(
        command(asked_before), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    second = Workdir(killed.workdir).trials / "001" / "checkpoints"
    while process.poll() is None and not list(second.glob("step-*.npz")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (second.parent / "summary.json").exists()
    first = Workdir(killed.workdir).trials / "000" / "summary.json"
    before = first.stat().st_mtime_ns
    for config in (killed, whole):
        run.TASKS["tune"](config)
    assert first.stat().st_mtime_ns == before
    return Workdir(killed.workdir), Workdir(whole.workdir)


def test_killed_search_ends_with_the_trials_of_an_unkilled_one(killed):
    found, expected = (w.path / "trials.csv" for w in killed)
    assert found.read_text() == expected.read_text()
    assert len(pd.read_csv(found)) == 3
    for number in range(3):
        rows = [
            (w.trials / f"{number:03d}" / "metrics.csv").read_text() for w in killed
        ]
        assert rows[0] == rows[1]


def test_best_config_reproduces_its_trials_score(killed):
    workdir = killed[1]
    best = config_module.read(workdir.best)
    assert best.task == "train" and best.workdir == str(workdir.path / "best")
    run.TASKS["train"](best)
    summary = Workdir(best.workdir).read_summary()
    row = pd.read_csv(workdir.path / "trials.csv").iloc[0]
    assert summary["noisy_accuracy"] == row["noisy_accuracy"]
    assert summary["val_clid_ref"] == row["val_clid_ref"]
    assert summary["last_accuracy"] == row["clean_accuracy (oracle)"]
    assert (best.learning_rate, best.batch_size) == (
        row["learning_rate"],
        row["batch_size"],
    )


def test_finished_search_prints_its_table_again(killed, capsys):
    workdir = killed[1]
    before = {p: p.stat().st_mtime_ns for p in workdir.trials.rglob("*")}
    run.TASKS["tune"](workdir.read_config())
    printed = capsys.readouterr().out
    best = pd.read_csv(workdir.path / "trials.csv")["trial"].iloc[0]
    assert f"Best: trial {best}," in printed and "clean_accuracy (oracle)" in printed
    assert {p: p.stat().st_mtime_ns for p in workdir.trials.rglob("*")} == before


def test_a_search_and_a_run_share_no_folder(killed):
    workdir = killed[1]
    searching = workdir.read_config()
    with pytest.raises(UserError, match="holds a search, not a run, .* --task=train"):
        run.TASKS["train"](searching.replace(task="train"))
    trial = config_module.read(workdir.trials / "000" / "config.cfg")
    with pytest.raises(UserError, match="holds a run, not a search, .* --task=tune"):
        run.TASKS["tune"](trial.replace(task="tune", tune_space="learning_rate"))
    for task in ("evaluate", "export"):
        with pytest.raises(UserError, match="holds a search: give one of its trials"):
            run.TASKS[task](searching)


def test_a_floor_above_the_lowest_rate_of_a_search_is_refused_before_it(tmp_path):
    config = SMALL.replace(lr_schedule="cosine", lr_min=0.005, workdir=str(tmp_path))
    with pytest.raises(UserError, match="--lr_min=0.005 is above --learning_rate=0.00"):
        run.TASKS["tune"](config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["temperature", "meta_batch_size"])
def test_a_meta_batch_that_is_too_large_is_refused_before_a_search(name, tmp_path):
    sizes = {"meta_batch_size": 50, "meta_examples": 40, "method": "clid_mu"}
    config = SMALL.replace(tune_space=name, workdir=str(tmp_path), **sizes)
    with pytest.raises(UserError, match="--meta_batch_size=50 is larger than the 40"):
        run.TASKS["tune"](config)
    assert not list(tmp_path.iterdir())


def test_trial_that_another_search_left_is_trained_anew(killed, capsys):
    workdir = killed[1]
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.values["learning_rate"] = 0.123
    config = workdir.read_config().replace(workdir=str(workdir.path))
    train = functools.partial(run.train, is_trial=True)
    trials.Trials(config, train).run(2, hyperparameters)
    assert "went another way" in capsys.readouterr().out
    found = config_module.read(workdir.trials / "002" / "config.cfg")
    assert found.learning_rate == 0.123


def test_hyperband_goes_on_as_if_never_cut(tmp_path):
    config = SMALL.replace(
        tuner="hyperband",
        epochs=4,
        lr_schedule="cosine",
        noisy_holdout=0.2,
        workdir=str(tmp_path / "s"),
    )
    train = functools.partial(run.train, is_trial=True)
    short, long = keras_tuner.HyperParameters(), keras_tuner.HyperParameters()
    short.values.update({"learning_rate": 0.05, "tuner/epochs": 2})
    long.values.update({"learning_rate": 0.05, "tuner/epochs": 4})
    found = trials.Trials(config, train)
    found.run(0, short)
    afresh = found.run(1, long)
    long.values["tuner/trial_id"] = "0000"
    went_on = found.run(2, long)
    assert went_on == afresh
    rows = [
        (Workdir(config.workdir).trials / name / "metrics.csv").read_text().split()
        for name in ("000", "001", "002")
    ]
    assert rows[2] == rows[1] and rows[0] == rows[1][:3]


def test_a_start_that_is_copied_after_a_kill_is_the_whole_one(tmp_path, monkeypatch):
    past, workdir = Workdir(tmp_path / "past"), Workdir(tmp_path / "next")
    names = [f"{n}.npz" for n in ("snapshot-1", "snapshot-2", "step-03", "step-12")]
    for folder in (past.checkpoints, workdir.checkpoints):
        folder.mkdir(parents=True)
    for name in names:
        (past.checkpoints / name).write_text(name)
    replace, wanted = os.replace, {*names} - {"step-03.npz"}
    for kills in range(len(wanted)):
        left = iter(range(kills))

        def killed(source, target, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            trials.start_from(past, workdir)
        monkeypatch.undo()
        trials.start_from(past, workdir)
        found = {path.name for path in workdir.checkpoints.glob("*.npz")}
        assert found == wanted
        for path in workdir.checkpoints.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"tune_space": "learning_rate,colour"}, "has no 'colour' to search"),
        ({"method": "clid_mu", "tune_space": "colour"}, "some of .*temperature"),
        ({"tune_space": ""}, "A search takes batch_size"),
        ({"tune_space": "temperature"}, "has no 'temperature' to search"),
        ({"strategy": "multi_worker"}, "takes no --strategy=multi_worker"),
        ({"batch_size": 130}, "--batch_size=130 is larger .* 120 examples"),
    ],
)
def test_search_that_cannot_be_leaves_no_workdir(changes, words, tmp_path):
    config = SMALL.replace(workdir=str(tmp_path / "search"), **changes)
    with pytest.raises(UserError, match=words):
        run.TASKS["tune"](config)
    assert not (tmp_path / "search").exists()
