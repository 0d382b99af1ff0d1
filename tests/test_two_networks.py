"""Co-teaching and DivideMix beyond the contract: who teaches whom, and odd splits."""

import functools
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.core.co_teaching import small_losses
from clidmu_tf.core.losses import cross_entropy, mean_over
from clidmu_tf.core.mixture import clean_probability
from clidmu_tf.engine.callbacks import MetricsLog
from clidmu_tf.engine.checkpoints import Checkpointer, variables_of
from clidmu_tf.engine.examples import ArrayExamples
from clidmu_tf.methods.dividemix import Mixed
from clidmu_tf.nets.features import features_and_logits
from golden_methods import DENSE, METHODS, golden_weight_net

pytestmark = pytest.mark.slow

layers = keras.layers
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(24, 4)).astype("float32")
Y = np.arange(24) % 3


def classifier(seed=0, activation=None):
    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(8, "tanh")
    return keras.Sequential([keras.Input((4,)), hidden, layers.Dense(3, activation)])


def compiled(method, rate=0.1, **settings):
    model = method(classifier(), seed=1, **settings)
    model.compile(keras.optimizers.SGD(rate), run_eagerly=True)
    return model


def fit(model, x=X, y=Y, **arguments):
    return model.fit(x, y, batch_size=12, verbose=0, shuffle=False, **arguments)


# --- two networks in one model


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_both_networks_predict_by_their_mean(activation):
    first, second = classifier(0, activation), classifier(1, activation)
    model = clidmu.CoTeaching(first, peer=second)
    expected = (first(X).numpy() + second(X).numpy()) / 2
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, atol=1e-6)
    inside = features_and_logits(model.served)
    features, logits = inside(X)
    assert features.shape == (24, 16)
    scores = tf.nn.softmax(logits) if activation else logits
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_networks_that_are_one_or_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must start with other weights"):
        clidmu.CoTeaching(classifier(0), peer=classifier(0))
    wide = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="weights of other shapes"):
        clidmu.CoTeaching(classifier(0), peer=wide)


def test_each_network_takes_the_step_of_what_the_other_chose():
    model = compiled(clidmu.CoTeaching, forget_rate=0.5, gradual_epochs=1)
    before = [keras.models.clone_model(n.classifier) for n in model.networks]
    targets = tf.one_hot(Y[:12], 3)
    kept, slopes = [], []
    for copy, network in zip(before, model.networks, strict=True):
        copy.set_weights(network.classifier.get_weights())
        kept.append(small_losses(cross_entropy(copy(X[:12]), targets), 0.5))
    for copy, chosen in zip(before, kept[::-1], strict=True):
        with tf.GradientTape() as tape:
            loss = mean_over(cross_entropy(copy(X[:12]), targets), chosen)
        slopes.append(tape.gradient(loss, copy.trainable_variables))
    fit(model, X[:12], Y[:12])
    for copy, network, slope in zip(before, model.networks, slopes, strict=True):
        for old, new, s in zip(
            copy.get_weights(), network.classifier.get_weights(), slope, strict=True
        ):
            np.testing.assert_allclose(new, old - 0.1 * s, atol=1e-6)


def test_a_step_of_two_networks_is_traced_once():
    model = clidmu.DivideMix(classifier(), warmup_epochs=1, seed=1)
    model.compile("sgd")
    seen, apply = [], model.network.apply
    model.network.apply = lambda *values: seen.append(1) or apply(*values)
    fit(model, epochs=3)
    assert len(seen) == 2  # of the warm-up, and of the step thereafter


def test_a_damaged_checkpoint_falls_back_with_both_networks(tmp_path):
    model = compiled(clidmu.CoTeaching)
    log = MetricsLog(tmp_path / "metrics.csv")
    saver = Checkpointer(tmp_path, log)
    states = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs=None: states.append(
            {n: v.numpy() for n, v in variables_of(model).items()}
        )
    )
    fit(model, epochs=2, callbacks=[keep, log, saver])
    (tmp_path / "step-000000004.npz").write_bytes(b"half of it")
    assert saver.restore(model) == 2
    for name, variable in variables_of(model).items():
        if not name.startswith(("metric", "slot.progress")):
            np.testing.assert_array_equal(variable, states[0][name], err_msg=name)


# --- DivideMix's split


def split(model, losses, epoch=5):
    """What a model believes where its networks have these losses, (n, 2)."""
    model.examples = ArrayExamples(X, Y)
    model.build_memory(24)
    model.losses_of_all = lambda network: losses[:, model.networks.index(network)]
    model.begin_epoch(epoch)
    return model.memories["clean"].numpy()


def test_each_network_learns_by_the_losses_of_the_other():
    model = compiled(clidmu.DivideMix, warmup_epochs=1)
    losses = np.random.default_rng(0).gamma(2.0, size=(24, 2))
    clean = split(model, losses)
    for own, other in ((0, 1), (1, 0)):
        expected = clean_probability(losses[:, other], seed=1)
        np.testing.assert_allclose(clean[:, own], expected, atol=1e-6)


