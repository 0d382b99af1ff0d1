"""What people do with the package, written as they would: their own models and data."""

import html
import json
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
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import clidmu_tf as clidmu
from clidmu_tf.data import load
from clidmu_tf.engine.given import as_arrays
from clidmu_tf.methods import METHODS
from clidmu_tf.reports import figures
from clidmu_tf.runs import export, tasks
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.datasets import Reader
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.workdir import Workdir
from clidmu_tf.tuning import tune

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent

layers = keras.layers


def sgd(rate=0.05):
    return keras.optimizers.SGD(rate, momentum=0.9)


# --- callbacks on held-out noisy labels


@pytest.fixture(scope="module")
def digits():
    """Digits as rows of pixels, and labels of which about 54 % are wrong."""
    bunch = load_digits()
    x = (bunch.data / 16).astype("float32")
    x, test_x, y, test_y = train_test_split(x, bunch.target, random_state=0)
    return x, clidmu.noise.symmetric(y, 0.6, seed=0), test_x, test_y


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=3),
    ],
)
def test_callbacks_that_watch_val_loss_do_not_end_a_run_that_gets_better(
    callback, digits
):
    x, noisy_y, test_x, test_y = digits
    found = []
    for callbacks in ([], [callback]):
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


WEATHER = ["cold", "mild", "warm"]


