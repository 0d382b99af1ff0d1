"""Synthetic labels: neighbours in the batch, and who gets whose label."""

import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.core.neighbors import nearest_in_batch, synthetic_labels
from golden_methods import METHODS

MODES = ["eager", "graph", "xla"]


def compiled(function, mode):
    if mode == "eager":
        return function
    return tf.function(function, jit_compile=mode == "xla")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_neighbors_are_the_authors(dtype, mode):
    features = tf.constant(METHODS["mlnt_features"], dtype)
    found = compiled(nearest_in_batch, mode)(features)
    np.testing.assert_array_equal(found, METHODS["mlnt_neighbors"])


@pytest.mark.parametrize("mode", MODES)
def test_synthetic_labels_are_the_authors(mode):
    assert METHODS["mlnt_num_perturbed"] == METHODS["mlnt_neighbor_draws"].shape[1]
    arguments = [
        tf.constant(array)
        for array in (
            METHODS["mlnt_y"],
            METHODS["mlnt_neighbors"],
            METHODS["mlnt_permutations"],
            METHODS["mlnt_neighbor_draws"] - 1,
        )
    ]
    sets = compiled(synthetic_labels, mode)(*arguments)
    np.testing.assert_array_equal(sets, METHODS["mlnt_synthetic_labels"])
    targets = tf.one_hot(arguments[0], 4)
    soft = compiled(synthetic_labels, mode)(targets, *arguments[1:])
    np.testing.assert_array_equal(soft, tf.one_hot(sets, 4))


def test_an_example_is_not_its_own_neighbor_nor_is_one_named_twice():
    features = np.random.default_rng(0).normal(size=(20, 3))
    features[5] = features[11] = features[0]  # the same image three times
    found = nearest_in_batch(tf.constant(features)).numpy()
    for i, row in enumerate(found):
        assert i not in row and len(set(row)) == 10
    assert set(found[0][:2]) == {5, 11}


def test_neighbors_far_from_the_origin():
    # (a − b)² as a² + b² − 2ab in float32 would lose distances of 1 at 10⁴.
    line = np.arange(12.0) ** 1.1
    features = tf.constant(np.stack([line + 1e4, line - 1e4], axis=1), "float32")
    expected = nearest_in_batch(tf.constant(line[:, None]))
    np.testing.assert_array_equal(nearest_in_batch(features), expected)


def test_as_many_labels_change_hands_as_are_drawn():
    generator = np.random.default_rng(2)
    labels = tf.range(12)
    neighbors = nearest_in_batch(tf.constant(generator.normal(size=(12, 2))))
    orders = np.stack([generator.permutation(12) for _ in range(4)])
    draws = generator.integers(0, 10, (4, 6))
    sets = synthetic_labels(labels, neighbors, orders, draws)
    np.testing.assert_array_equal(np.sum(sets != labels, axis=1), [6] * 4)
    none = synthetic_labels(labels, neighbors, orders, draws[:, :0])
    np.testing.assert_array_equal(none, np.tile(labels, (4, 1)))


def test_a_batch_too_small_is_refused():
    with pytest.raises(ValueError, match="those of 11 examples or more.*received 10"):
        nearest_in_batch(tf.zeros((10, 3)))
    assert nearest_in_batch(tf.zeros((11, 3))).shape == (11, 10)
