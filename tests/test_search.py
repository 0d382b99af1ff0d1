"""The search: what it proposes, how it goes by scores, what a kill leaves of it."""

import functools
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from clidmu_tf import cluster
from clidmu_tf.cluster import is_worker
from clidmu_tf.core.losses import clid
from clidmu_tf.engine.settings import Declared, Setting
from clidmu_tf.errors import Preempted, TrainingDiverged, UserError
from clidmu_tf.runs import evaluation, trials
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
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
    assert trials.names_of(config) == ["temperature", "batch_size"]


@pytest.mark.parametrize(
    "method, first", [("clid_mu", "temperature"), ("elr", "learning_rate")]
)
def test_unless_told_a_search_takes_what_the_method_has(method, first):
    assert trials.names_of(Config(method=method)) == [first, "batch_size"]


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
    "setting, kind, value, lowest, highest",
    [
        (Setting("", least=1, search=2), float, 1.5, 1, 3),
        (Setting("", above=1, search=2), float, 1.5, 1.25, 3),
        (Setting("", above=0, most=1, search=3), float, 0.6, 0.2, 1),
        (Setting("", below=1, search=10), float, 0.8, 0.08, 0.9),
        (Setting("", least=1, search=4), int, 3, 1, 12),
    ],
)
def test_a_search_stays_within_what_a_setting_may_be(
    setting, kind, value, lowest, highest
):
    declared = Declared(setting, kind, value)
    found = space.space_around(["it"], {"it": declared}, {"it": value}, 5, 100)
    (drawn,) = found.space
    assert (drawn.min_value, drawn.max_value) == pytest.approx((lowest, highest))
    for share in (0, 0.5, 1 - 1e-9):
        declared.check("it", drawn.prob_to_value(share))


def test_a_search_among_choices_knows_a_value_that_is_none_of_them():
    config = Config(method="elr", elr_penalty=2.5)
    base = {"elr_penalty": config.elr_penalty}
    around = space.space_around(["elr_penalty"], config.searchable(), base, 5, 100)
    assert around.space[0].values == [1, 3, 5, 7, 10, 2.5]
    assert around.get("elr_penalty") == 2.5


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
from tests import test_search
found = test_search.make(sys.argv[1])
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
