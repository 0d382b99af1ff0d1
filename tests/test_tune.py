"""The search: what it proposes, how it goes by scores, what a kill leaves of it."""

import functools
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras
import keras_tuner
import numpy as np
import pandas as pd
import pytest

import clidmu_tf as clidmu
from clidmu_tf import cluster
from clidmu_tf.cluster import is_worker
from clidmu_tf.core.losses import clid
from clidmu_tf.errors import Preempted, TrainingDiverged, UserError
from clidmu_tf.runs import config as config_module
from clidmu_tf.runs import evaluation, trials
from clidmu_tf.runs import tasks as run
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.workdir import Workdir
from clidmu_tf.tuning import search, space

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
SEARCHABLE = Config().searchable()
BASE = {
    "temperature": 0.5,
    "batch_size": 100,
    "learning_rate": 0.02,
    "meta_learning_rate": 1e-3,
    "warmup_epochs": 0,
    "weight_net": "wnet",
    "meta_batch_size": 0,
}


def everything():
    return space.space_around(list(BASE), SEARCHABLE, BASE, epochs=27, examples=150)


def score(number, hyperparameters):
    """Scores without training; the two that are accuracies disagree on purpose."""
    distance = abs(np.log(hyperparameters.get("temperature") / 0.3))
    return {
        "noisy_accuracy": float(1 - distance),
        "val_clid_ref": float(1 - distance),
        "clean_accuracy": float(distance),
    }


def make(tmp_path, run=score, tuner="random", objective="noisy_accuracy", trials=8):
    proposals = search.oracle(tuner, objective, everything(), trials, 9, seed=0)
    return search.Search(proposals, run, tmp_path)


# --- what is proposed


@pytest.mark.parametrize("tuner", search.TUNERS)
def test_largest_seed_searches(tuner, tmp_path):
    proposals = search.oracle(
        tuner, "noisy_accuracy", everything(), 6, 9, seed=2**32 - 1
    )
    found = search.Search(proposals, score, tmp_path)
    found.search()
    assert found.table()["temperature"].nunique() > 3


def test_space_takes_blanks_and_empty_words():
    config = Config(tune_space=" temperature, batch_size,")
    assert trials.Trials(config, run.train).names() == ["temperature", "batch_size"]


def test_no_meta_batch_is_larger_than_what_it_is_drawn_from():
    around = space.space_around(
        ["meta_batch_size"], SEARCHABLE, BASE, 5, 150, meta_examples=40
    )
    assert around.space[0].values == [0, 25]


def test_space_lies_around_the_values_at_hand():
    around = {hp.name: hp for hp in everything().space}
    assert list(around) == list(BASE)
    rate = around["learning_rate"]
    assert (rate.min_value, rate.max_value, rate.sampling) == (0.002, 0.2, "log")
    assert around["batch_size"].values == [25, 50, 100]  # 200 is more than the data
    assert around["meta_batch_size"].values == [0, 25, 50, 100]
    assert around["warmup_epochs"].max_value == 5
    assert everything().get("temperature") == 0.5  # the default is the value itself


@pytest.mark.parametrize(
    "names, changes, words",
    [
        (["colour"], {}, "takes batch_size, learning_rate, .* received 'colour'"),
        ([], {}, "takes batch_size, learning_rate"),
        (["learning_rate"], {"learning_rate": 0.0}, "learning_rate must be above 0"),
    ],
)
def test_what_cannot_be_searched_is_named(names, changes, words):
    with pytest.raises(UserError, match=words):
        space.space_around(names, SEARCHABLE, {**BASE, **changes}, 5, 100)


@pytest.mark.parametrize("tuner", search.TUNERS)
def test_proposals_hang_on_the_seed_alone(tuner, tmp_path):
    first, second = (make(tmp_path / name, tuner=tuner) for name in "ab")
    for found in (first, second):
        found.search()
    pd.testing.assert_frame_equal(first.table(), second.table())
    other = search.oracle(tuner, "noisy_accuracy", everything(), 8, 9, seed=1)
    other = search.Search(other, score, tmp_path / "c")
    other.search()
    assert set(other.table()["temperature"]).isdisjoint(first.table()["temperature"])


