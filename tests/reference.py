"""Golden numbers of the authors' code, and a plain nested-tape meta step."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.engine.network import values_of

GOLDEN = np.load(pathlib.Path(__file__).parent / "data" / "reference.npz")


def golden_classifier(prefix, dtype):
    """The two-layer classifier of a golden case, and its values by golden name."""
    inputs = keras.Input((GOLDEN[f"{prefix}_x"].shape[1],), dtype=dtype)
    hidden = GOLDEN[f"{prefix}_cls_b1"].shape[0]
    classes = GOLDEN[f"{prefix}_cls_b2"].shape[0]
    first = keras.layers.Dense(hidden, "relu", dtype=dtype)
    last = keras.layers.Dense(classes, dtype=dtype)
    classifier = keras.Model(inputs, last(first(inputs)))
    assign(first, f"{prefix}_cls", "w1", "b1")
    assign(last, f"{prefix}_cls", "w2", "b2")
    return classifier


def golden_weight_net(prefix, dtype):
    """The weight net of a golden case, with its golden values."""
    if prefix.startswith("wnet"):
        net = clidmu.WNet(dtype=dtype)
        net.build_for(1, 1)
        assign(net.hidden, f"{prefix}_wn", "w1", "b1")
        assign(net.weight, f"{prefix}_wn", "w2", "b2")
        return net
    net = clidmu.VRI(hidden_units=(32, 16, 16), dtype=dtype)
    net.build_for(8, 4)
    for layer, names in zip(
        [*net.hidden, net.mean, net.log_variance], VRI_NAMES, strict=True
    ):
        assign(layer, "vri_vri", *names)
    net.class_embedding.assign(GOLDEN["vri_vri_class_embedding"])
    return net


VRI_NAMES = [
    ("w1", "b1"),
    ("w2", "b2"),
    ("w3", "b3"),
    ("w_mean", "b_mean"),
    ("w_logvar", "b_logvar"),
]


def golden_gradient_names(prefix):
    """The names of φ, in the order of the weight net's trainable variables."""
    if prefix.startswith("wnet"):
        return ["w1", "b1", "w2", "b2"]
    return ["class_embedding", *(name for pair in VRI_NAMES for name in pair)]


def golden(prefix, name, dtype="float64"):
    """A golden array, a Dense kernel turned the Keras way round."""
    value = GOLDEN[f"{prefix}_{name}"]
    kernel = name.removeprefix("meta_grad_").removeprefix("virtual_").startswith("w")
    return np.asarray(value.T if kernel and value.ndim == 2 else value, dtype)


def assign(layer, prefix, kernel, bias):
    layer.kernel.assign(GOLDEN[f"{prefix}_{kernel}"].T)
    layer.bias.assign(GOLDEN[f"{prefix}_{bias}"])


def nested_tape_step(
    apply, training_loss, meta_objective, theta, phi, state, x, meta_x, learning_rate
):
    """The meta-gradient written the plain way: three tapes, nothing shared."""
    with tf.GradientTape() as outer:
        outer.watch(phi)
        with tf.GradientTape() as inner:
            inner.watch(theta)
            features, logits, _ = apply(theta, state, x)
            loss = training_loss(phi, tf.stop_gradient(features), logits, True)
        slopes = inner.gradient(loss, theta)
        moved = [t - learning_rate * s for t, s in zip(theta, slopes, strict=True)]
        features, logits, _ = apply(moved, state, meta_x)
        meta_loss = meta_objective(features, logits)
    return meta_loss, moved, outer.gradient(meta_loss, phi)


def values(model):
    """The weights and state of a model, as a step is given them: lists of tensors."""
    layers = {
        "theta": model.network.trainable_variables,
        "state": model.network.non_trainable_variables,
        "phi": model.weight_net.trainable_variables,
    }
    return {name: values_of(variables) for name, variables in layers.items()}