def test_losses_of_several_epochs_are_averaged():
    model = compiled(clidmu.DivideMix, warmup_epochs=1, loss_epochs=5)
    generator, history = np.random.default_rng(0), []
    for epoch in range(1, 8):
        losses = generator.gamma(2.0, size=(24, 2))
        low, high = losses.min(axis=0), losses.max(axis=0)
        history.append((losses - low) / (high - low))
        clean = split(model, losses, epoch)
        mean = np.mean(history[-5:], axis=0)[:, 1]
        # The mixture is that of the mean, whatever its scale.
        np.testing.assert_allclose(clean[:, 0] > 0.5, _believed(mean), err_msg=epoch)


def _believed(mean):
    from clidmu_tf.core.mixture import fit_mixture

    return fit_mixture(mean, seed=1).probability > 0.5


ODD = {
    "every label is believed": np.ones((24, 2)),
    "no label of class 2 is believed": np.where(Y == 2, 5.0, 0.1)[:, None]
    + np.linspace(0, 0.05, 24)[:, None] * np.ones((1, 2)),
}


@pytest.mark.parametrize("said", ODD)
def test_an_odd_split_is_named_and_survived(said, caplog):
    model = compiled(clidmu.DivideMix, warmup_epochs=1)
    with caplog.at_level(logging.WARNING):
        split(model, ODD[said])
    assert len(caplog.messages) == 2 and all(said in m for m in caplog.messages)
    fit(model, epochs=1)  # and the warm-up
    fit(model, epochs=2)
    assert all(np.all(np.isfinite(w)) for w in model.served.get_weights())


@pytest.mark.parametrize("labeled_only", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.999999])
def test_a_split_with_one_side_alone_trains_on(threshold, labeled_only, caplog):
    model = compiled(
        clidmu.DivideMix,
        warmup_epochs=1,
        threshold=threshold,
        labeled_only=labeled_only,
    )
    history = fit(model, epochs=3).history
    assert np.all(np.isfinite(history["loss"]))


def test_inputs_that_cannot_be_mixed_are_refused():
    words = keras.Sequential([keras.Input((4,), dtype="int32")])
    for layer in (layers.Embedding(9, 3), layers.Flatten(), layers.Dense(3)):
        words.add(layer)
    model = clidmu.DivideMix(words, warmup_epochs=1)
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="DivideMix mixes inputs, which must be float"):
        fit(model, np.abs(X).astype("int32"), epochs=2)


def test_weights_before_the_first_split_are_alike():
    model = compiled(clidmu.DivideMix, warmup_epochs=1)
    np.testing.assert_allclose(model.label_weights(X, Y), 1)
    fit(model, epochs=2)
    clean = model.memories["clean"].numpy().mean(axis=1)
    weights = model.label_weights(X, Y)
    assert np.corrcoef(weights, clean)[0, 1] > 0.9


# --- with a weight net, against the golden numbers


def test_the_weighted_loss_of_mixed_rows_is_the_authors():
    net = golden_weight_net("dmwnet")
    network = keras.Sequential([keras.Input((5,)), layers.Dense(8, "relu")])
    network.add(layers.Dense(4))
    model = clidmu.CLIDMU(network, net, inner="dividemix", class_balance=False)
    is_labeled = tf.cast(tf.range(14) < int(METHODS["dmvri_num_labeled"]), "float64")
    targets = tf.constant(METHODS["dmvri_targets"])
    mixed = Mixed(None, targets, is_labeled, [7, 7])
    weight = tf.constant(METHODS["dmvri_lambda_u_now"])
    values = {"slots": {"unlabeled_weight_now": weight}}
    loss = model._loss(values, mixed, [tf.ones(4, "float64")] * 3)
    w1, b1, w2, b2 = (METHODS[f"dmvri_cls_{name}"].T for name in DENSE)
    features = tf.nn.relu(METHODS["dmvri_x"] @ w1 + b1)
    phi = [tf.convert_to_tensor(v.value) for v in net.trainable_variables]
    found = loss(phi, features, features @ w2 + b2, True)
    np.testing.assert_allclose(found, METHODS["dmwnet_virtual_loss"], rtol=1e-9)


@pytest.mark.parametrize("inner", [False, True])
def test_examples_of_no_weight_teach_dividemix_nothing(inner):
    start = classifier().get_weights()
    with_weights = functools.partial(clidmu.CLIDMU, inner="dividemix")
    method = with_weights if inner else clidmu.DivideMix
    model = compiled(method, warmup_epochs=1, prior_penalty=0.0)
    fit(model, sample_weight=np.zeros(24, "float32"), epochs=2)
    for before, after in zip(start, model.classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_mean_of_probabilities_that_vanish_has_a_logarithm():
    model = clidmu.CoTeaching(classifier(0, "softmax"), peer=classifier(1, "softmax"))
    _, logits = features_and_logits(model.served)(500 * X)
    assert np.all(np.isfinite(logits))