# --- going by scores


@pytest.mark.parametrize("tuner", search.TUNERS)
def test_a_search_cut_anywhere_ends_as_an_uncut_one(tuner, tmp_path):
    whole = make(tmp_path / "whole", tuner=tuner)
    whole.search()
    done, ran = {}, []

    def finish_once(number, hyperparameters, cut_at):
        if number not in done:
            ran.append(number)
            if len(ran) == cut_at:
                raise KeyboardInterrupt
            done[number] = score(number, hyperparameters)
        return done[number]

    for cut_at in (3, 7, 1000):
        cut = functools.partial(finish_once, cut_at=cut_at)
        found = make(tmp_path / "cut", cut, tuner)
        try:
            found.search()
        except KeyboardInterrupt:
            assert len(ran) == cut_at
    pd.testing.assert_frame_equal(found.table(), whole.table())
    assert len(ran) == len(whole.table()) + 2  # only the cut ones ran again


@pytest.mark.parametrize("objective", search.OBJECTIVES)
def test_the_better_direction_wins(objective, tmp_path):
    found = make(tmp_path, objective=objective)
    found.search()
    table = found.table()
    distance = np.abs(np.log(table["temperature"] / 0.3)).to_numpy()
    # score() rewards closeness in noisy accuracy; lower CLID and higher clean
    # accuracy are both farther away.
    expected = np.sort(distance)
    if objective != "noisy_accuracy":
        expected = expected[::-1]
    np.testing.assert_allclose(distance, expected)
    best = found.get_best_hyperparameters()[0]
    assert best.get("temperature") == table["temperature"].iloc[0]


def test_bayesian_search_learns_from_scores(tmp_path):
    proposals = search.oracle(
        "bayesian",
        "noisy_accuracy",
        space.space_around(["temperature"], SEARCHABLE, BASE, 9, 150),
        10,
        9,
        seed=0,
    )
    found = search.Search(proposals, score, tmp_path)
    found.search()
    table = found.table().sort_values("trial")
    distance = np.abs(np.log(table["temperature"] / 0.3)).to_numpy()
    assert distance[5:].min() < 0.1 * distance[:3].min()


def test_report_marks_the_oracle_and_draws(tmp_path):
    found = make(tmp_path, objective="clean_accuracy")
    found.search()
    search.write_report(found.table(), list(BASE), "clean_accuracy", tmp_path)
    table = pd.read_csv(tmp_path / "trials.csv")
    assert "clean_accuracy (oracle)" in table and "clean_accuracy" not in table
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("tuner", search.TUNERS)
def test_trials_that_diverge_are_outlived_in_a_line_each(
    tuner, tmp_path, capfd, recwarn
):
    def some_diverge(number, hyperparameters):
        if number % 3 != 2:
            raise TrainingDiverged("The loss is nan.")
        return score(number, hyperparameters)

    found = make(tmp_path, some_diverge, tuner)
    found.search()
    table, said = found.table(), capfd.readouterr()
    failed = table["noisy_accuracy"].isna()
    assert failed.equals(table["trial"] % 3 != 2) and not failed.iloc[0]
    assert said.out.count(": The loss is nan.\n") == failed.sum()
    assert said.out.count("\n") == len(table) and not said.err
    assert not [one for one in recwarn if "NaN" in str(one.message)]


def test_all_trials_diverging_is_said(tmp_path):
    def diverge(number, hyperparameters):
        raise TrainingDiverged("The loss is nan.")

    found = make(tmp_path, diverge)
    found.search()
    with pytest.raises(UserError, match="None of the 8 trials .* learning rate"):
        found.table()


@pytest.mark.parametrize("error", [UserError("disk"), Preempted("saved"), OSError()])
def test_other_errors_end_the_search_as_they_are(error, tmp_path):
    calls = []

    def fail(number, hyperparameters):
        calls.append(number)
        raise error

    with pytest.raises(type(error)) as caught:
        make(tmp_path, fail).search()
    assert caught.value is error and calls == [0]


