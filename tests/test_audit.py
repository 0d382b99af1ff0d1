"""The audit: what each number means, and that wrong labels are found on real data."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn import metrics

import clidmu_tf as clidmu
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment


def logits_of(x):
    """A classifier that returns its inputs."""
    dense = keras.layers.Dense(x.shape[1], use_bias=False)
    model = keras.Sequential([keras.Input((x.shape[1],)), dense])
    dense.set_weights([np.eye(x.shape[1])])
    return model


def test_columns_are_what_they_say():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.5, 0.25, 0.25]])
    x = np.log(probabilities).astype("float32")
    found = clidmu.audit(logits_of(x), x, np.array([0, 1, 2]), ids=["a", "b", "c"])
    expected = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "given_label": [0, 1, 2],
            "suggested_label": [0, 0, 0],
            "label_quality": [0.7 / 0.9, 0.2 / 0.9, 0.25 / 0.75],
            "loss": -np.log([0.7, 0.2, 0.25]),
            "weight": [np.nan] * 3,
            "is_label_issue": [False, True, True],
        },
        index=pd.RangeIndex(3, name="index"),
    )
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_logits_and_probabilities_tell_the_same():
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32") * 3
    y = np.arange(50) % 4
    inner = logits_of(x)
    outer = keras.Sequential([keras.Input((4,)), inner, keras.layers.Softmax()])
    pd.testing.assert_frame_equal(clidmu.audit(inner, x, y), clidmu.audit(outer, x, y))


@pytest.mark.parametrize("form", ["column", "one-hot", "dataset", "batch of 7"])
def test_every_form_of_data_gives_the_same(form):
    x = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")
    y = np.arange(30) % 3
    model, expected = logits_of(x), clidmu.audit(logits_of(x), x, y)
    if form == "dataset":
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        found = clidmu.audit(model, batches)
    elif form == "batch of 7":
        found = clidmu.audit(model, x, y, batch_size=7)
    else:
        labels = y[:, None] if form == "column" else np.eye(3)[y]
        found = clidmu.audit(model, x, labels)
    pd.testing.assert_frame_equal(found, expected)


def test_issue_is_where_another_class_is_likelier_also_at_extremes():
    x = np.array([[1e4, 0.0], [0.0, 1e4], [3.0, 3.0], [1e4, 1e4]], "float32")
    found = clidmu.audit(logits_of(x), x, np.array([0, 0, 1, 1]))
    assert found.label_quality.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert found.suggested_label.tolist() == [0, 1, 1, 1]
    assert found.is_label_issue.tolist() == [False, True, False, False]


def test_snapshots_count_for_half_and_weights_are_the_models():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)).astype("float32"), np.arange(60) % 3
    model = clidmu.CLIDMU(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    model.compile(optimizer=keras.optimizers.SGD(0.5))
    snapshots = clidmu.SnapshotEnsemble(x, k=2, batch_size=30)
    model.fit(x, y, epochs=4, batch_size=20, verbose=0, callbacks=[snapshots])
    found = clidmu.audit(model, x, y, snapshots=snapshots)
    kept = [weights for _, _, weights in snapshots.snapshots]
    softmax = [keras.ops.softmax(x @ w + b) for w, b in kept]
    last = np.array(keras.ops.softmax(model.predict(x, verbose=0)))
    mean = (np.mean(softmax, axis=0) + last) / 2
    own = mean[np.arange(60), y]
    mean[np.arange(60), y] = 0
    np.testing.assert_allclose(
        found.label_quality, own / (own + mean.max(1)), rtol=1e-5
    )
    np.testing.assert_allclose(found.weight, model.label_weights(x, y), rtol=1e-5)
    alone = clidmu.audit(model, x, y)
    np.testing.assert_allclose(found.loss, alone.loss, rtol=1e-5)
    assert not np.allclose(alone.label_quality, found.label_quality)


@pytest.mark.parametrize("class_balance", [False, True])
def test_weight_is_what_the_trained_weight_net_gives_the_loss(class_balance):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)).astype("float32"), np.arange(60) % 3
    model = clidmu.CLIDMU(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]),
        class_balance=class_balance,
    )
    model.compile(keras.optimizers.SGD(0.5), keras.optimizers.Adam(0.1))
    untrained = model.weight_net(np.ones(1)).numpy()
    model.fit(x, y, epochs=3, batch_size=20, verbose=0)
    assert abs(model.weight_net(np.ones(1)).numpy() - untrained) > 0.05
    found = clidmu.audit(model, x, y)
    trust = model.slots["trust"].numpy()
    assert 0 < trust < 1
    weights = 1 - trust * (1 - model.weight_net(found.loss.to_numpy()).numpy())
    if class_balance:
        weights = weights / model.slots["class_mean"].numpy()[y]
    np.testing.assert_allclose(found.weight, weights / weights.mean(), rtol=1e-4)


def test_table_joins_with_cleanlabs_by_index():
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    theirs = pd.DataFrame(
        {
            "is_label_issue": [False] * 5,
            "label_quality": np.linspace(0, 1, 5),
            "given_label": 0,
            "predicted_label": 1,
        }
    )
    ours = clidmu.audit(logits_of(x), x, np.zeros(5, int))
    joined = ours.join(theirs, rsuffix="_cleanlab")
    assert len(joined) == 5 and joined.notna().drop(columns="weight").all(axis=None)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"y": None}, "received no y"),
        ({"y": np.array([0, 1])}, r"lengths \[2, 4\]"),
        ({"y": np.array([0, 1, 2, 0])}, "received 2 at index 2"),
        ({"y": np.array([0, -1, 1, 0])}, "received -1 at index 1"),
        ({"y": np.array([0, np.nan, 1, 0])}, "received nan at index 1"),
        ({"ids": ["a"]}, "ids must name all 4 examples; received 1"),
        ({"paths": ["a"] * 5}, "paths must name all 4 examples; received 5"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    x = np.eye(2, dtype="float32").repeat(2, axis=0)
    arguments = {"y": np.array([0, 1, 1, 0]), **change}
    with pytest.raises(ValueError, match=words):
        clidmu.audit(logits_of(x), x, **arguments)


def test_snapshots_before_any_epoch_are_refused():
    x = np.eye(2, dtype="float32")
    with pytest.raises(ValueError, match="No epoch was trained yet"):
        snapshots = clidmu.SnapshotEnsemble(x)
        clidmu.audit(logits_of(x), x, np.array([0, 1]), snapshots=snapshots)


@pytest.fixture(scope="module")
def pair_flip():
    """Digits with 40 % pair flip, trained by CLID-MU for a third of its usual time."""
    config = Config(
        noise="asymmetric", noise_rate=0.4, epochs=20, learning_rate=0.05, snapshots=3
    )
    experiment = Experiment(config)
    model, split = experiment.model, experiment.source.train
    snapshots = experiment.snapshots()
    model.fit(
        **experiment.fit_arguments(),
        epochs=experiment.epochs,
        steps_per_epoch=experiment.described.steps,
        verbose=0,
        callbacks=[snapshots],
    )
    batches = experiment.data.in_order(split)
    return split, clidmu.audit(model, batches, snapshots=snapshots)


def test_wrong_labels_are_found_where_most_neighbours_share_the_mistake(pair_flip):
    split, issues = pair_flip
    is_wrong = split.labels != split.clean_labels
    assert metrics.roc_auc_score(is_wrong, -issues.label_quality) > 0.95
    assert metrics.roc_auc_score(is_wrong, -issues.weight) > 0.9
    assert metrics.f1_score(is_wrong, issues.is_label_issue) > 0.85
    flagged = issues.is_label_issue & is_wrong
    assert np.mean((issues.suggested_label == split.clean_labels)[flagged]) > 0.95


def test_estimated_noise_rate_is_near_the_true_one(pair_flip):
    split, issues = pair_flip
    rate = np.mean(split.labels != split.clean_labels)
    assert abs(issues.is_label_issue.mean() - rate) < 0.06
