"""Losses of the methods beside CLID-MU: GCE, MAE, label smoothing, ELR, MixUp."""

import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.core import losses
from clidmu_tf.core.early_learning import early_learning_term, update_memory
from clidmu_tf.core.labels import smooth
from clidmu_tf.core.mixing import mix
from golden_methods import METHODS, one_hot

MODES = ["eager", "graph", "xla"]


def value_and_gradient(function, logits, mode="eager"):
    def both(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = function(logits)
            mean = tf.reduce_mean(value)
        return value, tape.gradient(mean, logits)

    if mode != "eager":
        both = tf.function(both, jit_compile=mode == "xla")
    return both(logits)


ROBUST = {
    "gce": lambda logits, targets: losses.generalized_cross_entropy(
        logits, targets, float(METHODS["gce_q"])
    ),
    "mae": losses.mean_absolute_error,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ROBUST)
def test_robust_losses_are_their_formulas(name, mode):
    targets = one_hot(METHODS["robust_y"])
    value, gradient = value_and_gradient(
        lambda logits: ROBUST[name](logits, targets),
        tf.constant(METHODS["robust_logits"]),
        mode,
    )
    np.testing.assert_allclose(value, METHODS[f"{name}_losses"], rtol=1e-9)
    np.testing.assert_allclose(gradient, METHODS[f"{name}_grad"], atol=1e-9)


def some_logits(seed=0, shape=(7, 5)):
    return tf.constant(np.random.default_rng(seed).normal(size=shape, scale=2))


@pytest.mark.parametrize("soft", [False, True])
def test_gce_lies_between_cross_entropy_and_mae(soft):
    logits = some_logits()
    targets = tf.nn.softmax(some_logits(1)) if soft else one_hot([0, 1, 2, 3, 4] * 2, 5)
    targets = targets[:7]
    at_one = losses.generalized_cross_entropy(logits, targets, 1.0)
    np.testing.assert_allclose(
        at_one, losses.mean_absolute_error(logits, targets), rtol=1e-12
    )
    if not soft:
        near_zero = losses.generalized_cross_entropy(logits, targets, 1e-9)
        np.testing.assert_allclose(
            near_zero, losses.cross_entropy(logits, targets), rtol=1e-7
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("q", [1e-6, 0.01, 0.7, 1.0])
def test_gce_at_extremes(q, mode):
    logits = tf.constant([[1e4, -1e4], [-1e4, 1e4], [1e-4, 0.0], [80.0, -80.0]])
    targets = tf.constant([[1.0, 0.0]] * 4)
    value, gradient = value_and_gradient(
        lambda logits: losses.generalized_cross_entropy(logits, targets, q),
        logits,
        mode,
    )
    right = logits.numpy().astype("float64") @ [-1.0, 1.0]
    expected = -np.expm1(-q * np.logaddexp(0.0, right)) / q
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-30)
    assert np.all(np.isfinite(gradient))


def test_gce_keeps_the_dtype():
    logits = some_logits()
    for dtype in ("float32", "float64"):
        targets = tf.one_hot([0] * 7, 5, dtype=dtype)
        value = losses.generalized_cross_entropy(tf.cast(logits, dtype), targets)
        assert value.dtype == dtype


def test_gce_shows_a_label_that_is_none():
    value = losses.generalized_cross_entropy(some_logits(), np.full((7, 5), np.nan))
    assert np.all(np.isnan(value))


def test_smoothing_moves_labels_towards_uniform():
    targets = one_hot([0, 2], 4)
    np.testing.assert_array_equal(smooth(targets, 0.0), targets)
    np.testing.assert_allclose(smooth(targets, 1.0), np.full((2, 4), 0.25))
    expected = [[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]]
    np.testing.assert_allclose(smooth(targets, 0.1), expected)
    assert smooth(tf.cast(targets, "float32"), 0.1).dtype == "float32"


@pytest.mark.parametrize("mode", MODES)
def test_early_learning_is_the_authors(mode):
    beta, clip, penalty = (
        float(METHODS[f"elr_{name}"]) for name in ("beta", "clip", "lambda_elr")
    )
    memory = np.zeros((int(METHODS["elr_num_examples"]), 4))

    def step(logits, rows, targets):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            rows = update_memory(rows, logits, beta, clip)
            plain = tf.reduce_mean(losses.cross_entropy(logits, targets))
            term = early_learning_term(logits, rows, clip)
            loss = plain + penalty * term
        return rows, plain, term, loss, tape.gradient(loss, logits)

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla")
    for i, index in enumerate(METHODS["elr_index"]):
        rows, *found = step(
            tf.constant(METHODS["elr_logits"][i]),
            tf.constant(memory[index]),
            one_hot(METHODS["elr_y"][i]),
        )
        memory[index] = rows
        np.testing.assert_allclose(memory, METHODS["elr_memories"][i], atol=1e-9)
        for name, value in zip(
            ("ce", "regularizers", "losses", "grads"), found, strict=True
        ):
            expected = METHODS[f"elr_{name}"][i]
            np.testing.assert_allclose(value, expected, atol=1e-9, err_msg=name)


def test_memory_rows_stay_below_a_distribution():
    generator = np.random.default_rng(3)
    memory = tf.zeros((6, 3))
    for _ in range(200):
        logits = tf.constant(generator.normal(size=(6, 3), scale=20), "float32")
        before = tf.reduce_sum(memory, axis=1)
        memory = update_memory(memory, logits, 0.9)
        total = tf.reduce_sum(memory, axis=1)
        assert np.all(memory >= 0) and np.all(total <= 1 + 1e-6)
        assert np.all(total >= before - 1e-6)
    np.testing.assert_allclose(total, np.ones(6), atol=1e-6)


def test_early_learning_is_finite_where_all_agree_for_ever():
    logits = tf.constant([[1e4, -1e4], [-1e4, 1e4]])
    memory = tf.constant([[1.0, 0.0], [1.0, 0.0]])
    value, gradient = value_and_gradient(
        lambda logits: early_learning_term(logits, memory), logits
    )
    assert np.isfinite(value) and not np.any(gradient)  # both rows are clipped
    np.testing.assert_allclose(value, np.log([1e-4, 1 - 1e-4]).mean(), rtol=1e-3)


def test_no_gradient_flows_through_the_memory():
    logits = some_logits()
    with tf.GradientTape() as tape:
        tape.watch(logits)
        memory = update_memory(tf.zeros((7, 5), "float64"), logits, 0.7)
    assert tape.gradient(memory, logits) is None


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, "each"])
def test_mixed_labels_sum_to_one(share):
    generator = np.random.default_rng(5)
    share = generator.uniform(size=7) if share == "each" else share
    rows, partners = (tf.nn.softmax(some_logits(seed)) for seed in (1, 2))
    mixed = mix(rows, partners, share)
    np.testing.assert_allclose(tf.reduce_sum(mixed, axis=1), np.ones(7))
    column = np.reshape(share, (-1, 1))
    np.testing.assert_allclose(mixed, column * rows + (1 - column) * partners)
    images = tf.random.uniform((7, 2, 2, 3))
    assert mix(images, images, share).dtype == "float32"
    np.testing.assert_allclose(mix(images, images, share), images, rtol=1e-6)


def test_mixing_is_dividemixs():
    order, share = METHODS["dm_permutation"], METHODS["dm_mix_lambda"]
    rows = np.concatenate([METHODS[f"dm_{name}"] for name in ("x", "x2", "u", "u2")])
    np.testing.assert_allclose(
        mix(tf.constant(rows), rows[order], share), METHODS["dm_mixed_x"], rtol=1e-12
    )
