"""Many seeds at once draw what TensorFlow draws from one after another."""

import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.data import draws

SEEDS = np.random.default_rng(0).integers(-(2**31), 2**31, (40, 2), "int64")
SEEDS = np.concatenate([SEEDS, [[0, 0], [-1, 1], [2**31 - 1, -(2**31)]]])


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_every_row_is_drawn_by_tensorflows_generator_from_its_seed(count):
    seeds = tf.constant(SEEDS, tf.int32)
    one_by_one = [
        tf.random.stateless_uniform([count], seed, alg="philox") for seed in seeds
    ]
    np.testing.assert_array_equal(draws.uniform(seeds, count), one_by_one)
    np.testing.assert_array_equal(draws.uniform(seeds[:1], count), one_by_one[:1])


def test_no_seeds_draw_no_numbers():
    assert draws.uniform(tf.zeros((0, 2), tf.int32), 3).shape == (0, 3)
