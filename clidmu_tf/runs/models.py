"""The model of a run: a classifier with its first weights, optimizers, compiled."""

import logging
import pathlib
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.engine.method import Method
from clidmu_tf.errors import UserError, listed
from clidmu_tf.nets import backbones
from clidmu_tf.nets.copies import set_weights
from clidmu_tf.nets.files import load_model
from clidmu_tf.runs.evaluation import top5_metrics
from clidmu_tf.runs.workdir import Described

logger = logging.getLogger(__name__)

JIT = {"auto": "auto", "on": True, "off": False}
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build_classifier(
    backbone: str,
    described: Described,
    seed: int,
    precision: str = "float32",
    init_weights: str = "",
) -> keras.Model:
    """Returns a network for these images and classes.

    Args:
        backbone: Name of the network.
        described: What is known of the data.
        seed: Decides the weights that come from no file.
        precision: `"float32"` or `"bfloat16"`.
        init_weights: File of initial weights; `""` for none.
    """
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        shape, count = described.image_shape, len(described.class_names)
        words = described.vocabulary_size
        classifier = backbones.build(backbone, shape, count, seed, words)
    finally:
        keras.config.set_dtype_policy("float32")
    if init_weights:
        load_weights(classifier, init_weights)
    return classifier


def load_weights(classifier: keras.Model, path: str) -> None:
    """Reads initial weights, of all layers but the head, from a file.

    Args:
        classifier: The classifier.
        path: A `.keras` file of a model that has its layers, or a `.weights.h5` file of
            such a model's weights.

    Raises:
        UserError: It is not there, or has nothing that fits one of the layers.
    """
    if not pathlib.Path(path).exists():
        raise UserError(f"--init_weights={path} is not there.")
    *body, _ = [layer for layer in classifier.layers if layer.weights]
    other = load_model(path) if path.endswith(".keras") else None
    try:
        if other is not None:
            for layer in body:
                copy_weights(layer, other)
        else:
            read_weights(classifier, body, path)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(
            f"--init_weights={path} does not fit --backbone={classifier.name} "
            f"({str(error).rstrip('.')}): give a .keras or .weights.h5 file that does."
        ) from error
    logger.info(
        "Took the weights of %s from %s; those of the last layer are new.",
        *(listed([layer.name for layer in body]), path),
    )


def read_weights(classifier: keras.Model, body: list[keras.Layer], path: str) -> None:
    """Reads a `.weights.h5` file, every layer of the body or none.

    Keras leaves out what does not fit without saying what; so a copy without weights
    reads it first.
    """
    copy = keras.models.clone_model(classifier)
    for variable in copy.variables:
        if variable.dtype.startswith(("float", "bfloat")):
            variable.assign(np.full(variable.shape, np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy.load_weights(path, skip_mismatch=True)
    found = [copy.get_layer(layer.name).get_weights() for layer in body]
    for layer, values in zip(body, found, strict=True):
        if any(np.isnan(value).any() for value in values):
            raise ValueError(f"it has no weights for the layer {layer.name!r}")
    for layer, values in zip(body, found, strict=True):
        set_weights(layer, values)


def copy_weights(layer: keras.Layer, model: keras.Model) -> None:
    """Copies a layer's weights from a model that has it, or, as a keras.applications
    network does that is a layer of ours, has the layers inside of it."""
    inside = getattr(layer, "layers", [])
    if inside and all(other.name != layer.name for other in model.layers):
        for part in inside:
            if part.weights:
                set_weights(part, model.get_layer(part.name).get_weights())
    else:
        set_weights(layer, model.get_layer(layer.name).get_weights())


def learning_rate(schedule: str, rate: float, least: float, period: int) -> Any:
    """Returns a learning rate, or how it falls.

    Args:
        schedule: `"constant"`, `"cosine"` or `"cosine_restarts"`.
        rate: What it starts at.
        least: What a cosine ends at.
        period: Steps of one cosine.
    """
    floor = least / rate if rate else 0.0
    if schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(rate, period, alpha=floor)
    if schedule == "cosine_restarts":
        return keras.optimizers.schedules.CosineDecayRestarts(
            rate, period, t_mul=1.0, alpha=floor
        )
    return rate


def build_optimizer(
    name: str, rate: Any, weight_decay: float, momentum: float = 0.0
) -> keras.Optimizer:
    """Returns an optimizer.

    Args:
        name: `"sgd"` or `"adam"`.
        rate: Learning rate, or its schedule.
        weight_decay: Decoupled weight decay; 0 for none.
        momentum: Of SGD.
    """
    decay = weight_decay or None
    if name == "adam":
        return keras.optimizers.Adam(rate, weight_decay=decay)
    return keras.optimizers.SGD(rate, momentum=momentum, weight_decay=decay)


def compile_model(
    model: Method,
    described: Described,
    optimizers: dict[str, keras.Optimizer],
    jit: str = "auto",
    batch_scope: str = "global",
) -> Method:
    """Returns the model, compiled and with every variable that it will have.

    A checkpoint that is restored before the first step fits it so.

    Args:
        model: The model.
        described: What is known of the data.
        optimizers: Those that the method's `compile` takes, by name.
        jit: `"auto"`, `"on"` or `"off"`.
        batch_scope: As for `compile`.
    """
    count = len(described.class_names)
    model.compile(
        **optimizers,
        metrics=["accuracy", *top5_metrics(count)],
        jit_compile=JIT[jit],
        batch_scope=batch_scope,
    )
    model.build_memory(described.num_examples, described.num_unlabeled)
    # Keras waits for the first step to make the variables of the metrics.
    model._compile_metrics.build(tf.zeros([1], "int64"), tf.zeros([1, count]))
    return model
