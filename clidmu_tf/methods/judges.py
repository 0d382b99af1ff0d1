"""The examples that judge a weight net: the batch at hand and the last before it.

What is kept of those before is what the last layer reads of them and the labels they
were given, so that they cost no further pass through the network. Only their features
are those of some steps ago.
"""

from typing import NamedTuple

import tensorflow as tf

from clidmu_tf.core.leave_one_out import leave_one_out_logits
from clidmu_tf.core.losses import mean_absolute_error

SLOTS = ("judge_features", "judge_targets")
# The part of the judges that the network is surest of; how often it must be right about
# them to compare others with, and how much of that, or how sure of all, is enough for
# weights that count in full.
SUREST = 0.1
LEAST_RIGHT = 0.2
ENOUGH = 0.7


class Judges(NamedTuple):
    """Examples in the rows of tensors, the batch first; empty rows hold zeros.

    Attributes:
        features: `(n, d)`, what the last layer reads.
        logits: `(n, num_classes)`, by the network as it stands.
        targets: `(n, num_classes)`, the given labels.
    """

    features: tf.Tensor
    logits: tf.Tensor
    targets: tf.Tensor

    def newest(self, count):
        """What is kept of them for the next step: the tensors of `SLOTS`."""
        return [self.features[:count], self.targets[:count]]


def judges(features, logits, targets, kept, head_logits):
    """The batch and the examples that were kept.

    Args:
        features: `(b, d)` of the batch.
        logits: `(b, num_classes)`.
        targets: `(b, num_classes)`.
        kept: The tensors of `SLOTS`.
        head_logits: Features → logits, by the last layer as it stands.
    """
    old_features, old_targets = kept
    return Judges(
        tf.concat([features, old_features], axis=0),
        tf.concat([logits, head_logits(old_features)], axis=0),
        tf.concat([targets, old_targets], axis=0),
    )


def trust(examples):
    """How far the weights are to count: a scalar from 0, not at all, to 1, in full.

    A network that has learnt little takes what is hard for what is wrong: weights of
    its losses then only take examples away. How much it knows can be told without a
    clean label: wrong ones cut how often it is right about all judges, by their labels,
    as much as how often it is right about those that it is surest of, so that the ratio
    is about its true accuracy. When that is high, or when the network is sure of all
    judges, as it is where it learns labels by heart, the weights count.

    All shares are taken above chance, (C·share − 1)/(C − 1) of C classes.

    Args:
        examples: The `Judges`.
    """
    probabilities = tf.stop_gradient(tf.nn.softmax(examples.logits, axis=-1))
    present = tf.reduce_sum(examples.targets, axis=-1)
    count = tf.reduce_sum(present)
    classes = tf.cast(tf.shape(probabilities)[-1], present.dtype)

    def above_chance(share):
        return (classes * share - 1) / (classes - 1)

    given, predicted = (tf.argmax(v, -1) for v in (examples.targets, probabilities))
    right = tf.cast(given == predicted, present.dtype) * present
    sure = tf.reduce_max(probabilities, axis=-1) * present
    rank = tf.maximum(tf.cast(SUREST * count, "int32"), 1) - 1
    # By gather: XLA would compile a slice anew for every rank, and so every step.
    surest = sure >= tf.gather(tf.sort(sure, direction="DESCENDING"), rank)
    surest = tf.cast(surest, present.dtype)
    of_surest = above_chance(tf.reduce_sum(right * surest) / tf.reduce_sum(surest))
    of_all = above_chance(tf.reduce_sum(right) / count)
    knows = of_all / tf.maximum(of_surest, LEAST_RIGHT)
    knows = tf.maximum(knows, above_chance(tf.reduce_sum(sure) / count))
    return tf.clip_by_value(knows / ENOUGH, 0.0, 1.0)


def verdict(weighting, phi, examples, trust, classes, learning_rate):
    """Mean absolute error of the given labels, each after a step of all the others.

    Args:
        weighting: The `Weighting`, of a `WNet`.
        phi: The weight net's values; the result is differentiable by them.
        examples: The `Judges`.
        trust: How far the weights count.
        classes: What `update_classes` keeps of each class.
        learning_rate: η of the virtual step.
    """
    features, logits, targets = examples
    present = tf.reduce_sum(targets, axis=-1)
    slopes = tf.nn.softmax(logits, axis=-1) - targets
    batch = {"targets": targets, "trust": trust}
    weights = weighting.raw_weights(phi, features, logits, batch)
    # An empty row is of no class: balanced, it would be divided by zero.
    classes_of = targets + (1 - present)[:, None]
    weights = present * weighting.balanced(weights, classes_of, classes)
    after = leave_one_out_logits(features, logits, slopes, weights, learning_rate)
    losses = mean_absolute_error(after, targets) * present
    return tf.reduce_sum(losses) / tf.reduce_sum(present)