CHIEF = """
import sys
from tests import test_tune
found = test_tune.make(sys.argv[1])
found.search()
found.table().to_csv(sys.argv[1] + "/table.csv", index=False)
"""


def test_a_chief_and_its_worker_do_what_one_process_does(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", port)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "chief").mkdir()
    chief = subprocess.Popen([sys.executable, "-c", CHIEF, tmp_path / "chief"])
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker0")
    assert is_worker()
    make(tmp_path / "worker").search()
    assert chief.wait(timeout=60) == 0
    for name in ("IP", "PORT"):
        monkeypatch.delenv(f"KERASTUNER_ORACLE_{name}")
    alone = make(tmp_path / "alone")
    alone.search()
    assert not is_worker()
    alone.table().to_csv(tmp_path / "table.csv", index=False)
    found = (tmp_path / "chief" / "table.csv").read_text()
    assert found == (tmp_path / "table.csv").read_text()


def test_a_worker_whose_chief_is_gone_gives_up(tmp_path, monkeypatch):
    found = make(tmp_path)
    monkeypatch.setattr(cluster, "LIMIT", 0)
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker0")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = str(nobody.getsockname()[1])
        monkeypatch.setenv("KERASTUNER_ORACLE_PORT", port)
        for begin in (found.search, lambda: make(tmp_path)):
            with pytest.raises(UserError, match="No chief has answered"):
                begin()


# --- the holdout


def test_holdout_takes_noisy_labels_out_of_training():
    config = Config(noise="symmetric", noise_rate=0.6, noisy_holdout=0.2)
    source = Experiment(config).source
    whole = Experiment(config.replace(noisy_holdout=0.0)).source.train
    train, held = source.train, source.holdout
    assert len(held) == 259 and len(train) == len(whole) - 259
    assert set(train.ids) | set(held.ids) == set(whole.ids)
    labels = dict(zip(whole.ids, whole.labels, strict=True))
    assert [labels[i] for i in held.ids] == list(held.labels)
    assert 0.45 < np.mean(held.labels != held.clean_labels) < 0.63
    # One holdout for all that a search changes.
    other = config.replace(temperature=2.0, batch_size=25, epochs=3, learning_rate=0.1)
    assert list(Experiment(other).source.holdout.ids) == list(held.ids)


def test_reference_clid_does_not_see_what_is_searched():
    config = Config(noisy_holdout=0.3, train_examples=800)
    values = []
    for changes in ({}, {"temperature": 3.0, "batch_size": 50}):
        experiment = Experiment(config.replace(**changes))
        model, reader = experiment.model, experiment.data
        values.append(evaluation.reference_clid(model, reader, 1000))
    assert values[0] == values[1]
    # 240 held out: two batches of 100, and 40 that are left out.
    inside = model.network._inside
    x = reader.source.holdout.inputs.astype("float32")
    batches = [inside(x[:100], training=False), inside(x[100:200], training=False)]
    expected = np.mean([float(clid(f, z, 0.5)) for f, z in batches])
    np.testing.assert_allclose(values[0], expected, rtol=1e-6)


# --- the command line

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


# --- clidmu.tune

X = np.random.default_rng(0).normal(size=(90, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
RANGES = {
    "temperature": (0.1, 2.5),
    "learning_rate": (0.002, 0.2),
    "batch_size": [12, 24],
}


def classifier(units=4):
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((4,)), dense(units, "relu"), dense(2)])


def build_model(hp):
    units = hp.Choice("units", [4, 8])
    model = clidmu.CLIDMU(
        classifier(units), meta_objective="clid", temperature=hp["temperature"]
    )
    model.compile(keras.optimizers.SGD(hp["learning_rate"], momentum=0.9))
    return model


def build_plain(hp):
    model = clidmu.CrossEntropy(classifier())
    model.compile(keras.optimizers.Adam(hp["learning_rate"]))
    return model


def tune(directory, build=build_model, space=RANGES, data=(X, Y), **changes):
    arguments = {"trials": 2, "epochs": 2, "directory": directory, **changes}
    return clidmu.tune(build, data, space, **arguments)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tuned") / "whole"
    return directory, tune(directory, clean_data=(X, Y))


def test_tune_searches_what_the_model_asks_for_too(tuned):
    directory, tuner = tuned
    assert isinstance(tuner, keras_tuner.Tuner)
    best = tuner.get_best_hyperparameters()[0]
    assert set(best.values) == {*RANGES, "units"}
    table = tuner.table()
    assert len(table) == 2 and table["temperature"].nunique() == 2
    assert table["noisy_accuracy"].is_monotonic_decreasing
    assert best["temperature"] == table["temperature"].iloc[0]
    assert table["batch_size"].isin([12, 24]).all()
    assert len(pd.read_csv(directory / "trials" / "001" / "metrics.csv")) == 2


def test_best_model_is_the_one_that_was_judged(tuned):
    _, tuner = tuned
    model = tuner.get_best_models()[0]
    row = tuner.table().iloc[0]
    assert model.temperature == row["temperature"]
    assert float(model.optimizer.learning_rate) == pytest.approx(row["learning_rate"])
    right = np.argmax(model.predict(X, verbose=0), axis=-1) == Y
    assert right.mean() == row["clean_accuracy"]
    assert model.optimizer.iterations > 0  # all of it as it was, to go on from
    fresh = clidmu.CLIDMU(model.classifier)
    assert not np.allclose(model.label_weights(X, Y), fresh.label_weights(X, Y))


def test_tune_cut_in_a_trial_goes_on(tuned, tmp_path):
    asked, models = [], []

    def interrupted(hp):
        # A trial's own settings are no longer those that it starts from.
        asked.append(hp.values["learning_rate"])
        if len(set(asked)) == 3 and not models:  # the defaults, and the second trial
            models.append(None)
            raise KeyboardInterrupt
        return build_model(hp)

    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "cut", interrupted, clean_data=(X, Y))
    first = tmp_path / "cut" / "trials" / "000" / "trial.json"
    before = first.stat().st_mtime_ns
    goes_on = tune(tmp_path / "cut", interrupted, clean_data=(X, Y))
    assert first.stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(goes_on.table(), tuned[1].table())


