"""FixMatch, FlexMatch, UDA, and the meta step that weighs their labelled part."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.core.losses import clid, cross_entropy
from clidmu_tf.core.meta_gradient import local_forward, meta_step, with_momentum
from clidmu_tf.core.semi_supervised import (
    NEVER,
    annealed_losses,
    annealed_threshold,
    class_thresholds,
    confident_classes,
    confident_distributions,
    consistency_loss,
    learning_status,
    update_confident,
)
from golden_methods import DENSE, METHODS, one_hot, two_layers, values

pytestmark = pytest.mark.slow


def golden(name):
    return tf.constant(METHODS[name])


def targets_of(name):
    """The mask and the targets of FixMatch or UDA, on the golden weak view."""
    weak, threshold = golden("ssl_logits_weak"), float(METHODS[f"{name}_threshold"])
    if name == "fixmatch":
        return confident_classes(weak, threshold)
    return confident_distributions(weak, threshold, float(METHODS["uda_temperature"]))


@pytest.mark.parametrize("name", ["fixmatch", "uda"])
def test_what_the_weak_view_says_is_the_authors(name):
    mask, targets = targets_of(name)
    np.testing.assert_array_equal(mask, METHODS[f"{name}_mask"])
    expected = METHODS[f"{name}_targets"]
    expected = one_hot(expected) if name == "fixmatch" else expected
    np.testing.assert_allclose(targets, expected, atol=1e-12)


@pytest.mark.parametrize("mode", ["eager", "xla"])
@pytest.mark.parametrize("name", ["fixmatch", "uda"])
def test_semi_supervised_losses_are_the_authors(name, mode):
    labels = one_hot(METHODS["ssl_y"])
    views = [golden(f"ssl_logits_{view}") for view in ("labeled", "weak", "strong")]

    def losses(labeled, weak, strong):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([labeled, weak, strong])
            if name == "fixmatch":
                mask, targets = confident_classes(weak, 0.95)
            else:
                mask, targets = confident_distributions(weak, 0.8, 0.4)
            supervised = tf.reduce_mean(cross_entropy(labeled, labels))
            unlabeled = consistency_loss(strong, targets, mask)
            total = supervised + float(METHODS["ssl_lambda_u"]) * unlabeled
        by_weak = tape.gradient(total, weak, unconnected_gradients="zero")
        slopes = tape.gradient(total, [labeled, strong])
        return [supervised, unlabeled, total, *slopes, by_weak]

    if mode == "xla":
        losses = tf.function(losses, jit_compile=True)
    *found, by_weak = losses(*views)
    names = ("supervised_loss", "unlabeled_loss", "total_loss")
    names += ("grad_labeled", "grad_strong")
    for what, value in zip(names, found, strict=True):
        expected = METHODS[f"{name}_{what}"]
        np.testing.assert_allclose(value, expected, atol=1e-9, err_msg=what)
    assert not np.any(by_weak)


def test_signal_annealing_is_the_authors():
    progress = METHODS["uda_tsa_iterations"] / METHODS["uda_tsa_total"]
    for schedule in ("linear", "exp", "log", "none"):
        found = annealed_threshold(progress, 4, schedule)
        np.testing.assert_allclose(found, METHODS[f"uda_tsa_{schedule}"], rtol=1e-9)
    now = METHODS["uda_tsa_step"] / METHODS["uda_tsa_total"]
    threshold = annealed_threshold(now, 4, "linear")
    logits = golden("ssl_logits_labeled")
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = annealed_losses(logits, one_hot(METHODS["ssl_y"]), threshold)
        loss = tf.reduce_mean(losses)
    np.testing.assert_array_equal(losses > 0, METHODS["uda_tsa_mask"])
    np.testing.assert_allclose(loss, METHODS["uda_tsa_supervised_loss"], rtol=1e-9)
    slope = tape.gradient(loss, logits)
    np.testing.assert_allclose(slope, METHODS["uda_tsa_grad_labeled"], atol=1e-9)


@pytest.mark.parametrize("form", ["flexmatch", "flexmatch_nowarm"])
def test_thresholds_of_each_class_are_the_authors(form):
    threshold = float(METHODS["flexmatch_threshold"])
    confident = tf.fill([int(METHODS["flexmatch_num_unlabeled"])], NEVER)
    status = tf.zeros(4, "float64")
    for t, index in enumerate(METHODS["flexmatch_index"]):
        weak, strong = (
            tf.constant(METHODS[f"flexmatch_logits_{view}"][t])
            for view in ("weak", "strong")
        )
        limits = class_thresholds(status, threshold)
        mask, targets = confident_classes(weak, limits)
        with tf.GradientTape() as tape:
            tape.watch(strong)
            loss = consistency_loss(strong, targets, mask)
        confident = update_confident(confident, tf.constant(index), weak, threshold)
        status = learning_status(confident, 4, form == "flexmatch", "float64")
        for name, value in {
            "thresholds": limits,
            "masks": mask,
            "targets": tf.argmax(targets, axis=-1),
            "unlabeled_losses": loss,
            "grads_strong": tape.gradient(loss, strong),
            "selected": confident,
            "beta": status,
        }.items():
            expected = METHODS[f"{form}_{name}"][t]
            np.testing.assert_allclose(value, expected, atol=1e-9, err_msg=name)


# --- the meta step


def weigh(phi, losses):
    """The WNet of the golden case: 1 → 100 → 1, ReLU and sigmoid."""
    w1, b1, w2, b2 = phi
    hidden = tf.nn.relu(tf.matmul(losses[:, None], w1) + b1)
    return tf.sigmoid(tf.matmul(hidden, w2) + b2)[:, 0]


def start_of(form):
    """Where the virtual step sets out from, and its rate, in the authors' form."""
    rate = float(METHODS["ssl_wnet_virtual_lr"])
    if form == "plain":
        return {"learning_rate": tf.constant(rate, "float64")}
    decay = float(METHODS["ssl_wnet_weight_decay"])
    start, rate = with_momentum(
        values("ssl_wnet_cls"),
        [-rate * buffer for buffer in values("ssl_wnet_buffer")],
        rate,
        float(METHODS["ssl_wnet_momentum"]),
        [decay, 0.0, decay, 0.0],
        nesterov=bool(METHODS["ssl_wnet_nesterov"]),
    )
    return {"start": start, "learning_rate": tf.constant(rate, "float64")}