@pytest.fixture(scope="module")
def weather():
    """Rows whose classes have names, a tenth of them wrong."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 120)
    x = (rng.normal(size=(120, 4)) + 3 * np.eye(4)[true]).astype("float32")
    given = clidmu.noise.symmetric(true, 0.2, seed=0)
    return x, given, np.array(WEATHER)[given]


def dense(units=3, activation=None, width=4):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(8, "relu"),
            layers.Dense(units, activation),
        ]
    )


def fitted(x, y, classifier=None, **arguments):
    model = clidmu.CLIDMU(classifier or dense(), **arguments)
    model.compile(sgd(), metrics=["accuracy"])
    model.fit(x, y, batch_size=20, epochs=3, shuffle=False, verbose=0)
    return model


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


def same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_dataset_with_names_says_which_classes_there_are(weather):
    x, given, names = weather
    batches = tf.data.Dataset.from_tensor_slices((x, names)).batch(20)
    with pytest.raises(ValueError, match="name the classes, in order, by class_names"):
        fitted(batches, None)
    found = []
    for data, held_out in (((batches,), batches), ((x, given), (x, given))):
        model = clidmu.CLIDMU(dense(), class_names=WEATHER)
        model.compile(sgd(), metrics=["accuracy"])
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
    model.compile(sgd(), metrics=["accuracy"])
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
        model.compile(sgd())
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


# --- two classes, one unit


def pair(activation):
    """One network with one unit, and with two that say the same, to train the last.

    The logits of two part twice as fast as that of one moves: their rates make up.
    """
    one = dense(1, activation)
    two = dense(2, {"sigmoid": "softmax", None: None}[activation])
    *others, kernel, bias = one.get_weights()
    columns = [np.concatenate([-w / 2, w / 2], axis=-1) for w in (kernel, bias)]
    two.set_weights([*others, *columns])
    for classifier, rate in ((one, 0.1), (two, 0.05)):
        classifier.layers[0].trainable = False
        yield classifier, rate


@pytest.mark.parametrize("objective", ["auto", "clid"])
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_unit_trains_as_two_that_say_the_same(activation, objective, weather):
    x, given, _ = weather
    y, found = (given == 2).astype("int64"), []
    for classifier, rate in pair(activation):
        keras.utils.set_random_seed(2)
        model = clidmu.CLIDMU(classifier, meta_objective=objective, seed=0)
        model.compile(sgd(rate), meta_optimizer=sgd(0.1), metrics=["accuracy"])
        snapshots = clidmu.SnapshotEnsemble(x, k=2, batch_size=40)
        arguments = {"batch_size": 20, "epochs": 3, "shuffle": False, "verbose": 0}
        history = model.fit(
            x, y, validation_data=(x, y), callbacks=[snapshots], **arguments
        ).history
        issues = clidmu.audit(model, x, y, snapshots=snapshots)
        ensemble = snapshots.ensemble().predict(x, verbose=0)
        found.append((history, issues, model.predict(x, verbose=0), ensemble, model))
    one, two = found
    for name in one[0]:
        np.testing.assert_allclose(one[0][name], two[0][name], rtol=2e-4, atol=2e-5)
    pd.testing.assert_frame_equal(one[1], two[1], rtol=1e-3)
    assert one[2].shape == one[3].shape == (len(x), 1)
    for i in (2, 3):
        second = two[i][:, 1:] - (0 if activation else two[i][:, :1])
        np.testing.assert_allclose(one[i], second, atol=1e-4)
    accuracy = one[4].evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    threshold = 0.5 if activation else 0.0
    assert accuracy == pytest.approx(np.mean((one[2][:, 0] > threshold) == y))


@pytest.mark.parametrize("last", ["layer", "unbuilt", "nested"])
def test_a_single_unit_is_found_however_it_is_written(last, weather, tmp_path):
    x, given, _ = weather
    names = np.where(given == 2, "warm", "not warm")
    if last == "layer":
        classifier = dense(1)
        classifier.add(layers.Activation("sigmoid"))
    elif last == "unbuilt":
        classifier = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(1)])
    else:
        inputs = keras.Input((4,))
        classifier = keras.Model(inputs, dense(1, "sigmoid")(inputs))
    model = fitted(x, names, classifier)
    accuracy = model.evaluate(x, names, verbose=0, return_dict=True)["accuracy"]
    predicted = clidmu.audit(model, x, names).suggested_class
    assert accuracy == pytest.approx(np.mean(predicted == names))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, names, verbose=0) == model.evaluate(x, names, verbose=0)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(x), model.predict(x, verbose=0), rtol=1e-4)


# --- own texts, tables and pictures from the command line


def message(topic, rng):
    words = [["parcel", "late", "courier"], ["card", "price", "bank"]][topic]
    fillers = ["please", "hello", "my", "is", "again", "could", "help", "Größe"]
    return " ".join(rng.permutation([*rng.choice(words, 2), *rng.choice(fillers, 4)]))


@pytest.fixture(scope="module")
def csv_file(tmp_path_factory):
    """200 rows: a text, numbers and words that tell the topic, a picture, labels."""
    folder, rng = tmp_path_factory.mktemp("csv"), np.random.default_rng(0)
    true = rng.integers(0, 2, 200)
    given = clidmu.noise.symmetric(true, 0.2, seed=0)
    names = np.array(["delivery", "payment"])
    amount = rng.normal(100, 30, 200) * (1 + 2 * true)
    amount[::17] = np.nan
    (folder / "pictures").mkdir()
    for i, topic in enumerate(true):
        pixels = rng.normal(60 + 120 * topic, 20, (9, 9, 3)).clip(0, 255)
        keras.utils.save_img(folder / "pictures" / f"{i}.png", pixels, scale=False)
    frame = pd.DataFrame(
        {
            "message text": [message(topic, rng) for topic in true],
            "amount": amount,
            "shop (town)": rng.choice(np.array(["Köln", "Ulm", None], object), 200),
            "paid by": np.where(true == 1, rng.choice(["card", "bank"], 200), "none"),
            "picture": [f"pictures/{i}.png" for i in range(200)],
            "topic": names[given],
            "truth": names[true],
        }
    )
    frame.to_csv(folder / "messages.csv", index=False)
    return folder / "messages.csv"


INPUTS = {
    "text": {"text_column": "message text"},
    "text_cnn": {"text_column": "message text", "backbone": "text_cnn"},
    "columns": {"feature_columns": "amount,shop (town),paid by"},
    "pictures": {"image_column": "picture", "image_size": 8},
}


def csv_run(csv_file, kind, workdir, **changes):
    settings = {
        **{"dataset": "csv", "data_dir": str(csv_file), "label_column": "topic"},
        **{"epochs": 8, "batch_size": 20, "snapshots": 2, "meta_examples": 40},
        **{"learning_rate": 0.01, "optimizer": "adam", "workdir": str(workdir)},
    }
    return Config(**{**settings, **INPUTS[kind], **changes})


@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_separates_columns_is_seen(separator, csv_file, tmp_path):
    """As spreadsheets save them where a comma is the decimal point."""
    rows = pd.read_csv(csv_file)
    rows["message text"] = "yes, and: " + rows["message text"]
    rows.to_csv(tmp_path / "other.csv", sep=separator, index=False)
    found, expected = (
        Experiment(csv_run(path, "columns", tmp_path / "run")).source
        for path in (tmp_path / "other.csv", csv_file)
    )
    assert found.class_names == expected.class_names
    np.testing.assert_array_equal(found.train.labels, expected.train.labels)
    np.testing.assert_array_equal(found.train.inputs, expected.train.inputs)


@pytest.mark.parametrize("kind", INPUTS)
def test_every_task_works_on_a_csv_file(kind, csv_file, tmp_path, capsys):
    config = csv_run(csv_file, kind, tmp_path / "run", clean_label_column="truth")
    tasks.train(config)
    workdir = Workdir(tmp_path / "run")
    summary = workdir.read_summary()
    assert summary["last_accuracy"] > 0.85
    assert 0.05 < summary["wrong_labels"] < 0.2
    for task in ("evaluate", "audit", "export"):
        tasks.TASKS[task](Config(task=task, workdir=config.workdir))
    assert summary["accuracy_on"] == "test labels"
    said = capsys.readouterr().out
    assert f"accuracy {summary['last_accuracy']:.4f} on 20 test labels" in said
    assert (
        "Read 180 examples to train on and 20 to test on, of 2 classes (deliv" in said
    )
    frame = pd.read_csv(csv_file)
    issues = pd.read_csv(workdir.label_issues)
    assert set(issues.given_class) == {"delivery", "payment"}
    if kind != "pictures":  # those are named by their paths as well
        rows = frame.iloc[issues.id]
        assert rows.topic.tolist() == issues.given_class.tolist()
    worst = issues[issues.is_label_issue].nsmallest(1, "label_quality").id.iloc[0]
    page = html.unescape(workdir.report.read_text())
    if kind == "columns":
        assert "shop (town)" in page and frame["paid by"][worst] in page
    elif kind != "pictures":
        assert frame["message text"][worst] in page
    # What is served takes the file as it is.
    if kind == "pictures":
        return
    columns = json.loads((workdir.export / "assets.extra/columns.json").read_text())
    raw = {
        name: frame[column].to_numpy("float32")
        if column == "amount"
        else frame[column].fillna("").to_numpy(object)
        for name, column in columns.items()
    }
    found = export.load(workdir.export)(raw)
    names = (workdir.export / "assets.extra" / "labels.txt").read_text().split()
    predicted = np.array(names)[found["labels"].numpy()]
    assert np.mean(predicted == frame.truth) > 0.85


@pytest.mark.parametrize("task", ["tune", "noisy_holdout", "elr"])
def test_searches_holdouts_and_memories_work_on_texts(task, csv_file, tmp_path):
    changes = {
        "tune": {"task": "tune", "trials": 2, "epochs": 1, "tune_space": "batch_size"},
        "noisy_holdout": {"noisy_holdout": 0.2, "epochs": 2},
        "elr": {"method": "elr", "epochs": 2, "noise": "asymmetric", "noise_rate": 0.1},
    }[task]
    config = csv_run(csv_file, "text", tmp_path / "run", **changes)
    tasks.TASKS[config.task](config)
    assert (tmp_path / "run" / "config.cfg").exists()
    if task == "tune":
        table = (tmp_path / "run" / "trials.csv").read_text()
        assert "given labels" in table and "oracle" not in table
        with pytest.raises(ValueError, match="goes by right labels, and these data"):
            tasks.tune(config.replace(objective="clean_accuracy"))


def test_a_folder_of_train_and_test_files_is_used_as_it_is(csv_file, tmp_path):
    frame = pd.read_csv(csv_file)
    frame[:150].to_csv(tmp_path / "train.csv", index=False)
    frame[150:].to_csv(tmp_path / "test.csv", index=False)
    source = load(
        "csv", data_dir=tmp_path, label_column="topic", feature_columns="amount"
    )
    assert (len(source.train), len(source.test)) == (150, 50)
    assert source.class_names == ("delivery", "payment") and not source.test_is_given
    # Fitted to the training rows alone; what is missing is their mean.
    amount = frame.amount[:150]
    np.testing.assert_allclose(np.nanmean(source.train.inputs), 0, atol=1e-5)
    scaled = (frame.amount[150:].fillna(amount.mean()) - amount.mean()) / amount.std()
    np.testing.assert_allclose(source.test.inputs[:, 0], scaled, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"text_column": "body"}, "no column 'body': .* has the columns message text"),
        ({"label_column": "label"}, "no column 'label'"),
        ({"feature_columns": "amount"}, "received text and features"),
        ({"text_column": ""}, "received none"),
        ({"text_column": "topic"}, "is that of the labels"),
        ({"data_dir": "nowhere.csv"}, "nowhere.csv is not there"),
        ({"label_column": "shop (town)"}, "rows without a label in 'shop .town.*row"),
        ({"backbone": "resnet20"}, "does not take texts: use embedding_bag"),
        ({"augment": "flip"}, "--augment=flip"),
    ],
)
def test_a_csv_file_that_cannot_be_used_so_is_named(changes, words, csv_file, tmp_path):
    config = csv_run(csv_file, "text", tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=words):
        tasks.train(config)
    assert not (tmp_path / "run").exists()


# --- pictures of every kind, and what was read


KINDS = {
    "png": {},
    "jpg": {"quality": 95},
    "webp": {"lossless": True},
    "gif": {},
    "bmp": {},
    "tif": {},
    "tiff": {"compression": "tiff_lzw"},
}


def test_images_of_every_kind_are_read_and_others_counted(tmp_path, capsys):
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    for name, level in (("dark", 40), ("light", 210)):
        (root / name).mkdir(parents=True)
        for i in range(4):
            for suffix, options in KINDS.items():
                pixels = rng.normal(level, 5, (12, 10, 3)).clip(0, 255).astype("uint8")
                image = Image.fromarray(pixels)
                if suffix in ("gif", "bmp"):  # a palette, and a second frame
                    image = image.quantize(64)
                if suffix == "gif":
                    other = Image.new("P", image.size)
                    options = {"save_all": True, "append_images": [other]}
                image.save(root / name / f"{i}.{suffix}", **options)
    deep = np.full((12, 10), 200 * 257, "uint16")
    Image.fromarray(deep).save(root / "light" / "deep.tif")
    (root / "dark" / "notes.txt").write_text("none")
    (root / "dark" / "raw.heic").write_text("none")
    config = Config(
        **{"dataset": "folder", "data_dir": str(root), "image_size": 8},
        **{"backbone": "small_cnn", "epochs": 1, "batch_size": 10, "snapshots": 1},
        workdir=str(tmp_path / "run"),
    )
    source = Experiment(config).source
    assert len(source.train) + len(source.test) == 2 * 4 * len(KINDS) + 1
    batches = Reader(source, 100).in_order(source.train).as_numpy_iterator()
    means = [x.mean(axis=(1, 2, 3)) for x, _ in batches]
    expected = np.where(source.train.labels == 0, 40, 210)
    expected[source.train.ids == "light/deep.tif"] = 200
    np.testing.assert_allclose(np.concatenate(means), expected, atol=6)
    tasks.train(config)
    said = capsys.readouterr().out
    assert "of 2 classes (dark" in said and "held out, with given labels" in said
    assert "Ignored, as no images: 1 .heic, 1 .txt." in said
    assert "Accuracy on held-out given labels, some of which may be wrong:" in said
    assert "test accuracy" not in said
    summary = Workdir(tmp_path / "run").read_summary()
    assert summary["accuracy_on"].startswith("held-out given labels")
    tasks.evaluate(Config(task="evaluate", workdir=config.workdir))
    assert "held-out given labels" in capsys.readouterr().out


# --- models that others wrote


def hub_classifier(kind):
    """A small classifier of KerasHub with random weights, and inputs for it."""
    models = pytest.importorskip("keras_hub").models
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    if kind == "text":
        sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8}
        body = models.BertBackbone(
            vocabulary_size=30, intermediate_dim=16, max_sequence_length=12, **sizes
        )
        tokens = rng.integers(1, 30, (24, 12))
        x = {
            "token_ids": tokens,
            "padding_mask": np.ones_like(tokens),
            "segment_ids": np.zeros_like(tokens),
        }
        return models.BertTextClassifier(body, num_classes=3, preprocessor=None), x
    body = models.ResNetBackbone(
        **{"input_conv_filters": [64], "input_conv_kernel_sizes": [3]},
        **{"stackwise_num_filters": [64], "stackwise_num_blocks": [1]},
        **{"stackwise_num_strides": [1], "block_type": "basic_block"},
        image_shape=(8, 8, 3),
    )
    x = rng.uniform(size=(24, 8, 8, 3)).astype("float32")
    return models.ResNetImageClassifier(body, num_classes=3, preprocessor=None), x


@pytest.mark.parametrize("kind", ["text", "image"])
def test_classifiers_of_keras_hub_train_save_export_and_are_audited(kind, tmp_path):
    classifier, x = hub_classifier(kind)
    y = np.arange(24) % 3
    model = clidmu.CLIDMU(classifier)
    model.compile(keras.optimizers.Adam(1e-3), metrics=["accuracy"])
    snapshots = clidmu.SnapshotEnsemble(x, k=2, batch_size=12)
    before = classifier.get_weights()
    model.fit(x, y, epochs=2, batch_size=12, callbacks=[snapshots], verbose=0)
    after = classifier.get_weights()
    moved = [np.any(a != b) for a, b in zip(before, after, strict=True)]
    assert np.mean(moved) > 0.5
    scores = model.predict(x, verbose=0)
    issues = clidmu.audit(model, x, y)
    is_issue = scores.argmax(axis=1) != y
    assert issues.is_label_issue.tolist() == is_issue.tolist()
    assert snapshots.ensemble().predict(x, verbose=0).shape == (24, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    same([loaded.predict(x, verbose=0)], [scores])
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    same([served.serve(x)], [scores])


@keras.saving.register_keras_serializable("user_tasks")
class Body(keras.Model):
    """A model as people subclass it."""

    def __init__(self, units=None, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(8, "relu")
        self.last = units and layers.Dense(units)

    def call(self, inputs):
        features = self.hidden(inputs)
        return self.last(features) if self.units else features

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_a_subclassed_model_is_refused_with_a_recipe_that_works(weather, tmp_path):
    x, given, _ = weather
    inputs = keras.Input((4,))
    whole = Body(3)
    for classifier in (whole, keras.Model(inputs, whole(inputs))):
        with pytest.raises(ValueError, match="have `call` return the features") as said:
            clidmu.CLIDMU(classifier)
    names = {"keras": keras, "shape": (4,), "num_classes": 3, "body": Body()}
    recipe = str(said.value).splitlines()[-2:]
    exec("\n".join(line.strip() for line in recipe), names)
    model = fitted(x, given, names["classifier"])
    assert model.network.num_features == 8
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    same([loaded.predict(x, verbose=0)], [model.predict(x, verbose=0)])
    assert len(clidmu.audit(loaded, x, given)) == len(x)


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


@pytest.mark.parametrize("labels", ["indices", "names"])
def test_a_search_takes_dicts_and_a_hypermodel(labels, weather, tmp_path):
    x, given, names = weather
    data = {"a": x[:, :1], "b": x[:, 1:]}, names if labels == "names" else given
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
    theirs_of = pytest.importorskip("cleanlab.classification").CleanLearning
    x, given, _ = weather
    theirs = theirs_of(LogisticRegression()).find_label_issues(x, given)
    issues = clidmu.audit(fitted(x, given), x, given)
    for text in ((ROOT / "README.md").read_text(), clidmu.audit.__doc__):
        shown = re.search(r"issues\.join\(theirs, [^)]*\)", text).group()
        joined = eval(shown, {"issues": issues, "theirs": theirs})
        assert joined.given_label.tolist() == joined.given_label_cleanlab.tolist()


# --- what the terminal shows, and runs that go on


def digits_run(workdir, **changes):
    return Config(
        **{"train_examples": 300, "meta_examples": 100, "snapshots": 2, "epochs": 2},
        **{"noise": "symmetric", "noise_rate": 0.6, "workdir": str(workdir)},
        **changes,
    )


def test_lines_of_an_epoch_fit_a_terminal(tmp_path, capsys):
    tasks.train(digits_run(tmp_path / "run", noisy_holdout=0.2, learning_rate=0.001))
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if line.startswith("Epoch")]
    assert len(epochs) == 2 and "test 0." in epochs[0] and "noisy 0." in epochs[0]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine_restarts"])
def test_a_finished_run_goes_on_as_one_that_was_longer(lr_schedule, tmp_path, capsys):
    changes = {"lr_schedule": lr_schedule, "lr_period": 1}
    whole = digits_run(tmp_path / "whole", **changes).replace(epochs=4)
    tasks.train(whole)
    first = digits_run(tmp_path / "parts", **changes)
    tasks.train(first)
    tasks.train(first.replace(epochs=4))
    assert "Going on at step" in capsys.readouterr().out
    one, two = (
        Workdir(tmp_path / name).metrics.read_text() for name in ("whole", "parts")
    )
    assert one == two
    assert Workdir(tmp_path / "parts").read_config().epochs == 4
    tasks.train(first.replace(epochs=4))
    assert "This run is finished" in capsys.readouterr().out


def test_a_run_whose_schedule_ended_says_why_it_cannot_go_on(tmp_path):
    first = digits_run(tmp_path / "run", lr_schedule="cosine")
    tasks.train(first)
    before = Workdir(first.workdir).config.read_text()
    with pytest.raises(ValueError, match="all of which --lr_schedule=cosine lowers"):
        tasks.train(first.replace(epochs=4))
    with pytest.raises(ValueError, match="differs in --epochs=1"):
        tasks.train(first.replace(epochs=1))
    assert Workdir(first.workdir).config.read_text() == before


def test_a_warmup_that_leaves_nothing_is_refused(tmp_path):
    config = digits_run(tmp_path / "run", warmup_epochs=2)
    with pytest.raises(
        ValueError, match="--warmup_epochs=2 takes up all of --epochs=2"
    ):
        tasks.train(config)


def test_ticks_of_a_search_are_few_numbers_that_do_not_overlap(monkeypatch):
    drawn, rng = [], np.random.default_rng(0)
    monkeypatch.setattr(figures, "_save", lambda figure, *_: drawn.append(figure))
    table = pd.DataFrame(
        {
            "batch_size": rng.choice([25, 50, 100, 200], 30),
            "temperature": np.exp(rng.uniform(np.log(0.1), np.log(2.5), 30)),
            "rate": rng.uniform(0.02, 0.09, 30),
            "warmup_epochs": rng.integers(0, 13, 30),
            "noisy_accuracy": rng.uniform(size=30),
        }
    )
    figures.trials(table, list(table.columns[:-1]), "noisy_accuracy", None)
    drawn[0].draw_without_rendering()
    for axis in drawn[0].axes:
        shown = [t for t in axis.get_xticklabels() if t.get_text()]
        assert all("^" not in t.get_text() for t in shown)
        boxes = sorted((t.get_window_extent() for t in shown), key=lambda box: box.x0)
        inside = [b for b in boxes if axis.bbox.x0 <= (b.x0 + b.x1) / 2 <= axis.bbox.x1]
        assert 2 <= len(inside) <= 6
        for one, two in zip(inside, inside[1:], strict=False):
            assert one.x1 < two.x0
    numbers = [t.get_text() for t in drawn[0].axes[0].get_xticklabels()]
    assert numbers == ["25", "50", "100", "200"]


def test_a_run_is_shown_beside_another_and_says_what_noise_comes_to(tmp_path, capsys):
    other = digits_run(tmp_path / "other", method="cross_entropy")
    tasks.train(other)
    tasks.train(digits_run(tmp_path / "run", beside=other.workdir))
    said = capsys.readouterr().out.split("Accuracy on test labels:")[-1]
    rows = dict(re.findall(r"^(\S.*?)  +([\d.]+)$", said, re.M))
    last = {path: Workdir(tmp_path / path).read_summary() for path in ("other", "run")}
    expected = {
        "cross_entropy, last epoch": last["other"]["last_accuracy"],
        "last epoch": last["run"]["last_accuracy"],
    }
    for name, accuracy in expected.items():
        assert rows[name] == f"{accuracy:.4f}"
    tasks.train(digits_run(tmp_path / "run"))
    assert "(60% were redrawn, some of which came out right)" in capsys.readouterr().out


# --- models that read texts themselves


TEXTS = {
    "list": lambda texts: texts.tolist(),
    "array": lambda texts: texts,
    "objects": lambda texts: texts.astype(object)[:, None],
    "column": pd.Series,
    "tensor": lambda texts: tf.constant(texts)[:, None],
}


@pytest.mark.parametrize("form", TEXTS)
def test_a_model_that_vectorizes_takes_texts_in_any_form(form, tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    texts = np.array([message(topic, rng) for topic in y])
    names = np.array(["delivery", "payment"])[y]
    keras.utils.set_random_seed(1)
    vectorize = layers.TextVectorization(50, output_sequence_length=6)
    vectorize.adapt(texts)
    classifier = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            vectorize,
            layers.Embedding(50, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    model = clidmu.CLIDMU(classifier)
    model.compile(keras.optimizers.Adam(0.05), metrics=["accuracy"])
    given = TEXTS[form](texts)
    callbacks = [clidmu.SnapshotEnsemble(given, k=2), clidmu.ValidationCLID(given)]
    arguments = {"epochs": 4, "verbose": 0, "callbacks": callbacks}
    model.fit(given, names, validation_split=0.2, **arguments)
    assert model.evaluate(given, names, verbose=0, return_dict=True)["accuracy"] > 0.9
    issues = clidmu.audit(model, given, names)
    found = np.array(model.class_names)[model.predict(given, verbose=0).argmax(axis=1)]
    assert found.tolist() == issues.suggested_class.tolist()
    issues.loc[3, "is_label_issue"] = True
    page = clidmu.report(issues, given, tmp_path / "page.html").read_text()
    assert texts[3] in page
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    same([loaded.label_weights(given, names)], [model.label_weights(given, names)])


def test_a_table_of_numbers_and_words_is_told_apart(weather):
    x, given, _ = weather
    table = pd.DataFrame(x, columns=list("abcd")).astype(object)
    model = fitted(table, given)  # numbers, whatever pandas calls them
    same(model.get_weights(), fitted(x, given).get_weights())
    with pytest.raises(ValueError, match="numbers alone, or texts alone; .* at index"):
        model.fit(table.assign(a="much"), given)
    digits = as_arrays(pd.Series(["12", "7"]))  # texts, if of digits
    assert digits.dtype == tf.string and digits.numpy().tolist() == [b"12", b"7"]


@pytest.mark.parametrize("level", [None, "0"])
def test_tensorflow_starts_quietly_unless_asked(level, tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    environment |= {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    command = [sys.executable, ROOT / "train.py", "--task=evaluate"]
    process = subprocess.run(
        [*command, f"--workdir={tmp_path}"],
        env=environment,
        capture_output=True,
        text=True,
    )
    lines = process.stderr.splitlines()
    assert process.returncode == 2 and "holds no run" in lines[-1]
    assert (len(lines) > 1) == (level == "0")
