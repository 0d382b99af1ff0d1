"""What people do with the package, written as they would: their own models and data."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import clidmu_tf as clidmu
from clidmu_tf.engine.given import as_arrays
from clidmu_tf.methods import METHODS
from clidmu_tf.tuning import tune
from weather import WEATHER, dense, fitted, same, sgd

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent

layers = keras.layers


# --- callbacks on held-out noisy labels


@pytest.fixture(scope="module")
def digits():
    """Digits as rows of pixels, and labels of which about 54 % are wrong."""
    bunch = load_digits()
    x = (bunch.data / 16).astype("float32")
    x, test_x, y, test_y = train_test_split(x, bunch.target, random_state=0)
    return x, clidmu.noise.symmetric(y, 0.6, seed=0), test_x, test_y


def test_callbacks_that_watch_val_loss_do_not_end_a_run_that_gets_better(digits):
    x, noisy_y, test_x, test_y = digits
    watchers = [
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=3),
    ]
    found = []
    for callbacks in ([], watchers):
        keras.utils.set_random_seed(0)
        classifier = keras.Sequential(
            [keras.Input((64,)), layers.Dense(64, "relu"), layers.Dense(10)]
        )
        model = clidmu.CLIDMU(classifier)
        model.compile(sgd(), metrics=["accuracy"])
        model.fit(
            x,
            noisy_y,
            epochs=30,
            batch_size=50,
            validation_split=0.2,
            callbacks=callbacks,
            verbose=0,
        )
        found.append(model.evaluate(test_x, test_y, verbose=0, return_dict=True))
    plain, watched = (scores["accuracy"] for scores in found)
    assert plain > 0.85 and watched > plain - 0.03


# --- names of classes


@pytest.fixture(scope="module")
def trained(weather):
    """A model of these rows, for tests that leave it as it is."""
    x, given, _ = weather
    return fitted(x, given)


FORMS = {
    "list": lambda names: names.tolist(),
    "array": lambda names: names,
    "objects": lambda names: names.astype(object),
    "column": pd.Series,
    "categories": lambda names: pd.Series(names).astype("category"),
    "bytes": lambda names: np.char.encode(names),
    "(n, 1)": lambda names: names[:, None],
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_may_be_names_in_any_form(form, weather, trained):
    x, given, names = weather
    expected, model = trained, fitted(x, FORMS[form](names))
    assert model.class_names == WEATHER
    same(expected.get_weights(), model.get_weights())
    scores = model.evaluate(x, FORMS[form](names), verbose=0)
    assert scores == expected.evaluate(x, given, verbose=0)
    assert_equal = np.testing.assert_array_equal
    labels = FORMS[form](names)
    assert_equal(model.label_weights(x, labels), expected.label_weights(x, given))
    issues = clidmu.audit(model, x, labels)
    assert issues.given_label.tolist() == given.tolist()
    assert issues.given_class.tolist() == names.tolist()


def test_a_dataset_with_names_says_which_classes_there_are(weather):
    x, given, names = weather
    batches = tf.data.Dataset.from_tensor_slices((x, names)).batch(20)
    with pytest.raises(ValueError, match="name the classes, in order, by class_names"):
        fitted(batches, None)
    found = []
    for data, held_out in (((batches,), batches), ((x, given), (x, given))):
        model = clidmu.CLIDMU(dense(), class_names=WEATHER)
        model.compile(sgd(), metrics=["accuracy"], run_eagerly=True)
        size = {} if len(data) == 1 else {"batch_size": 20}
        model.fit(*data, validation_data=held_out, shuffle=False, verbose=0, **size)
        found.append(model.get_weights())
        issues = clidmu.audit(model, batches)
        assert issues.given_class.tolist() == names.tolist()
    same(*found)


def test_validation_data_class_weights_and_saving_know_the_names(weather, tmp_path):
    x, given, names = weather
    model = clidmu.CLIDMU(dense())
    model.compile(sgd(), metrics=["accuracy"])
    history = model.fit(
        x,
        names,
        validation_data=(x, names),
        class_weight={0: 1.0, 1: 2.0, 2: 1.0},
        epochs=2,
        verbose=0,
    ).history
    assert history["val_accuracy"][-1] > 0.3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.class_names == WEATHER
    same([loaded.label_weights(x, names)], [model.label_weights(x, given)])


@pytest.mark.parametrize(
    "labels, words",
    [
        (["cold", "warm"] * 60, "labels have 2 names ('cold', 'warm')"),
        (["cold", "mild", None] * 40, "missing; received None at index 2"),
        ([0, 1, 5] * 40, "received 5 at index 2"),
        ([0.0, 1.0, 2.5] * 40, "(values, as of a regression, are not supported)"),
        (np.tile([1, 1, 0], (120, 1)), "multi-label, are not supported"),
    ],
)
@pytest.mark.parametrize("use", ["fit", "audit", "label_weights", "batches"])
def test_labels_that_do_not_fit_are_named_wherever_they_go(
    use, labels, words, weather, trained
):
    (x, _, _), model = weather, trained
    uses = {
        "fit": lambda: model.fit(x, labels, verbose=0),
        "audit": lambda: clidmu.audit(model, x, labels),
        "label_weights": lambda: model.label_weights(x, labels),
        "batches": lambda: clidmu.audit(model, Batches(x, labels)),
    }
    if use == "batches" and isinstance(labels, list) and "cold" in labels:
        words = words if None in labels else "labels must be numbers"
    with pytest.raises(ValueError, match=re.escape(words)):
        uses[use]()


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, weights=None):
        super().__init__()
        self.arrays = [x, np.asarray(y)] + ([] if weights is None else [weights])

    def __len__(self):
        return len(self.arrays[0]) // 20

    def __getitem__(self, index):
        rows = slice(20 * index, 20 * index + 20)
        return tuple(array[rows] for array in self.arrays)


@pytest.mark.parametrize("use", ["fit", "audit", "label_weights", "batches"])
def test_features_that_are_no_numbers_are_named_by_row(use, weather, trained):
    x, given, _ = weather
    model, x = trained, x.copy()
    x[[47, 80], 1] = np.nan
    uses = {
        "fit": lambda: model.fit(x, given, verbose=0),
        "audit": lambda: clidmu.audit(model, x, given),
        "label_weights": lambda: model.label_weights(x, given),
        "batches": lambda: clidmu.audit(model, Batches(x, given)),
    }
    with pytest.raises(ValueError, match="x must be finite; received nan at index 47"):
        uses[use]()


def test_audit_takes_what_fit_takes(weather, trained):
    (x, given, _), model = weather, trained
    expected = clidmu.audit(model, x, given)
    weights = np.ones(120, "float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, given, weights)).batch(50)
    table = pd.DataFrame(x, columns=list("abcd"))
    for data in (
        (x.tolist(), given.tolist()),
        (table, pd.Series(given)),
        (dataset, None),
        (Batches(x, given, weights), None),
    ):
        pd.testing.assert_frame_equal(clidmu.audit(model, *data), expected)
        found = model.label_weights(*data)
        np.testing.assert_array_equal(found, model.label_weights(x, given))


# --- the page of an audit


def test_a_page_of_rows_texts_and_pictures_speaks_in_names(weather, tmp_path):
    x, given, names = weather
    model = clidmu.CLIDMU(dense())
    model.compile(sgd(), metrics=["accuracy"])
    history = model.fit(x, names, epochs=3, batch_size=20, verbose=0)
    issues = clidmu.audit(model, x, names)
    worst = issues.label_quality.idxmin()
    table = pd.DataFrame(x, columns=["rain", "wind", "sun", "fog"])
    path = clidmu.report(
        issues, table, tmp_path / "rows.html", model=model, history=history
    )
    page = path.read_text()
    assert f"{table.sun[worst]:.4g}" in page and "fog" in page
    for name in WEATHER:
        assert name in page
    texts = [f"day {i} was <b>fine</b>" for i in range(120)]
    page = clidmu.report(issues, texts, tmp_path / "texts.html").read_text()
    assert f"day {worst} was &lt;b&gt;fine" in page
    images = np.tile(x[:, :, None, None], (1, 1, 4, 1))
    page = clidmu.report(issues, images, tmp_path / "pictures.html").read_text()
    assert page.count("data:image/png") == min(60, issues.is_label_issue.sum())
    plain = clidmu.report(issues, path=tmp_path / "none.html").read_text()
    assert "<blockquote>" not in plain


# --- as keras.Model


@pytest.mark.parametrize("name", METHODS)
def test_any_method_takes_keras_positions_and_a_single_unit(name, weather):
    x, given, _ = weather
    y = (given == 2).astype("int64")
    model = METHODS[name](dense(1, "sigmoid"))
    model.compile(sgd(), metrics=["accuracy"], run_eagerly=True)
    more = {"meta_data": (x, y)} if model.is_supervised else {}
    more |= {"unlabeled_data": x} if model.takes_unlabeled_data else {}
    history = model.fit(x, np.eye(2)[y], 60, 2, 0, **more)
    assert len(history.epoch) == 2 and model.optimizer.iterations == 4
    scores = model.evaluate(x, y, 40, 0)
    assert len(scores) == 3 and np.isfinite(scores).all()


@pytest.mark.parametrize("method", [clidmu.CLIDMU, clidmu.GCE])
@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(),
        keras.losses.sparse_categorical_crossentropy,
    ],
)
def test_a_loss_is_told_to_be_left_out(loss, method):
    for arguments in ((("adam", loss), {}), (("adam",), {"loss": loss})):
        with pytest.raises(ValueError, match="takes no loss, .* leave out"):
            method(dense()).compile(*arguments[0], **arguments[1])
    with pytest.raises(ValueError, match="takes no steps_per_execution"):
        method(dense()).compile("adam", steps_per_execution=4)
    method(dense()).compile("adam", loss=None, steps_per_execution=1)


def test_metrics_in_the_place_of_a_second_optimizer_are_told_where_they_go():
    with pytest.raises(ValueError, match="write metrics="):
        clidmu.CLIDMU(dense()).compile("adam", ["accuracy"])


def test_an_unbuilt_sequential_is_told_to_add_an_input(weather):
    x, given, _ = weather

    def unbuilt():
        return keras.Sequential([layers.Dense(8), layers.Dense(3)])

    model = clidmu.CLIDMU(unbuilt())
    model.compile(sgd())
    for data in (Batches(x, given), iter([(x, given)])):
        with pytest.raises(ValueError, match="put keras.Input first"):
            model.fit(data, steps_per_epoch=1, verbose=0)
    for network in (model, unbuilt()):
        with pytest.raises(ValueError, match="put keras.Input first"):
            clidmu.audit(network, x, given)
    model.fit(x, given, verbose=0)  # arrays tell the shape


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_the_old_file_format_is_refused_by_name(suffix, weather, tmp_path):
    model = fitted(*weather[:2])
    with pytest.raises(ValueError, match="HDF5 .* save to a .keras file"):
        model.save(tmp_path / f"model{suffix}")
    assert not [*tmp_path.iterdir()]


def test_a_callback_list_is_taken_as_it_is(weather):
    x, given, _ = weather
    model = fitted(x, given)
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=10)
    callbacks = keras.callbacks.CallbackList([stop], add_history=True, model=model)
    assert len(model.fit(x, given, epochs=9, callbacks=callbacks, verbose=0).epoch) == 2
    assert model.epoch == 3 + 2 - 1


def test_batches_of_every_kind_train_alike(weather):
    x, given, _ = weather
    found = []
    for data in (
        Batches(x, given),
        tf.data.Dataset.from_tensor_slices((x, given)).batch(20),
        (batch for batch in 2 * [*Batches(x, given)]),
    ):
        model = clidmu.CLIDMU(dense())
        model.compile(sgd(), run_eagerly=True)
        model.fit(data, epochs=2, steps_per_epoch=6, shuffle=False, verbose=0)
        found.append(model.classifier.get_weights())
    same(found[0], found[1])
    same(found[0], found[2])


def test_a_saved_model_goes_on_in_a_process_that_imports_the_package(weather, tmp_path):
    x, given, names = weather
    model = fitted(x, names)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, names=names)
    script = (
        "import keras, numpy as np, clidmu_tf\n"
        "model = keras.saving.load_model('model.keras')\n"
        "data = np.load('data.npz')\n"
        "model.fit(data['x'], data['names'], verbose=0, shuffle=False)\n"
        "np.save('scores.npy', model.predict(data['x'], verbose=0))\n"
    )
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    subprocess.run(command, cwd=tmp_path, env=paths, check=True, capture_output=True)
    model.fit(x, given, verbose=0, shuffle=False)
    same([np.load(tmp_path / "scores.npy")], [model.predict(x, verbose=0)])


def test_several_labels_an_example_and_values_are_refused_by_name(weather):
    with pytest.raises(ValueError, match="'sigmoid': multi-label"):
        clidmu.CLIDMU(dense(3, "sigmoid"))
    with pytest.raises(ValueError, match="regression"):
        fitted(weather[0], weather[0][:, 0])


# --- searches, histograms and tables beside


def two_inputs():
    inputs = {"a": keras.Input((1,)), "b": keras.Input((3,))}
    keras.utils.set_random_seed(1)
    hidden = layers.Dense(8, "relu")(layers.Concatenate()([*inputs.values()]))
    return keras.Model(inputs, layers.Dense(3)(hidden))


class Hyper(keras_tuner.HyperModel):
    def build(self, hp):
        model = clidmu.CLIDMU(two_inputs(), meta_objective="clid")
        model.compile(sgd(hp["rate"]))
        return model


def test_a_search_takes_dicts_names_and_a_hypermodel(weather, tmp_path):
    x, _, names = weather
    data = {"a": x[:, :1], "b": x[:, 1:]}, names
    arguments = {"trials": 2, "epochs": 2, "batch_size": 20, "directory": tmp_path}
    tuner = clidmu.tune(Hyper(), data, {"rate": (0.01, 0.1)}, **arguments)
    table = tuner.table()
    assert len(table) == 2 and table.noisy_accuracy.between(0.2, 1).all()
    best = tuner.get_best_models()[0]
    (held_x, held_y) = tune.split(data, 0.2, 0)[1]
    predicted = best.predict(held_x, verbose=0).argmax(axis=1)
    found = np.mean(predicted == best.indices(held_y))
    assert table.noisy_accuracy.iloc[0] == pytest.approx(found)


@pytest.mark.parametrize("form", ["dict", "lists", "names"])
def test_weight_histogram_takes_what_fit_takes(form, weather, tmp_path):
    x, given, names = weather
    halves = {"a": x[:, :1], "b": x[:, 1:]}
    classifier = two_inputs() if form == "dict" else dense()
    data = {
        "dict": (halves, given),
        "lists": (x.tolist(), given.tolist()),
        "names": (x, names),
    }[form]
    histogram = clidmu.WeightHistogram(*data, tmp_path)
    model = clidmu.CLIDMU(classifier)
    model.compile(sgd())
    model.fit(*data, epochs=2, verbose=0, callbacks=[histogram])
    assert len([*tmp_path.glob("events*")]) == 1


def test_the_join_with_cleanlabs_table_runs_as_written(weather):
    from cleanlab.classification import CleanLearning

    x, given, _ = weather
    theirs = CleanLearning(LogisticRegression()).find_label_issues(x, given)
    issues = clidmu.audit(fitted(x, given), x, given)
    for text in ((ROOT / "README.md").read_text(), clidmu.audit.__doc__):
        shown = re.search(r"issues\.join\(theirs, [^)]*\)", text).group()
        joined = eval(shown, {"issues": issues, "theirs": theirs})
        assert joined.given_label.tolist() == joined.given_label_cleanlab.tolist()


def test_a_table_of_numbers_and_words_is_told_apart(weather):
    x, given, _ = weather
    table = pd.DataFrame(x, columns=list("abcd")).astype(object)
    model = fitted(table, given)  # numbers, whatever pandas calls them
    same(model.get_weights(), fitted(x, given).get_weights())
    with pytest.raises(ValueError, match="numbers alone, or texts alone; .* at index"):
        model.fit(table.assign(a="much"), given)
    digits = as_arrays(pd.Series(["12", "7"]))  # texts, if of digits
    assert digits.dtype == tf.string and digits.numpy().tolist() == [b"12", b"7"]
