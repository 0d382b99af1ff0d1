"""What a Config describes as a model: classifier, optimizers, method, compiled."""

import pathlib

import keras
import tensorflow as tf

from clidmu_tf.errors import UserError
from clidmu_tf.methods import METHODS
from clidmu_tf.nets import backbones
from clidmu_tf.runs.evaluation import top5_metrics

JIT = {"auto": "auto", "on": True, "off": False}


def build_model(config, source, steps, num_examples=0):
    """The training model, compiled."""
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[config.precision]
    keras.config.set_dtype_policy(policy)
    try:
        classifier = backbones.build(
            config.backbone, source.image_shape, len(source.class_names), config.seed
        )
    finally:
        keras.config.set_dtype_policy("float32")
    if config.init_weights:
        load_weights(classifier, config.init_weights)
    compile_arguments = {
        "optimizer": optimizer_of(config, steps),
        "metrics": ["accuracy", *top5_metrics(source)],
        "jit_compile": JIT[config.jit],
        "batch_scope": config.batch_scope,
    }
    method = METHODS[config.method]
    model = method(classifier, seed=config.seed, **config.method_settings(steps))
    if method.takes_meta_optimizer:
        compile_arguments["meta_optimizer"] = meta_optimizer_of(config)
    model.compile(**compile_arguments)
    model.build_memory(num_examples)
    return with_metrics(model)


def with_metrics(model):
    """Makes the metrics' variables now: Keras waits for the first step, and a
    checkpoint that is restored before it would not fit."""
    model._compile_metrics.build(
        tf.zeros([1], "int64"), tf.zeros([1, model.num_classes])
    )
    return model


def load_weights(classifier, path):
    """Reads initial weights from a `.keras` or `.weights.h5` file, by layer."""
    if not pathlib.Path(path).exists():
        raise UserError(f"--init_weights={path} is not there.")
    try:
        if path.endswith(".keras"):
            other = keras.saving.load_model(path, compile=False)
            head = classifier.layers[-1].name
            for layer in classifier.layers:
                if layer.name != head and layer.weights:
                    copy_weights(layer, other)
        else:
            classifier.load_weights(path, skip_mismatch=True)
    except (ValueError, OSError) as error:
        raise UserError(
            f"--init_weights={path} does not fit --backbone={classifier.name}: {error}"
        ) from error


def copy_weights(layer, model):
    """Copies a layer's weights from a model that has it, or, as a keras.applications
    network does that is a layer of ours, has the layers inside of it."""
    inside = getattr(layer, "layers", [])
    if inside and all(other.name != layer.name for other in model.layers):
        for part in inside:
            if part.weights:
                part.set_weights(model.get_layer(part.name).get_weights())
    else:
        layer.set_weights(model.get_layer(layer.name).get_weights())


def optimizer_of(config, steps):
    """The classifier's optimizer with its schedule."""
    rate = config.learning_rate
    period = (config.lr_period or config.epochs) * steps
    floor = config.lr_min / rate if rate else 0.0
    if config.lr_schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, period, alpha=floor)
    elif config.lr_schedule == "cosine_restarts":
        rate = keras.optimizers.schedules.CosineDecayRestarts(
            rate, period, t_mul=1.0, alpha=floor
        )
    decay = config.weight_decay or None
    if config.optimizer == "adam":
        return keras.optimizers.Adam(rate, weight_decay=decay)
    return keras.optimizers.SGD(rate, momentum=config.momentum, weight_decay=decay)


def meta_optimizer_of(config):
    """The weight net's optimizer."""
    makers = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    return makers[config.meta_optimizer](
        config.meta_learning_rate, weight_decay=config.meta_weight_decay or None
    )