def test_tune_takes_any_method_hyperband_and_the_oracle(tmp_path):
    tuner = tune(
        tmp_path,
        build_plain,
        {"learning_rate": (0.002, 0.2)},
        tuner="hyperband",
        objective="clean_accuracy",
        data=(X, np.eye(2)[Y]),
        clean_data=(X, Y),
    )
    table = tuner.table()
    assert table["clean_accuracy"].is_monotonic_decreasing
    for number, epochs in zip(table["trial"], table["epochs"], strict=True):
        rows = pd.read_csv(tmp_path / "trials" / f"{number:03d}" / "metrics.csv")
        assert len(rows) == epochs
    model = tuner.get_best_models()[0]
    assert isinstance(model, clidmu.CrossEntropy)
    assert isinstance(model.optimizer, keras.optimizers.Adam)


def test_tune_passes_on_what_is_meant_for_fit(tmp_path):
    seen = []

    class Watching(clidmu.CLIDMU):
        def fit(self, *arguments, **others):
            seen.append(others["meta_batch_size"])
            return super().fit(*arguments, **others)

    def build(hp):
        settings = {"meta_objective": "clid", "temperature": hp["temperature"]}
        model = Watching(classifier(), **settings)
        model.compile("sgd")
        return model

    space = {"temperature": (0.1, 1.0)}
    tune(tmp_path, build, space, trials=1, epochs=1, meta_data=X, meta_batch_size=30)
    assert seen == [30]


def deeper(hp):
    model = clidmu.CLIDMU(
        classifier(16), meta_objective="clid", temperature=hp["temperature"]
    )
    model.compile(keras.optimizers.SGD(hp["learning_rate"]))
    return model


