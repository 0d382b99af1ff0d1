import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.core import losses
from clidmu_tf.core.labels import check_labels, to_targets
from reference import GOLDEN

CASES = range(int(GOLDEN["clid_cases"]))


def clid_and_gradients(features, logits, temperature):
    with tf.GradientTape() as tape:
        tape.watch([features, logits])
        value = clidmu.clid(features, logits, temperature)
    return value, tape.gradient(value, [features, logits], unconnected_gradients="zero")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_clid_is_the_authors(case, dtype, tolerance, mode):
    function = clid_and_gradients
    if mode != "eager":
        function = tf.function(function, jit_compile=mode == "xla")
    value, (by_features, by_logits) = function(
        tf.constant(GOLDEN[f"clid{case}_features"], dtype),
        tf.constant(GOLDEN[f"clid{case}_logits"], dtype),
        tf.constant(GOLDEN[f"clid{case}_temperature"], dtype),
    )
    np.testing.assert_allclose(value, GOLDEN[f"clid{case}_value"], rtol=tolerance)
    np.testing.assert_allclose(
        by_logits, GOLDEN[f"clid{case}_grad_logits"], atol=tolerance
    )
    assert not np.any(by_features)


def test_clid_keeps_negative_similarities_in_the_softmax():
    # Two opposite examples: relu gives (1/τ, 0), so the target is softmax, not 1.
    features = tf.constant([[1.0, 0.0], [-1.0, 0.0]], "float64")
    logits = tf.constant([[50.0, -50.0], [-50.0, 50.0]], "float64")
    expected = -np.log(np.exp(2.0) / (np.exp(2.0) + 1) + 1e-7)
    np.testing.assert_allclose(clidmu.clid(features, logits, 0.5), expected)


def test_clid_does_not_differentiate_its_row_sum():
    # Scaling a row of Ŵ is what the detached sum hides: finite differences of the
    # whole function therefore disagree with its gradient, those with it fixed agree.
    generator = np.random.default_rng(0)
    features, logits = generator.normal(size=(5, 3)), generator.normal(size=(5, 4))
    _, (_, gradient) = clid_and_gradients(
        tf.constant(features), tf.constant(logits), tf.constant(0.5, "float64")
    )
    shift = 1e-6 * np.eye(5 * 4)[7].reshape(5, 4)

    def fixed_sum(shifted):
        def unit(rows):
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        def softmax(rows):
            exp = np.exp(rows)
            return exp / exp.sum(1, keepdims=True)

        target = softmax(np.maximum(unit(features) @ unit(features).T / 0.5, 0))
        now, start = unit(softmax(shifted)), unit(softmax(logits))
        weights = now @ now.T / (start @ start.T).sum(1, keepdims=True)
        return np.mean(np.sum(-np.log(target + 1e-7) * weights, axis=1))

    slope = (fixed_sum(logits + shift) - fixed_sum(logits - shift)) / 2e-6
    np.testing.assert_allclose(gradient[1, 3], slope, rtol=1e-6)


def test_clid_survives_a_dead_feature_row_and_extreme_logits():
    features = tf.constant([[0.0, 0.0], [1.0, 0.0], [1e20, 1e20]])
    logits = tf.constant([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]])
    value, (_, gradient) = clid_and_gradients(features, logits, 0.1)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_prior_penalty_is_kl_of_the_mean_prediction():
    logits = np.random.default_rng(1).normal(size=(6, 3))
    mean = np.mean(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), axis=0)
    prior = np.array([0.5, 0.3, 0.2])
    expected = np.sum(prior * np.log(prior / mean))
    np.testing.assert_allclose(
        losses.prior_penalty(tf.constant(logits), tf.constant(prior)), expected
    )
    at_prior = losses.prior_penalty(tf.constant(np.log([prior, prior])), prior)
    np.testing.assert_allclose(at_prior, 0.0, atol=1e-12)
    # A class that is never predicted costs a lot, but not infinity.
    assert np.isfinite(losses.prior_penalty(tf.constant([[200.0, 0.0]]), [0.5, 0.5]))


def test_prior_penalty_of_a_moving_mean_has_the_batchs_gradient_at_full_scale():
    logits = tf.constant(np.random.default_rng(1).normal(size=(6, 3)))
    prior, mean = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        batch_mean = tf.reduce_mean(tf.nn.softmax(logits), axis=0)
        moved = 0.75 * mean + 0.25 * batch_mean
        slopes = -tf.reduce_sum(prior / tf.stop_gradient(moved) * batch_mean)
        value = losses.prior_penalty(logits, prior, tf.constant(mean), 0.25)
        alone = losses.prior_penalty(logits, prior)
        whole = losses.prior_penalty(logits, prior, tf.constant(mean), 1.0)
    expected = np.sum(prior * np.log(prior / moved))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(
        tape.gradient(value, logits), tape.gradient(slopes, logits), rtol=1e-10
    )
    # A batch that is all of the mean has no need of another.
    assert whole == alone
    np.testing.assert_array_equal(
        tape.gradient(whole, logits), tape.gradient(alone, logits)
    )


def test_cross_entropy_and_mae_at_extremes():
    logits = tf.constant([[100.0, -100.0], [100.0, -100.0]])
    targets = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), [0, 200])
    np.testing.assert_allclose(losses.mean_absolute_error(logits, targets), [0, 1])


def test_clid_metric_is_the_mean_over_batches():
    generator = np.random.default_rng(2)
    batches = [(generator.normal(size=(6, 4)), generator.normal(size=(6, 3)))] * 2
    batches.append((generator.normal(size=(6, 4)), generator.normal(size=(6, 3))))
    metric = clidmu.CLID(temperature=0.3)
    for features, logits in batches:
        metric.update_state(features, logits)
    values = [clidmu.clid(tf.constant(f), tf.constant(z), 0.3) for f, z in batches]
    np.testing.assert_allclose(metric.result(), np.mean(values), rtol=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0
    assert clidmu.CLID.from_config(metric.get_config()).temperature == 0.3


@pytest.mark.parametrize("temperature", [0, np.inf, np.nan])
def test_clid_metric_refuses_a_temperature_that_is_none(temperature):
    words = f"above 0 and finite; received temperature={temperature}"
    with pytest.raises(ValueError, match=words):
        clidmu.CLID(temperature=temperature)


@pytest.mark.parametrize(
    "labels, words",
    [
        (["cat", "dog"], "received 'cat' first: name the classes"),
        (np.array(["cat", 1], object), "received 'cat' first: name the classes"),
        ([[1, 0, 0], [2, -1, 0]], "0 or more that sum to one; .* at index 1"),
        ([[0.5, 0.4, 0.0]], "that sum to one; .* at index 0"),
        ([0, 3], "whole numbers from 0 to 2; received 3 at index 1"),
    ],
)
def test_labels_that_are_none_are_named(labels, words):
    with pytest.raises(ValueError, match=words):
        check_labels(labels, 3)


def test_label_between_two_classes_is_no_target():
    targets = to_targets([1.0, 1.9, -0.5, np.nan], 3)
    np.testing.assert_array_equal(targets, [[0, 1, 0], *[[np.nan] * 3] * 3])


def test_soft_label_below_zero_is_no_target():
    targets = to_targets([[1.0, 0.0, 0.0], [2.0, -1.0, 0.0]], 3)
    np.testing.assert_array_equal(targets, [[1, 0, 0], [np.nan] * 3])
