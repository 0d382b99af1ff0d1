"""Writes the meta step as a compiled program that needs no TensorFlow to run.

    python -m benchmarks.export_step exported/        (step.hlo, step.npz)
    python -m benchmarks.run_exported exported/       anywhere with numpy and jax

The step is a pure function of tensors: θ, φ, state, both batches and the learning
rate go in; the real gradient, the meta-gradient, the new state and the meta loss come
out. `step.hlo` is its HLO, as XLA takes it on any device; `step.npz` holds inputs and
what TensorFlow, with XLA, made of them here. Gradients of random images are a small
rest of large terms: two right programs differ by some 1e-2 of them in float32. To see
that two programs are the same, take --dtype=float64; to time them, float32.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.core.losses import clid, cross_entropy
from clidmu_tf.core.meta_gradient import local_forward, meta_step
from clidmu_tf.nets import backbones
from clidmu_tf.nets.features import features_and_logits

IMAGE_SHAPE, CLASSES = (32, 32, 3), 10
LEARNING_RATE, META_LEARNING_RATE = 0.05, 1e-3


def make_step(classifier, weight_net):
    """The meta step of the paper with plain SGD on φ, as a function of tensors."""
    inside = features_and_logits(classifier)

    def apply(theta, state, x):
        outputs, state = inside.stateless_call(theta, state, x, training=True)
        return *outputs, state

    def step(theta, phi, state, x, targets, meta_x, learning_rate):
        def training_loss(phi, features, logits, virtual):
            losses = cross_entropy(logits, targets)
            weights = weight_net.stateless_call(phi, [], tf.stop_gradient(losses))[0]
            return tf.reduce_sum(weights / tf.reduce_sum(weights) * losses)

        def update_weight_net(gradient):
            pairs = zip(phi, gradient, strict=True)
            return [value - META_LEARNING_RATE * slope for value, slope in pairs]

        gradient, state, _, meta_loss, meta_gradient, _ = meta_step(
            local_forward(apply),
            training_loss,
            clid,
            update_weight_net,
            theta=theta,
            phi=phi,
            state=state,
            x=x,
            meta_x=meta_x,
            learning_rate=learning_rate,
        )
        return gradient, meta_gradient, state, meta_loss

    return step


def make_classifier(backbone):
    """A classifier that computes in the default type from end to end."""
    classifier = backbones.build(backbone, IMAGE_SHAPE, CLASSES)
    features = classifier.layers[-1].input
    return keras.Model(
        classifier.inputs, keras.layers.Dense(CLASSES, name="logits")(features)
    )


def make_inputs(classifier, weight_net, batch_size):
    """The step's arguments: initial weights, and random images and labels."""
    rng = np.random.default_rng(0)
    shape = (batch_size, *IMAGE_SHAPE)
    dtype = keras.config.floatx()
    x, meta_x = (rng.integers(0, 256, shape).astype(dtype) for _ in "ab")
    labels = rng.integers(0, CLASSES, batch_size)
    return (
        _values(classifier.trainable_variables),
        _values(weight_net.trainable_variables),
        _values(classifier.non_trainable_variables),
        tf.constant(x),
        tf.one_hot(labels, CLASSES, dtype=dtype),
        tf.constant(meta_x),
        tf.constant(LEARNING_RATE, dtype),
    )


def export(folder, backbone, batch_size):
    """Compiles the step, runs it once, and writes both files."""
    keras.utils.set_random_seed(0)
    classifier = make_classifier(backbone)
    weight_net = clidmu.WNet()
    weight_net.build()
    inputs = make_inputs(classifier, weight_net, batch_size)
    compiled = tf.function(make_step(classifier, weight_net), jit_compile=True)
    # Constants of the classifier's preprocessing; the program takes them last.
    captured = compiled.get_concrete_function(*inputs).captured_inputs
    outputs = compiled(*inputs)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    hlo = compiled.experimental_get_compiler_ir(*inputs)(stage="hlo_serialized")
    (folder / "step.hlo").write_bytes(hlo)
    names = {
        "theta": _names(classifier.trainable_variables),
        "phi": _names(weight_net.trainable_variables),
        "state": _names(classifier.non_trainable_variables),
        "captured": [str(i) for i in range(len(captured))],
    }
    given = ["theta", "phi", "state", "x", "targets", "meta_x", "learning_rate"]
    given, inputs = [*given, "captured"], [*inputs, captured]
    made = ["gradient", "meta_gradient", "state", "meta_loss"]
    of = names | {"gradient": names["theta"], "meta_gradient": names["phi"]}
    arrays = _named("input", given, of, inputs) | _named("output", made, of, outputs)
    np.savez(folder / "step.npz", **arrays)
    print(f"{folder}/step.hlo: {len(hlo):,} bytes; {folder}/step.npz: {len(arrays)}")


def _named(prefix, groups, names, values):
    """Name → array, in the order in which the program counts them."""
    found = {}
    for group, value in zip(groups, values, strict=True):
        if isinstance(value, list):
            for name, tensor in zip(names[group], value, strict=True):
                found[f"{prefix}/{group}/{name}"] = tensor.numpy()
        else:
            found[f"{prefix}/{group}"] = value.numpy()
    return found


def _names(variables):
    """Layer and variable, such as `stem_conv/kernel`."""
    return ["/".join(v.path.split("/")[-2:]) for v in variables]


def _values(variables):
    return [tf.convert_to_tensor(v.value) for v in variables]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--backbone", default="resnet20")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    arguments = parser.parse_args()
    keras.config.set_floatx(arguments.dtype)
    export(arguments.folder, arguments.backbone, arguments.batch_size)


if __name__ == "__main__":
    main()
