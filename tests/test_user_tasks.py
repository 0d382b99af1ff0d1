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
from texts import message

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
    # Eagerly, here and below: to trace takes longer than the few steps do.
    model.compile(sgd(), metrics=["accuracy"], run_eagerly=True)
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
        optimizers = {"optimizer": sgd(rate), "meta_optimizer": sgd(0.1)}
        model.compile(**optimizers, metrics=["accuracy"], run_eagerly=True)
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


# --- models that others wrote


def hub_classifier(kind):
    """A small classifier of KerasHub with random weights, and inputs for it."""
    import keras_hub  # which takes seconds

    models = keras_hub.models
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