def with_adam(hp):
    model = build_model(hp)
    model.compile(keras.optimizers.Adam(hp["learning_rate"]))
    return model


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"epochs": 3}, "epochs"),
        ({"seed": 1}, "seed, data"),
        ({"space": {**RANGES, "batch_size": [12]}}, "space"),
        ({"build": deeper}, "space, model"),
        ({"build": with_adam}, "model"),
        ({"data": (X, 1 - Y)}, "data"),
        ({"clean_data": (X, 1 - Y)}, "data"),
        ({"meta_data": X}, "fit_arguments"),
    ],
)
def test_directory_of_another_search_is_not_touched(changes, words, tuned):
    directory, _ = tuned
    files = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=f"differs in {words}: .* overwrite=True"):
        tune(directory, **{"clean_data": (X, Y), **changes})
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == files


def not_compiled(hp):
    return clidmu.CLIDMU(classifier())


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"tuner": "grid"}, "tuner must be one of .* received 'grid'"),
        ({"objective": "accuracy"}, "objective must be one of"),
        ({"objective": "clean_accuracy"}, "needs clean_data"),
        ({"holdout": 1.0}, "between 0 and 1; received 1.0"),
        ({"batch_size": 0}, "batch_size takes whole numbers, .* received 0"),
        ({"verbose": 1}, "tune passes a verbose of its own to fit"),
        ({"data": (X, Y[:-1])}, "arrays of one length"),
        ({"data": X[0, 0]}, "data must be"),
        ({"build": not_compiled}, "received a CLIDMU that is not compiled"),
        ({"build": lambda hp: classifier()}, "compiled model .* received a Sequential"),
        ({"build": build_plain, "space": {}}, "does not exist"),
        ({"build": lambda hp: compiled(), "space": {}}, "nothing to search"),
        ({"space": ("temperature",)}, "space must be a dict"),
    ],
)
def test_tune_refuses_what_it_cannot_use(changes, words, tmp_path):
    with pytest.raises((ValueError, KeyError), match=words):
        tune(tmp_path / "search", **changes)
    assert not os.listdir(tmp_path)


def compiled():
    model = not_compiled(None)
    model.compile("sgd")
    return model


@pytest.mark.parametrize(
    "values, words",
    [
        ((0.0, 1.0), "log scale, so it must start above 0; received .0.0, 1.0."),
        ((2, 1), "two numbers, the lower one first; received .2, 1."),
        ((1, 2, 3), "list of values of one kind, or a tuple of two numbers"),
        ((True, 3), "list of values of one kind"),
        ([], "list of values of one kind"),
        ([1, "two"], "list of values of one kind"),
        ([True, 2], "list of values of one kind"),
        ("wnet", "list of values of one kind"),
    ],
)
def test_range_that_is_none_is_named(values, words):
    with pytest.raises(UserError, match=r"space\['colour'\].*" + words):
        space.space_of_ranges({"colour": values})


@pytest.mark.parametrize("values", [[0, 10], [0.5], (0, 10), (1.0, 2.0), ["a"]])
def test_batch_size_takes_whole_numbers(values):
    with pytest.raises(UserError, match=r"space\['batch_size'\] takes whole numbers"):
        space.space_of_ranges({"batch_size": values})


def test_ranges_are_drawn_as_they_are_written():
    ranges = {
        "rate": (1e-4, 1),
        "units": (1, 3),
        "net": ["wnet", "vri"],
        "size": [1, 0.5],
        "balance": [True, False],
    }
    rate, units, net, size, balance = space.space_of_ranges(ranges).space
    assert (rate.min_value, rate.max_value, rate.sampling) == (1e-4, 1.0, "log")
    assert {units.random_sample(seed) for seed in range(30)} == {1, 2, 3}
    assert net.values == ["wnet", "vri"] and size.values == [1.0, 0.5]
    assert set(balance.values) == {True, False}
    with pytest.raises(UserError, match="can't hold 'epochs', .* tuner='hyperband'"):
        space.space_of_ranges({"epochs": [1, 2]})
