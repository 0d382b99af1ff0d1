"""The meta step of semi-supervised CLID-MU: weights that nothing normalises."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.core.losses import clid, cross_entropy
from clidmu_tf.core.meta_gradient import local_forward, meta_step
from golden_methods import DENSE, METHODS, one_hot, two_layers, values

pytestmark = pytest.mark.slow


def weigh(phi, losses):
    """The WNet of the golden case: 1 → 100 → 1, ReLU and sigmoid."""
    w1, b1, w2, b2 = phi
    hidden = tf.nn.relu(tf.matmul(losses[:, None], w1) + b1)
    return tf.sigmoid(tf.matmul(hidden, w2) + b2)[:, 0]


def take_meta_step(apply, training_loss, phi):
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
        x=tf.constant(METHODS["ssl_wnet_x"]),
        meta_x=tf.constant(METHODS["ssl_wnet_meta_x"]),
        learning_rate=tf.constant(METHODS["ssl_wnet_virtual_lr"]),
    )
    _, _, here, meta_loss, meta_gradient, _ = results
    return SimpleNamespace(logits=here.logits, loss=meta_loss, gradient=meta_gradient)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_meta_step_with_plain_weights_is_the_authors(mode):
    targets, phi = one_hot(METHODS["ssl_wnet_y"]), values("ssl_wnet_wn")

    def training_loss(phi, features, logits, virtual):
        losses = cross_entropy(logits, targets)
        return tf.reduce_mean(weigh(phi, tf.stop_gradient(losses)) * losses)

    def step():
        seen = []

        def apply(theta, state, x):
            seen.append(theta)
            return two_layers(theta, state, x)

        found = take_meta_step(apply, training_loss, phi)
        losses = cross_entropy(found.logits, targets)
        weights = weigh(phi, losses)
        value = training_loss(phi, None, found.logits, True)
        return losses, weights, value, found.loss, list(seen[1]), found.gradient

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla")
    losses, weights, value, loss, virtual, gradient = step()
    for name, found in (
        ("losses", losses),
        ("weights", weights),
        ("virtual_loss", value),
        ("plain_meta_loss", loss),
    ):
        wanted = METHODS[f"ssl_wnet_{name}"]
        np.testing.assert_allclose(found, wanted, rtol=1e-9, err_msg=name)
    for kind, tensors in (("virtual", virtual), ("meta_grad", gradient)):
        wanted = values(f"ssl_wnet_plain_{kind}")
        for name, found, expected in zip(DENSE, tensors, wanted, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=name)
