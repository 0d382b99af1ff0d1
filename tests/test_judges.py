"""What judges the weights where the given labels do, and how far they are trusted."""

import keras
import numpy as np
import pytest

import clidmu_tf as clidmu
from clidmu_tf.core.losses import prior_penalty
from clidmu_tf.methods import judges
from clidmu_tf.methods.weighting import Weighting
from clidmu_tf.nets.weight_nets import WNet
from small import (
    assert_close,
    compiled_model,
    small_classifier,
    table,
    weights_after,
)

pytestmark = pytest.mark.slow

layers = keras.layers


def judged(**arguments):
    return compiled_model(meta_objective="auto", **arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"weight_net": "vri"}, {"virtual_scope": "all"}, {"feature_layer": "features"}],
)
def test_where_labels_cannot_judge_clid_does(arguments):
    def classifier():
        keras.utils.set_random_seed(1)
        named = layers.Dense(8, "relu", name="features")
        return keras.Sequential([keras.Input((4,)), named, layers.Dense(3)])

    x, y = table()
    found = [
        weights_after(compiled_model(classifier(), meta_objective=o, **arguments), x, y)
        for o in ("auto", "clid")
    ]
    assert_close(*found, 0)
    with pytest.raises(ValueError, match="'noisy_mae'.* received " + [*arguments][0]):
        clidmu.CLIDMU(classifier(), meta_objective="noisy_mae", **arguments)


def test_labels_that_judge_take_no_meta_data():
    x, y = table()
    with pytest.raises(ValueError, match="the given labels judge. Leave it out"):
        judged().fit(x, y, meta_data=x)


def test_judges_are_the_last_examples_newest_first():
    x, y = table()
    model = judged(optimizer=keras.optimizers.SGD(0.0), judges=50)
    model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
    last = np.r_[40:60, 20:40, 0:10]
    features, _ = model.network(x[last])
    np.testing.assert_allclose(model.slots["judge_features"], features, atol=1e-6)
    np.testing.assert_array_equal(
        model.slots["judge_targets"], np.eye(3, dtype="float32")[y[last]]
    )


def standing_of(p, labels):
    """Trust and sureness by these probabilities and labels, and by empty rows."""
    p, labels = np.asarray(p, "float32"), np.eye(len(p[0]), dtype="float32")[labels]
    empty = np.zeros((2, len(p[0])), "float32")
    logits = np.concatenate([np.log(p), 9 * np.eye(*empty.shape, dtype="float32")])
    features = np.ones((len(logits), 4), "float32")
    targets = np.concatenate([labels, empty])
    found = judges.standing(judges.Judges(features, logits, targets))
    return [float(value) for value in found]


# Of twenty judges and three classes the first two are surest; each class is predicted,
# and given, as the table says. A network's rows by what it predicts:
ROWS = np.array([[0.38, 0.31, 0.31], [0.31, 0.38, 0.31], [0.31, 0.31, 0.38]])
SURER = np.array([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3]])


