"""Copies of a classifier predict as it does, whatever its layers were adapted to."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.nets.copies import copy_of, drawn_anew

layers = keras.layers
X = np.random.default_rng(0).normal(50, 9, (40, 3)).astype("float32")
Y = np.arange(40) % 2


def normalised(seed=0):
    keras.utils.set_random_seed(seed)
    mean = layers.Normalization()
    mean.adapt(X)
    return keras.Sequential([keras.Input((3,)), mean, layers.Dense(2)])


def test_a_copy_predicts_alike_and_shares_nothing():
    classifier = normalised()
    before = classifier(X).numpy()
    copy = copy_of(classifier)
    np.testing.assert_array_equal(copy(X), before)
    copy.layers[-1].kernel.assign_add(tf.ones((3, 2)))
    np.testing.assert_array_equal(classifier(X), before)


def test_a_copy_knows_the_words():
    words = layers.TextVectorization(output_sequence_length=2)
    words.adapt(["red green", "green blue"])
    embed = [layers.Embedding(9, 4), layers.Flatten(), layers.Dense(2)]
    classifier = keras.Sequential([keras.Input((), dtype="string"), words, *embed])
    texts = tf.constant(["red", "blue green"])
    np.testing.assert_array_equal(copy_of(classifier)(texts), classifier(texts))


def test_a_network_drawn_anew_keeps_what_is_not_trained():
    frozen = layers.Dense(4, trainable=False)
    inside = keras.Sequential([keras.Input((3,)), frozen])
    mean = layers.Normalization()
    mean.adapt(X)
    classifier = keras.Sequential([keras.Input((3,)), mean, inside, layers.Dense(2)])
    other = drawn_anew(classifier)
    until_there = [
        keras.Model(n.inputs[0], n.layers[-2].output) for n in (classifier, other)
    ]
    np.testing.assert_array_equal(until_there[0](X), until_there[1](X))
    assert np.abs(other.layers[-1].kernel - classifier.layers[-1].kernel).max() > 0.1


@pytest.mark.parametrize(
    "method, given",
    [
        (clidmu.CrossEntropy, {}),
        (clidmu.FixMatch, {"unlabeled_data": X}),
        (clidmu.CoTeaching, {}),
    ],
)
def test_what_is_served_and_kept_normalises_its_inputs(method, given):
    model = method(normalised(), seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    snapshots = clidmu.SnapshotEnsemble(X, k=1, batch_size=20)
    model.fit(X, Y, batch_size=20, verbose=0, callbacks=[snapshots], **given)
    networks = [network.classifier for network in model.networks]
    expected = np.mean([network(X) for network in networks], axis=0)
    assert np.abs(expected).max() < 20  # of inputs of 50 it would be more
    for served in (model, snapshots.ensemble()):
        found = served.predict(X, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
