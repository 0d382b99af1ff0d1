"""How a run is measured: its accuracies, and a CLID that compares between runs."""

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf import data
from clidmu_tf.core.labels import to_targets
from clidmu_tf.core.losses import cross_entropy
from clidmu_tf.engine.callbacks import clid_of
from clidmu_tf.engine.classifier_model import REFERENCE_TEMPERATURE
from clidmu_tf.errors import check_finite

REFERENCE_BATCH = 100


class Evaluation(keras.callbacks.Callback):
    """Test loss and accuracy after each epoch; for reports, never for a choice.

    The accuracy on held-out noisy labels, where there are some, may choose.
    """

    def __init__(self, source, config):
        super().__init__()
        self.source, self.config = source, config

    def on_train_begin(self, logs=None):
        source, config = self.source, self.config
        measure = measure_of(self.model.classifier, source)
        self.test = evaluator(measure, source.test, source, config)
        self.holdout = source.holdout and evaluator(
            measure, source.holdout, source, config
        )

    def on_epoch_end(self, epoch, logs=None):
        scores = self.test()
        check_finite("val_loss", scores["loss"], epoch)
        logs.update({f"val_{name}": value for name, value in scores.items()})
        if self.holdout:
            logs["noisy_accuracy"] = self.holdout()["accuracy"]


def evaluate_model(model, source, config):
    """Loss and accuracies of a classifier of logits on the test split."""
    return evaluator(measure_of(model, source), source.test, source, config)()


def measure_of(model, source):
    """Returns a function of a batch: the sums of its losses and of its hits."""
    count = len(source.class_names)

    @tf.function(reduce_retracing=True)
    def measure(x, y):
        logits = tf.cast(model(x, training=False), tf.float32)
        losses = cross_entropy(logits, to_targets(y, count))
        hits = tf.equal(tf.argmax(logits, -1), tf.cast(y, tf.int64))
        near = tf.math.in_top_k(y, logits, 5)
        return tf.stack(
            [tf.reduce_sum(tf.cast(v, tf.float32)) for v in (losses, hits, near)]
        )

    return measure


def evaluator(measure, split, source, config):
    """Returns a function, to be called as often as needed, that measures a split.

    It returns the mean loss, the accuracy, and the top-5 accuracy where that is
    reported. `Model.evaluate` would have all workers take part, of whom only the chief
    measures, and adds up in float32.
    """
    # Made once: to make a pipeline takes longer than to read a small one.
    batches = data.evaluation_batches(
        split, batch_size=config.batch_size, image_shape=source.image_shape
    )

    def evaluate():
        sums = np.sum([measure(x, y).numpy() for x, y in batches], axis=0, dtype=float)
        loss, accuracy, top5 = (sums / len(split)).tolist()
        scores = {"accuracy": accuracy, "loss": loss}
        return scores | {metric.name: top5 for metric in top5_metrics(source)}

    return evaluate


def top5_metrics(source):
    """Top-5 accuracy, where there are more than ten classes and it says something."""
    if len(source.class_names) <= 10:
        return []
    return [keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5_accuracy")]


def reference_clid(model, source, config):
    """CLID of the held-out inputs, which compares between runs.

    The temperature is the reference one, the inputs and the batches that they come
    in are the same for every run with one seed.
    """
    count = min(config.meta_examples, len(source.holdout))
    size = min(REFERENCE_BATCH, count)
    batches = data.evaluation_batches(
        source.holdout.take(np.arange(count // size * size)),
        batch_size=size,
        image_shape=source.image_shape,
    )
    measure = clid_of(model.classifier, model.feature_layer, REFERENCE_TEMPERATURE)
    return float(np.mean([measure(x).numpy() for x, _ in batches]))