def judged_twenty(right_of_surest, right_of_others, rows=ROWS, surer=SURER):
    """Standing where so many are right, and the labels' shares are (9, 9, 2)/20."""
    predicted = [0, 1] + [0] * 8 + [1] * 8 + [2] * 2
    labels = np.array(predicted)
    # Two that trade their labels are wrong, and no share is another.
    wrong_of_surest, wrong_of_others = 2 - right_of_surest, 18 - right_of_others
    assert wrong_of_surest in (0, 2) and wrong_of_others % 2 == 0
    if wrong_of_surest:
        labels[:2] = labels[1::-1]
    for i in range(wrong_of_others // 2):
        labels[[2 + i, 10 + i]] = labels[[10 + i, 2 + i]]
    p = np.concatenate([surer, rows[predicted[2:]]])
    return standing_of(p, labels)


def test_trust_is_of_a_network_that_is_as_right_as_it_can_be_or_sure():
    """By hand, with the agreement that is to be expected by chance."""
    of_all = 2 * 0.45**2 + 0.1**2  # κ's: the shares of what is predicted and given

    def above(share, chance):
        return (share - chance) / (1 - chance)

    # Ten of twenty are right, and both of the surest.
    knows = above(10 / 20, of_all)
    assert judged_twenty(2, 8)[0] == pytest.approx(knows / 0.7, abs=1e-5)
    # The surest are wrong: compared with LEAST_RIGHT, which is less than all have.
    assert judged_twenty(0, 14)[0] == 1
    # Right as often as the surest are, it is trusted in full.
    assert judged_twenty(2, 18)[0] == 1
    # It is as sure as it seems, above chance, from LEAST_RIGHT on; below it is less so.
    sure = above((2 * 0.4 + 18 * 0.9) / 20, of_all)
    surest_rows = np.where(np.eye(3), 0.9, 0.05)
    assert judged_twenty(2, 14, surest_rows)[1] == pytest.approx(sure, abs=1e-5)
    has_learnt = above(10 / 20, of_all) / 0.2
    assert has_learnt < 1
    expected = has_learnt * sure
    assert judged_twenty(2, 8, surest_rows)[1] == pytest.approx(expected, abs=1e-5)
    # Sure of all it is trusted as far as it is right about the surest, if by heart.
    surer = np.array([[0.95, 0.03, 0.02], [0.03, 0.95, 0.02]])
    trust, sureness = judged_twenty(2, 8, surest_rows, surer)
    assert sureness > knows
    assert trust == pytest.approx(sureness / 0.7, abs=1e-5)


def test_a_network_that_is_right_by_chance_alone_is_not_trusted():
    """One that gives all the most frequent class; one that is sure, and wrong."""
    frequent = [0] * 14 + [1] * 4 + [2] * 2
    assert standing_of([[0.9, 0.05, 0.05]] * 20, frequent) == [0, 0]
    p = np.eye(3)[[1, 2, 0] * 6] * 0.98 + 0.01
    assert standing_of(p, [0, 1, 2] * 6) == [0, 0]


def test_the_prior_penalty_counts_as_far_as_the_network_is_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal([2, 0, 0], 1, (30, 3)).astype("float32")
    targets = np.eye(3, dtype="float32")[rng.integers(3, size=30)]
    weighting = Weighting(WNet(starts_even=True), True, prior_penalty=2.0)
    weighting.weight_net.build_for(4, 3)
    phi = [v.value for v in weighting.weight_net.trainable_variables]
    classes = [np.ones(3, "float32"), targets.sum(0), np.ones(3, "float32") / 3]

    def loss(**batch):
        batch |= {"targets": targets, "sample_weight": np.ones(30, "float32")}
        return float(weighting.loss(batch, classes)(phi, None, logits, virtual=False))

    penalty = 2 * float(prior_penalty(logits, targets.mean(0)))
    assert penalty > 0.01
    assert loss() - loss(sureness=0.0) == pytest.approx(penalty, abs=1e-5)
    assert loss(sureness=0.3) - loss(sureness=0.0) == pytest.approx(
        0.3 * penalty, abs=1e-5
    )


def test_a_network_that_only_guesses_trains_as_without_weights():
    """The first step from a head of zeros is cross-entropy's; the second is not."""
    (x, y), found = table(), []
    for model in (judged(prior_penalty=0.0), clidmu.CrossEntropy(small_classifier())):
        model.compile(keras.optimizers.SGD(5.0))
        head = model.classifier.layers[-1]
        head.set_weights([np.zeros_like(w) for w in head.get_weights()])
        found.append([])
        for _ in range(2):
            model.train_on_batch(x, y)
            found[-1].append(model.classifier.get_weights())
    assert_close(found[0][0], found[1][0], 1e-5)
    assert np.abs(found[0][1][-1] - found[1][1][-1]).max() > 1e-4


@pytest.mark.parametrize("full_trust", [False, True])
def test_weights_count_where_all_is_wrong_only_in_full_trust(full_trust):
    x, _ = table()
    model = judged(full_trust=full_trust, optimizer=keras.optimizers.SGD(1e-3))
    never_right = (model.predict(x, verbose=0).argmax(-1) + 1) % 3
    model.train_on_batch(x, never_right)
    weights = model.label_weights(x, never_right)
    assert float(model.slots["trust"]) == full_trust
    assert (np.ptp(weights) > 1e-3) == full_trust


def test_labels_of_no_weight_judge_nothing():
    (x, y), found = table(), []
    weight = (np.arange(len(y)) % 2).astype("float32")
    for labels in (y, np.where(weight, y, (y + 1) % 3)):
        model = judged(full_trust=True)
        model.train_on_batch(x, labels, sample_weight=weight)
        found.append(model.weight_net.get_weights())
        assert not np.any(model.slots["judge_targets"].numpy()[: len(y)][weight == 0])
    assert_close(*found, 0)
    model.train_on_batch(x, y, sample_weight=0 * weight)
    assert np.all(np.isfinite(np.concatenate([w.ravel() for w in model.get_weights()])))