def take_meta_step(apply, training_loss, phi, form):
    """The one call of `meta_step`, and the names of what it returns."""
    results = meta_step(
        local_forward(apply),
        training_loss,
        lambda features, logits: clid(
            features, logits, METHODS["ssl_wnet_temperature"]
        ),
        lambda gradient: phi,
        theta=values("ssl_wnet_cls"),
        phi=phi,
        state=[],
        x=golden("ssl_wnet_x"),
        meta_x=golden("ssl_wnet_meta_x"),
        **start_of(form),
    )
    _, _, here, meta_loss, meta_gradient, _ = results
    return SimpleNamespace(logits=here.logits, loss=meta_loss, gradient=meta_gradient)


@pytest.mark.parametrize(
    ("form", "mode"),
    [("plain", "eager"), ("plain", "graph"), ("plain", "xla"), ("full", "eager")],
)
def test_meta_step_with_plain_weights_is_the_authors(form, mode):
    targets, phi = one_hot(METHODS["ssl_wnet_y"]), values("ssl_wnet_wn")

    def training_loss(phi, features, logits, virtual):
        losses = cross_entropy(logits, targets)
        return tf.reduce_mean(weigh(phi, tf.stop_gradient(losses)) * losses)

    def step():
        seen = []

        def apply(theta, state, x):
            seen.append(theta)
            return two_layers(theta, state, x)

        found = take_meta_step(apply, training_loss, phi, form)
        losses = cross_entropy(found.logits, targets)
        weights = weigh(phi, losses)
        value = training_loss(phi, None, found.logits, True)
        return losses, weights, value, found.loss, list(seen[1]), found.gradient

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla")
    losses, weights, value, loss, virtual, gradient = step()
    prefix = "ssl_wnet_plain" if form == "plain" else "ssl_wnet"
    for name, found in (
        ("ssl_wnet_losses", losses),
        ("ssl_wnet_weights", weights),
        ("ssl_wnet_virtual_loss", value),
        (f"{prefix}_meta_loss", loss),
    ):
        np.testing.assert_allclose(found, METHODS[name], rtol=1e-9, err_msg=name)
    for kind, tensors in (("virtual", virtual), ("meta_grad", gradient)):
        wanted = values(f"{prefix}_{kind}")
        for name, found, expected in zip(DENSE, tensors, wanted, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=name)
