"""Co-teaching: whose losses choose whose examples, and how many."""

import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.core.co_teaching import forget_rate, small_losses
from clidmu_tf.core.losses import cross_entropy, mean_over
from golden_methods import METHODS, one_hot


def test_each_network_learns_what_the_other_finds_likely():
    rate = float(METHODS["coteaching_forget_rate"])
    targets = one_hot(METHODS["coteaching_y"])
    logits = [tf.constant(METHODS[f"coteaching_logits{i}"]) for i in (1, 2)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        losses = [cross_entropy(z, targets) for z in logits]
        kept = [small_losses(values, rate) for values in losses]
        updates = [mean_over(losses[0], kept[1]), mean_over(losses[1], kept[0])]
    for i in (0, 1):
        np.testing.assert_allclose(
            losses[i], METHODS[f"coteaching_losses{i + 1}"], rtol=1e-9
        )
        assert int(tf.reduce_sum(kept[i])) == METHODS["coteaching_num_kept"]
        chosen = np.sort(METHODS[f"coteaching_small{i + 1}"])
        np.testing.assert_array_equal(np.flatnonzero(kept[i]), chosen)
        expected = METHODS[f"coteaching_update_loss{i + 1}"]
        np.testing.assert_allclose(updates[i], expected, rtol=1e-9)
        slope = tape.gradient(updates[i], logits[i])
        np.testing.assert_allclose(slope, METHODS[f"coteaching_grad{i + 1}"], atol=1e-9)


def test_the_share_left_out_rises_as_in_the_paper():
    epochs = METHODS["coteaching_schedule_epochs"]
    rate = float(METHODS["coteaching_schedule_noise_rate"])
    gradual = int(METHODS["coteaching_schedule_num_gradual"])
    found = [forget_rate(int(epoch), rate, gradual) for epoch in epochs]
    expected = METHODS["coteaching_schedule_forget_rates"]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # The common variant counts from 0, and is there an epoch earlier.
    found = [forget_rate(int(epoch) - 1, rate, gradual - 1) for epoch in epochs]
    expected = METHODS["coteaching_schedule_forget_rates_linspace"]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("losses", [[1.0] * 5, [np.inf, 1.0, 1.0, 0.0, 2.0]])
def test_equal_losses_keep_as_many(losses):
    kept = small_losses(tf.constant(losses), 0.4)
    assert int(tf.reduce_sum(kept)) == 3
    assert int(tf.reduce_sum(small_losses(tf.constant(losses), 1.0))) == 1
