"""What the methods without a weight net say of themselves, and their golden numbers."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.core.labels import to_targets
from clidmu_tf.core.losses import cross_entropy
from clidmu_tf.engine.examples import (
    ArrayExamples,
    batches_of_views,
    split_index,
    with_index,
)

GOLDEN = np.load(pathlib.Path(__file__).parent / "data" / "methods.npz")
CLASSES = 4


def identity(method, **settings):
    """A method around a classifier whose logits are its inputs, and stay so."""
    head = keras.layers.Dense(
        CLASSES, kernel_initializer=keras.initializers.Identity(), use_bias=False
    )
    model = method(keras.Sequential([keras.Input((CLASSES,)), head]), **settings)
    model.compile(keras.optimizers.SGD(0.0))
    return model


def test_elr_remembers_what_the_reference_remembers():
    model = identity(
        clidmu.ELR, beta=GOLDEN["elr_beta"], penalty=GOLDEN["elr_lambda_elr"]
    )
    x, index = GOLDEN["elr_logits"].astype("float32"), GOLDEN["elr_index"]
    steps = tf.data.Dataset.from_tensor_slices((with_index(x, index), GOLDEN["elr_y"]))
    memories = []
    losses = model.fit(
        steps,
        epochs=3,
        steps_per_epoch=1,
        shuffle=False,
        verbose=0,
        num_examples=GOLDEN["elr_num_examples"],
        callbacks=keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: memories.append(
                model.memories["targets"].numpy()
            )
        ),
    ).history["loss"]
    np.testing.assert_allclose(losses, GOLDEN["elr_losses"], rtol=1e-5)
    np.testing.assert_allclose(memories, GOLDEN["elr_memories"], atol=1e-6)


@pytest.mark.parametrize(
    "method, settings, name",
    [
        (clidmu.GCE, {"q": GOLDEN["gce_q"]}, "gce"),
        (clidmu.MAE, {}, "mae"),
    ],
)
def test_robust_losses_are_the_reference(method, settings, name):
    model = identity(method, **settings)
    logits = tf.constant(GOLDEN["robust_logits"])
    targets = to_targets(GOLDEN["robust_y"], CLASSES, "float64")
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = model.example_losses(logits, {"targets": targets})
        mean = tf.reduce_mean(losses)
    np.testing.assert_allclose(losses, GOLDEN[f"{name}_losses"], atol=1e-9)
    gradient = tape.gradient(mean, logits)
    np.testing.assert_allclose(gradient, GOLDEN[f"{name}_grad"], atol=1e-9)


@pytest.mark.parametrize("method", [clidmu.GCE, clidmu.MAE])
def test_a_weight_is_the_gradient_beside_that_of_cross_entropy(method):
    model = identity(method)
    logits = tf.constant(GOLDEN["robust_logits"], "float32")
    targets = to_targets(GOLDEN["robust_y"], CLASSES)

    def slopes(losses):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            total = tf.reduce_sum(losses(logits))
        return tape.gradient(total, logits)

    own = slopes(lambda logits: model.example_losses(logits, {"targets": targets}))
    plain = slopes(lambda logits: cross_entropy(logits, targets))
    weights = model.weigh(logits, GOLDEN["robust_y"])
    np.testing.assert_allclose(own, weights[:, None] * plain, atol=1e-6)


def test_smoothed_labels_are_those_of_keras():
    model = identity(clidmu.LabelSmoothing, amount=0.3)
    logits = tf.constant(GOLDEN["robust_logits"], "float32")
    targets = to_targets(GOLDEN["robust_y"], CLASSES)
    keras_losses = keras.losses.categorical_crossentropy(
        targets, logits, from_logits=True, label_smoothing=0.3
    )
    losses = model.example_losses(logits, {"targets": targets})
    np.testing.assert_allclose(losses, keras_losses, rtol=1e-5)


# --- MixUp


def test_mixup_trains_on_both_labels_by_their_share_and_weight():
    model = identity(clidmu.MixUp)
    generator = np.random.default_rng(0)
    x, logits = generator.normal(size=(2, 5, CLASSES)).astype("float32")
    targets = to_targets(generator.integers(0, CLASSES, 5), CLASSES)
    weight = tf.constant([1.0, 2.0, 0.0, 0.5, 0.0])
    partners, share = tf.constant([3, 0, 4, 1, 2]), 0.3
    batch = {"targets": targets, "sample_weight": weight}
    batch |= {"partners": partners, "share": share}
    mixed_x, mixed = model.prepare(tf.constant(x), batch)
    np.testing.assert_allclose(mixed_x, 0.3 * x + 0.7 * x[partners], rtol=1e-6)
    losses = cross_entropy(logits, mixed["targets"]) * mixed["sample_weight"]
    own = weight * cross_entropy(logits, targets)
    other = tf.gather(weight, partners) * cross_entropy(
        logits, tf.gather(targets, partners)
    )
    np.testing.assert_allclose(losses, 0.3 * own + 0.7 * other, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.01, 1.0, 8.0])
def test_mixup_draws_shares_of_its_beta_distribution(alpha):
    model = identity(clidmu.MixUp, alpha=alpha, seed=1)
    batch = {"targets": tf.zeros((6, CLASSES))}

    @tf.function
    def draw_many():
        drawn = {"share": tf.float32, "partners": tf.int32}
        return tf.map_fn(lambda _: model.draws(batch, "train"), tf.range(2000), drawn)

    drawn = draw_many()
    share = drawn["share"].numpy()
    assert np.all((share >= 0) & (share <= 1))
    np.testing.assert_allclose(share.mean(), 0.5, atol=0.04)
    np.testing.assert_allclose(share.var(), 0.25 / (2 * alpha + 1), rtol=0.15)
    np.testing.assert_array_equal(np.sort(drawn["partners"]), [range(6)] * 2000)
    assert len(np.unique(drawn["partners"], axis=0)) > 500  # of 720


@pytest.mark.parametrize("jit_compile", [False, True])
def test_mixup_refuses_inputs_that_cannot_be_mixed(jit_compile):
    model = identity(clidmu.MixUp)
    model.compile("sgd", jit_compile=jit_compile)
    with pytest.raises(ValueError) as found:
        model.fit(np.ones((8, CLASSES), "uint8"), np.arange(8) % 3, verbose=0)
    assert str(found.value) == (
        "MixUp mixes inputs, which must be floating-point numbers; received uint8: "
        "cast them, or embed them first."
    )


def test_other_data_are_remembered_anew():
    """A step that was traced before must not go on with the memory of then."""
    model = identity(clidmu.ELR)
    x = np.random.default_rng(0).normal(size=(24, CLASSES)).astype("float32")
    for count in (24, 16, 24):
        y = np.arange(count) % CLASSES
        model.fit(x[:count], y, batch_size=8, verbose=0)
        remembered = model.memories["targets"].numpy()
        assert remembered.shape[0] == count and np.all(remembered.sum(-1) > 0)


def test_what_judges_is_another_batch_than_what_is_learnt_from():
    x, y = np.eye(24, dtype="float32"), np.arange(24)
    learnt = batches_of_views(x, (y,), [None], 8, seed=3)
    judging = ArrayExamples(x, y, seed=3).batches(y, 8)
    for (x, _), (other, _) in zip(learnt.take(3), judging.take(3), strict=True):
        assert np.any(split_index(x)[0] != other)
