"""What any method of the registry is given, read off its class: no test names one."""

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.engine.examples import with_index, with_views
from clidmu_tf.engine.settings import settings_of

LEARNING_RATE, META_LEARNING_RATE, SEED = 0.2, 0.5, 3


def short_settings(method, warmup):
    """Settings by which a method does within two epochs all that it does.

    Args:
        method: A class.
        warmup: What a setting is that counts epochs on the command line, and steps
            elsewhere. Others that by their names wait for a step or an epoch are at
            the least that they may be.
    """
    found = {}
    for name, declared in settings_of(method).items():
        if declared.setting.in_epochs:
            found[name] = warmup
        elif name.endswith(("_epochs", "_step")):
            found[name] = int(declared.setting.least)
    return found


def compiled(
    method, classifier, warmup, meta_optimizer=None, settings=None, **arguments
):
    """A model of a method, compiled; a warm-up, if it has one, is of so many steps."""
    settings = {**short_settings(method, warmup), **(settings or {})}
    model = method(classifier, seed=SEED, **settings)
    if method.takes_meta_optimizer:
        plain = keras.optimizers.SGD(META_LEARNING_RATE, momentum=0.9)
        arguments["meta_optimizer"] = meta_optimizer or plain
    model.compile(keras.optimizers.SGD(LEARNING_RATE, momentum=0.9), **arguments)
    return model


def needed_streams(method):
    """Names of the streams of data that `fit` must be given."""
    defaults = {name: found.default for name, found in settings_of(method).items()}
    found = ["meta"] if method.wants_clean_labels(defaults) else []
    return found + ["unlabeled"] * method.takes_unlabeled_data


def further_data(method, x, y, batch_size, start_step=0):
    """Arguments of `fit` for each of those streams: endless batches."""
    found = {"meta_batch_size": batch_size} if method.takes_meta_optimizer else {}
    of_streams = {
        "meta": (x, y),
        # Another view than the other, of examples that are known by their index.
        "unlabeled": with_index(with_views(x, x + 0.1), np.arange(len(x))),
    }
    for name in needed_streams(method):
        dataset = tf.data.Dataset.from_tensor_slices(of_streams[name]).repeat()
        dataset = dataset.batch(batch_size, drop_remainder=True)
        found[f"{name}_data"] = dataset.skip(start_step)
    if method.takes_unlabeled_data:
        found["num_unlabeled"] = len(x)
    return found
