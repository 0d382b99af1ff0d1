"""Every label is judged by the step of the others, spelled out here one by one."""

import numpy as np
import tensorflow as tf

from clidmu_tf.core.leave_one_out import leave_one_out_logits
from clidmu_tf.core.losses import mean_absolute_error

N, D, C, RATE = 9, 4, 3, 0.25


def problem(empty=0):
    """Features, kernel and bias of a head, labels and weights; some rows empty."""
    generator = np.random.default_rng(0)
    present = np.r_[np.ones(N), np.zeros(empty)]
    features = generator.normal(size=(N + empty, D)) * present[:, None]
    kernel, bias = generator.normal(size=(D, C)), generator.normal(size=C)
    targets = np.eye(C)[np.arange(N + empty) % 2] * present[:, None]
    weights = generator.uniform(0.1, 1.0, N + empty) * present
    return features, kernel, bias, targets, weights


def moved(features, logits, targets, weights, **head):
    slopes = tf.nn.softmax(logits, axis=-1) - targets
    return leave_one_out_logits(features, logits, slopes, weights, RATE, **head)


def one_by_one(features, kernel, bias, targets, weights):
    """Takes the head's step on all examples but one, by a tape, and does so N times."""
    logits_of = []
    for j in range(N):
        others = np.delete(np.arange(N), j)
        shares = weights[others] / weights[others].sum()
        head = [tf.constant(kernel), tf.constant(bias)]
        with tf.GradientTape() as tape:
            tape.watch(head)
            logits = features[others] @ head[0] + head[1]
            losses = tf.nn.softmax_cross_entropy_with_logits(targets[others], logits)
            loss = tf.reduce_sum(shares * losses)
        step = [slope.numpy() for slope in tape.gradient(loss, head)]
        logits_of.append(
            features[j] @ (kernel - RATE * step[0]) + (bias - RATE * step[1])
        )
    return np.array(logits_of)


def test_is_the_step_of_the_head_on_all_the_others():
    features, kernel, bias, targets, weights = problem()
    after = moved(features, features @ kernel + bias, targets, weights)
    expected = one_by_one(features, kernel, bias, targets, weights)
    np.testing.assert_allclose(after, expected, rtol=1e-9)


def test_empty_rows_count_for_nothing():
    features, kernel, bias, targets, weights = problem(empty=5)
    arguments = features, features @ kernel + bias, targets, weights
    without = moved(*(array[:N] for array in arguments))
    np.testing.assert_allclose(moved(*arguments)[:N], without, rtol=1e-9)


def test_one_example_alone_stays():
    features, _, _, targets, weights = (array[:1] for array in problem())
    logits = tf.constant([[1.0, 2.0, 3.0]], "float64")
    np.testing.assert_array_equal(moved(features, logits, targets, weights), logits)


def verdict(weights, arguments):
    features, logits, targets = arguments
    after = moved(features, logits, targets, weights)
    return tf.reduce_mean(mean_absolute_error(after, tf.constant(targets)))


def test_gradient_by_the_weights_is_that_of_finite_differences():
    features, kernel, bias, targets, weights = problem()
    arguments = features, features @ kernel + bias, targets
    tensor = tf.constant(weights)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = verdict(tensor, arguments)
    gradient = tape.gradient(value, tensor).numpy()
    numeric = [
        (verdict(weights + s, arguments) - verdict(weights - s, arguments)) / 2e-6
        for s in np.eye(N) * 1e-6
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-9)


def test_no_label_speaks_for_itself():
    """What an example's own weight does to its own logits is nothing at all."""
    features, kernel, bias, targets, weights = problem()
    tensor = tf.constant(weights)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        after = moved(features, features @ kernel + bias, targets, tensor)
    by_weights = tape.jacobian(after, tensor).numpy()  # (example, class, weight)
    own = by_weights[np.arange(N), :, np.arange(N)]
    np.testing.assert_allclose(own, 0, atol=1e-12)
    assert np.abs(by_weights).max() > 1e-3


def test_a_head_without_a_bias_has_none_to_move():
    """A bias is the weight of a feature that is 1."""
    features, kernel, bias, targets, weights = problem()
    logits = features @ kernel + bias
    expected = moved(features, logits, targets, weights)
    ones = np.concatenate([features, np.ones((N, 1))], axis=1)
    found = moved(ones, logits, targets, weights, has_bias=False)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
