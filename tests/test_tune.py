"""`clidmu.tune`: what it searches, what it refuses, what a cut leaves of it."""

import os

import keras
import keras_tuner
import numpy as np
import pandas as pd
import pytest

import clidmu_tf as clidmu
from clidmu_tf.errors import UserError
from clidmu_tf.tuning import space

pytestmark = pytest.mark.slow

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
