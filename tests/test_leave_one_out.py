"""Every label is judged by the step of the others, spelled out here one by one."""

import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.core.leave_one_out import (
    balanced,
    leave_one_out_logits,
    leave_one_out_push,
)
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


def slopes_of(logits, targets):
    present = np.sum(targets, axis=-1, keepdims=True)
    return (tf.nn.softmax(logits, axis=-1) - targets) * present


def one_by_one(features, kernel, bias, targets, weights, groups):
    """Takes the head's step on all examples but one, by a tape, and does so N times."""
    logits_of = []
    for j in range(N):
        others = np.delete(np.arange(N), j)
        in_group = weights[others, None] * groups[others]
        shares = in_group / np.maximum(in_group.sum(0), 1e-30)
        shares = (shares * groups[others].mean(0)).sum(1)
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


@pytest.mark.parametrize("by_class", [True, False])
def test_is_the_step_of_the_head_on_all_the_others(by_class):
    features, kernel, bias, targets, weights = problem()
    groups = targets if by_class else np.ones((N, 1))
    logits = features @ kernel + bias
    after = leave_one_out_logits(
        *(features, logits, slopes_of(logits, targets), weights, groups, RATE)
    )
    expected = one_by_one(features, kernel, bias, targets, weights, groups)
    np.testing.assert_allclose(after, expected, rtol=1e-9)


def test_empty_rows_count_for_nothing():
    features, kernel, bias, targets, weights = problem(empty=5)
    slopes = slopes_of(features @ kernel + bias, targets)
    arguments = features, slopes, weights, targets
    without = leave_one_out_push(*(array[:N] for array in arguments))
    found = leave_one_out_push(*arguments)[:N]
    np.testing.assert_allclose(found, without, rtol=1e-9)


def test_one_example_alone_stays():
    features, _, _, targets, weights = (a[:1] for a in problem())
    logits = tf.constant([[1.0, 2.0, 3.0]], "float64")
    slopes = slopes_of(logits, targets)
    after = leave_one_out_logits(features, logits, slopes, weights, targets, RATE)
    np.testing.assert_array_equal(after, logits)


def verdict(weights, length=None):
    """The judges' loss by plain formulas, the step's length held at what is given."""
    features, kernel, bias, targets, _ = problem()
    logits = features @ kernel + bias
    push = leave_one_out_push(features, slopes_of(logits, targets), weights, targets)
    if length is not None:
        push = push * length / tf.norm(push)
    after = logits - RATE * push
    return tf.reduce_mean(mean_absolute_error(after, tf.constant(targets)))


def test_gradient_is_that_of_finite_differences_with_the_length_held():
    features, kernel, bias, targets, weights = problem()
    logits = features @ kernel + bias
    slopes, tensor = slopes_of(logits, targets), tf.constant(weights)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        after = leave_one_out_logits(features, logits, slopes, tensor, targets, RATE)
        value = tf.reduce_mean(mean_absolute_error(after, tf.constant(targets)))
    gradient = tape.gradient(value, tensor).numpy()
    length = tf.norm(leave_one_out_push(features, slopes, weights, targets))
    numeric = [
        (verdict(weights + s, length) - verdict(weights - s, length)) / 2e-6
        for s in np.eye(N) * 1e-6
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(value, verdict(weights), rtol=1e-12)


def test_trusting_a_whole_class_more_changes_nothing():
    features, kernel, bias, targets, weights = problem()
    scaled = weights * np.where(targets[:, 0] == 1, 7.0, 0.2)
    np.testing.assert_allclose(verdict(scaled), verdict(weights), rtol=1e-12)


def test_balanced_weights_have_mean_one_in_every_class():
    *_, targets, weights = problem()
    found = balanced(tf.constant(weights), tf.constant(targets)).numpy()
    for c in range(2):
        np.testing.assert_allclose(found[targets[:, c] == 1].mean(), 1.0)
