"""What people do with the package, written as they would: their own models and data."""

import re

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import clidmu_tf as clidmu

pytestmark = pytest.mark.slow

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
def test_labels_may_be_names_in_any_form(form, weather):
    x, given, names = weather
    expected, model = fitted(x, given), fitted(x, FORMS[form](names))
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
def test_labels_that_do_not_fit_are_named_wherever_they_go(use, labels, words, weather):
    x, given, _ = weather
    model = fitted(x, given)
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
def test_features_that_are_no_numbers_are_named_by_row(use, weather):
    x, given, _ = weather
    model, x = fitted(x, given), x.copy()
    x[[47, 80], 1] = np.nan
    uses = {
        "fit": lambda: model.fit(x, given, verbose=0),
        "audit": lambda: clidmu.audit(model, x, given),
        "label_weights": lambda: model.label_weights(x, given),
        "batches": lambda: clidmu.audit(model, Batches(x, given)),
    }
    with pytest.raises(ValueError, match="x must be finite; received nan at index 47"):
        uses[use]()


def test_audit_takes_what_fit_takes(weather):
    x, given, names = weather
    model = fitted(x, given)
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
