"""MLNT's gradient of second order, and the teacher that it asks."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.core import consistency
from clidmu_tf.core.consistency import consistency_gradient, divergence
from clidmu_tf.core.losses import cross_entropy
from clidmu_tf.core.teacher import ramp, teacher_momentum, update_teacher
from clidmu_tf.nets.second_derivatives import twice_differentiable
from golden_methods import DENSE, METHODS, one_hot, two_layers, values

pytestmark = pytest.mark.slow

MODES = ["eager", "graph", "xla"]


def number(name):
    return float(METHODS[f"mlnt_{name}"])


def compiled(function, mode):
    if mode == "eager":
        return function
    return tf.function(function, jit_compile=mode == "xla")


def assert_named(found, prefix, tolerance=1e-9):
    for name, value, wanted in zip(DENSE, found, values(prefix), strict=True):
        np.testing.assert_allclose(value, wanted, atol=tolerance, err_msg=name)


def golden_problem():
    return {
        "theta": values("mlnt_cls"),
        "state": [],
        "x": tf.constant(METHODS["mlnt_x"]),
        "label_sets": one_hot(METHODS["mlnt_synthetic_labels"]),
        "teacher": tf.constant(METHODS["mlnt_teacher_probs"]),
        "learning_rate": number("inner_lr"),
        "ramp": number("ramp"),
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_meta_gradient_is_the_authors(at_once, mode):
    @lambda step: compiled(step, mode)
    def step():
        return consistency_gradient(
            two_layers, **golden_problem(), sets_at_once=at_once
        )

    found = step()
    np.testing.assert_allclose(found.loss, number("meta_loss"), rtol=1e-9)
    for name in ("synthetic_losses", "consistencies"):
        np.testing.assert_allclose(
            getattr(found, name), METHODS[f"mlnt_{name}"], rtol=1e-9
        )
    assert_named(found.gradient, "mlnt_meta_grad")


def test_virtual_steps_and_the_first_order_are_the_authors():
    seen, problem = [], golden_problem()

    def apply(theta, state, x):
        seen.append(theta)
        return two_layers(theta, state, x)

    consistency_gradient(apply, **problem)
    first = []
    for m, theta in enumerate(seen[1:4]):
        assert_named(theta, f"mlnt_virtual{m}")
        share, slopes = consistency.divergence_gradient(
            two_layers, theta, [], problem["x"], 16.0, problem["teacher"]
        )
        np.testing.assert_allclose(share, METHODS["mlnt_consistencies"][m], rtol=1e-9)
        first.append(slopes)
    means = [number("ramp") * sum(slopes) / 3 for slopes in zip(*first, strict=True)]
    assert_named(means, "mlnt_meta_grad_first_order")


def test_the_step_around_the_meta_gradient_is_the_authors():
    problem = golden_problem()
    theta, x = problem["theta"], problem["x"]
    teacher = update_teacher(
        values("mlnt_teacher"), theta, teacher_momentum(1000, 500, 2000)
    )
    assert number("teacher_momentum") == teacher_momentum(1000, 500, 2000)
    assert_named(teacher, "mlnt_new_teacher")
    probabilities = tf.nn.softmax(two_layers(teacher, [], x)[1])
    np.testing.assert_allclose(probabilities, METHODS["mlnt_teacher_probs"], atol=1e-9)
    np.testing.assert_allclose(ramp(1000, 500, 2000), number("ramp"), rtol=1e-9)

    with tf.GradientTape() as tape:
        tape.watch(theta)
        losses = cross_entropy(two_layers(theta, [], x)[1], one_hot(METHODS["mlnt_y"]))
        loss = tf.reduce_mean(losses)
    slopes = tape.gradient(loss, theta)
    np.testing.assert_allclose(loss, number("class_loss"), rtol=1e-9)
    assert_named(slopes, "mlnt_class_grad")
    meta = consistency_gradient(two_layers, **problem).gradient
    total = [a + b for a, b in zip(slopes, meta, strict=True)]
    assert_named(total, "mlnt_total_grad")
    rate, decay = number("lr"), number("weight_decay")
    new = [t - rate * (g + decay * t) for t, g in zip(theta, total, strict=True)]
    assert_named(new, "mlnt_new")


BATCH_NORM = keras.layers.BatchNormalization


def conv_problem(dtype="float64", dropout=0.0, normalise=BATCH_NORM):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    keras.config.set_dtype_policy(dtype)
    net = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, activation="tanh"),
            normalise(),
            layers.Dropout(dropout, seed=7),
            layers.Conv2D(5, 3, strides=2, activation="tanh"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    keras.config.set_dtype_policy("float32")

    def apply(theta, state, x):
        with twice_differentiable():
            logits, state = net.stateless_call(theta, state, x, training=True)
        return logits, logits, state

    generator = np.random.default_rng(4)
    return apply, {
        "theta": [tf.constant(v.numpy()) for v in net.trainable_variables],
        "state": [tf.constant(v.numpy()) for v in net.non_trainable_variables],
        "x": tf.constant(generator.normal(size=(12, 6, 6, 2)), dtype),
        "label_sets": tf.one_hot(generator.integers(0, 3, (4, 12)), 3, dtype=dtype),
        "teacher": tf.nn.softmax(tf.constant(generator.normal(size=(12, 3)), dtype)),
        "learning_rate": tf.constant(0.5, dtype),
        "ramp": 0.7,
    }


def plain_loss(apply, theta, state, x, label_sets, teacher, learning_rate, ramp):
    """The formula as it stands in the paper: what the gradient is of."""
    values = []
    for labels in tf.unstack(label_sets):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            _, logits, _ = apply(theta, state, x)
            loss = tf.reduce_mean(cross_entropy(logits, labels))
        slopes = tape.gradient(loss, theta)
        moved = [t - learning_rate * g for t, g in zip(theta, slopes, strict=True)]
        log_p = tf.nn.log_softmax(apply(moved, state, x)[1])
        values.append(tf.reduce_mean(teacher * (tf.math.log(teacher) - log_p)))
    return ramp * tf.reduce_mean(values)


@pytest.mark.parametrize(
    "normalise",
    [
        BATCH_NORM,
        keras.layers.LayerNormalization,
        lambda: keras.layers.GroupNormalization(2),
    ],
)
def test_meta_gradient_is_that_of_finite_differences(normalise):
    apply, problem = conv_problem(normalise=normalise)
    found = consistency_gradient(apply, **problem)
    np.testing.assert_allclose(found.loss, plain_loss(apply, **problem), rtol=1e-12)
    generator, theta = np.random.default_rng(5), problem.pop("theta")
    directions = [tf.constant(generator.normal(size=value.shape)) for value in theta]

    def shifted(step):
        moved = [t + step * d for t, d in zip(theta, directions, strict=True)]
        return plain_loss(apply, theta=moved, **problem)

    slope = (shifted(1e-5) - shifted(-1e-5)) / 2e-5
    expected = sum(
        tf.reduce_sum(g * d) for g, d in zip(found.gradient, directions, strict=True)
    )
    assert abs(float(expected)) > 1e-4
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_meta_gradient_is_that_of_a_tape_around_it_all():
    # With dropout too: every pass has to drop the same units.
    apply, problem = conv_problem(dropout=0.3)
    theta = problem.pop("theta")
    with tf.GradientTape() as tape:
        tape.watch(theta)
        loss = plain_loss(apply, theta=theta, **problem)
    wanted = tape.gradient(loss, theta)
    for at_once in (None, 3):
        found = consistency_gradient(
            apply, theta=theta, **problem, sets_at_once=at_once
        )
        for value, expected in zip(found.gradient, wanted, strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_pieces_keep_the_dtype(jit_compile):
    apply, problem = conv_problem("float32")
    problem["label_sets"] = problem["label_sets"][:2]
    step = tf.function(
        lambda: consistency_gradient(
            apply, **problem, piece=lambda f: tf.function(f, jit_compile=jit_compile)
        )
    )
    found = step().gradient
    apply, exact = conv_problem()
    exact["theta"] = [tf.cast(value, "float64") for value in problem["theta"]]
    exact["label_sets"] = exact["label_sets"][:2]
    wanted = consistency_gradient(apply, **exact).gradient
    for value, expected in zip(found, wanted, strict=True):
        assert value.dtype == "float32"
        np.testing.assert_allclose(value, expected, atol=1e-5)


class Exchange:
    """Replicas that are threads: each hands in its tensors and gets the sums."""

    def __init__(self, replicas):
        self.barrier = threading.Barrier(replicas, timeout=60)
        self.shares = [None] * replicas
        self.talks = 0

    def total(self, replica):
        def total(tensors):
            self.talks += replica == 0
            self.shares[replica] = tensors
            self.barrier.wait()
            sums = [tf.add_n(same) for same in zip(*self.shares, strict=True)]
            self.barrier.wait()
            return sums

        return total


@pytest.mark.parametrize("at_once", [None, 2])
def test_replicas_with_unequal_shares_are_one_device(at_once):
    problem = golden_problem()
    exchange, found = Exchange(2), [None, None]

    def replica(i, rows):
        part = problem | {
            "x": problem["x"][rows],
            "label_sets": problem["label_sets"][:, rows],
            "teacher": problem["teacher"][rows],
        }
        found[i] = consistency_gradient(
            two_layers, **part, total=exchange.total(i), sets_at_once=at_once
        )

    threads = [
        threading.Thread(target=replica, args=arguments)
        for arguments in [(0, slice(0, 6)), (1, slice(6, 16))]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert exchange.talks == 4
    for each in found:
        np.testing.assert_allclose(each.loss, number("meta_loss"), rtol=1e-9)
        assert_named(each.gradient, "mlnt_meta_grad")


def test_weights_that_nothing_reads_and_embeddings_are_dense_tensors():
    table, unused = tf.random.normal((5, 3)), tf.ones((2,))
    found = consistency_gradient(
        lambda theta, state, x: (x, tf.gather(theta[0], x), state),
        theta=[table, unused],
        state=[],
        x=tf.constant([0, 1, 1, 4]),
        label_sets=tf.one_hot([[0, 1, 2, 0], [1, 1, 2, 0]], 3),
        teacher=tf.fill((4, 3), 1 / 3),
        learning_rate=0.1,
    )
    assert np.any(found.gradient[0]) and not np.any(found.gradient[1])
    assert not np.any(found.gradient[0][2:4])


def test_divergence_at_extremes():
    teacher = tf.constant([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    logits = tf.constant([[200.0, -200.0], [200.0, -200.0], [3.0, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = divergence(teacher, logits)
    np.testing.assert_allclose(value, [0, 200, 0], atol=1e-6)
    assert np.all(np.isfinite(tape.gradient(value, logits)))


def test_ramp_is_the_authors():
    found = [ramp(i, 500, 2000) for i in METHODS["mlnt_ramp_iterations"]]
    np.testing.assert_allclose(found, METHODS["mlnt_ramp_values"], rtol=1e-9)
    assert ramp(500, 500, 2000) == 0 and ramp(tf.constant(10**6), 500, 2000) == 1


def test_the_first_teacher_is_a_copy_and_a_later_one_slower():
    theta, teacher = values("mlnt_cls"), values("mlnt_teacher")
    first = update_teacher(teacher, theta, teacher_momentum(501, 500, 2000))
    for copy, value in zip(first, theta, strict=True):
        np.testing.assert_array_equal(copy, value)
    momenta = [float(teacher_momentum(i, 500, 2000)) for i in (502, 2000, 2001)]
    assert momenta == [0.99, 0.99, 0.999]
    single = update_teacher([tf.zeros(2)], [tf.ones(2)], teacher_momentum(7, 0, 5))
    assert single[0].dtype == "float32"
    np.testing.assert_allclose(single[0], [0.001] * 2, rtol=1e-4)
