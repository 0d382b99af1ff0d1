"""How a run is measured: its accuracies, and a CLID that compares between runs."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.core.labels import to_targets
from clidmu_tf.core.losses import mean_absolute_error
from clidmu_tf.data import Split
from clidmu_tf.engine.callbacks import clid_of
from clidmu_tf.engine.classifier_model import REFERENCE_TEMPERATURE
from clidmu_tf.engine.method import Method
from clidmu_tf.errors import check_finite
from clidmu_tf.runs.batches import Reader

REFERENCE_BATCH = 100


class Evaluation(keras.callbacks.Callback):
    """Test loss and accuracy after each epoch; for reports, never for a choice.

    The accuracy on held-out noisy labels, where there are some, may choose.

    Args:
        reader: Reads the run's source.
    """

    def __init__(self, reader: Reader):
        super().__init__()
        self.reader = reader

    def on_train_begin(self, logs=None):
        reader, source = self.reader, self.reader.source
        measure = measure_of(self.model.served, len(source.class_names))
        self.test = evaluator(measure, source.test, reader)
        self.holdout = source.holdout and evaluator(measure, source.holdout, reader)

    def on_epoch_end(self, epoch, logs=None):
        scores = self.test()
        check_finite("val_loss", scores["loss"], epoch)
        logs.update({f"val_{name}": value for name, value in scores.items()})
        if self.holdout:
            logs["noisy_accuracy"] = self.holdout()["accuracy"]


def evaluate_model(model: keras.Model, reader: Reader) -> dict[str, float]:
    """Loss and accuracies of a classifier of logits on the test split."""
    measure = measure_of(model, len(reader.source.class_names))
    return evaluator(measure, reader.source.test, reader)()


def measure_of(model: keras.Model, num_classes: int) -> Callable[[Any, Any], tf.Tensor]:
    """Returns a function of a batch: the sums of its losses and of its hits."""

    @tf.function(reduce_retracing=True)
    def measure(x, y):
        logits = tf.cast(model(x, training=False), tf.float32)
        losses = mean_absolute_error(logits, to_targets(y, num_classes))
        hits = tf.equal(tf.argmax(logits, -1), tf.cast(y, tf.int64))
        near = tf.math.in_top_k(y, logits, 5)
        return tf.stack(
            [tf.reduce_sum(tf.cast(v, tf.float32)) for v in (losses, hits, near)]
        )

    return measure


def evaluator(
    measure: Callable[[Any, Any], tf.Tensor], split: Split, reader: Reader
) -> Callable[[], dict[str, float]]:
    """Returns a function, to be called as often as needed, that measures a split.

    It returns the mean loss, the accuracy, and the top-5 accuracy where that is
    reported. `Model.evaluate` would have all workers take part, of whom only the chief
    measures, and adds up in float32.
    """
    # Made once: to make a pipeline takes longer than to read a small one.
    batches = reader.in_order(split)
    more = top5_metrics(len(reader.source.class_names))

    def evaluate():
        sums = np.sum([measure(x, y).numpy() for x, y in batches], axis=0, dtype=float)
        loss, accuracy, top5 = (sums / len(split)).tolist()
        scores = {"accuracy": accuracy, "loss": loss}
        return scores | {metric.name: top5 for metric in more}

    return evaluate


def evaluate_served(
    serve: Callable[[np.ndarray], dict[str, tf.Tensor]],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
) -> tuple[float, float, int]:
    """Returns an exported model's accuracy and top-5 accuracy, of how many images.

    Args:
        serve: What `export.load` returned.
        batches: Raw images and their labels.
    """
    hits, near = [], []
    for x, y in batches:
        found = serve(x)
        hits.append(found["labels"] == y)
        near.append(tf.math.in_top_k(y, found["probabilities"], 5))
    all_hits, all_near = np.concatenate(hits), np.concatenate(near)
    return all_hits.mean(), all_near.mean(), len(all_hits)


def top5_metrics(num_classes: int) -> list[keras.metrics.Metric]:
    """Top-5 accuracy, where there are more than ten classes and it says something."""
    if num_classes <= 10:
        return []
    return [keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5_accuracy")]


def reference_clid(model: Method, reader: Reader, most: int) -> float:
    """CLID of the held-out inputs, which compares between runs.

    The temperature is the reference one, the inputs and the batches that they come
    in are the same for every run with one seed.

    Args:
        model: The trained model.
        reader: Reads the run's source, which has a holdout.
        most: Examples to measure it on, at most.
    """
    held_out = reader.source.holdout
    assert held_out is not None
    count = min(most, len(held_out))
    size = min(REFERENCE_BATCH, count)
    batches = reader.in_order(held_out.take(np.arange(count // size * size)), size)
    measure = clid_of(model.served, model.feature_layer, REFERENCE_TEMPERATURE)
    return float(np.mean([measure(x).numpy() for x, _ in batches]))
