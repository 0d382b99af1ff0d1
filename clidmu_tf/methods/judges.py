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
# The part of the judges that the network is surest of; how often it must be right, of
# them to compare others with, of all to have learnt; and how often it must be right of
# all, as a part of that, or know labels by heart, for weights that count in full.
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


class Standing(NamedTuple):
    """How far a network has come, by its judges; scalars from 0 to 1.

    Attributes:
        trust: How far the weights are to count: 0, not at all, to 1, in full.
        sureness: How sure the network is of what it has learnt.
    """

    trust: tf.Tensor
    sureness: tf.Tensor


def standing(examples):
    """How far a network has come, without a clean label: a `Standing`.

    A network that has learnt little takes what is hard for what is wrong: weights of
    its losses then only take examples away. How much it knows can be told without a
    clean label: wrong ones cut how often it is right about all judges, by their labels,
    as much as how often it is right about those that it is surest of, so that the ratio
    is about its true accuracy. When that is high, the weights count; or when it is sure
    of all judges and right, by their labels, about those that it is surest of, as it is
    where it learns labels by heart. Sureness alone won't do: weights that take away
    what is hard leave a network that is sure of the rest, and would feed on themselves.

    All shares are taken above those of chance, as in Cohen's κ: a network that gives
    every example the most frequent class knows nothing, however often it is right. And
    a network that is not right beyond chance is sure of nothing that it has learnt.

    Args:
        examples: The `Judges`.

    Reference:
        Cohen, "A coefficient of agreement for nominal scales", 1960, for κ; the rest
        is this package's.
    """
    logits, targets = tf.stop_gradient(examples.logits), examples.targets
    present = tf.reduce_sum(targets, axis=-1)
    count = tf.reduce_sum(present)
    predicted = tf.argmax(logits, -1)
    # How often a label drawn by the labels' shares would be what is predicted.
    shares = tf.math.divide_no_nan(tf.reduce_sum(targets, axis=0), count)
    chance = tf.gather(shares, predicted)

    def above_chance(values, among):
        number = tf.reduce_sum(among)
        share = tf.math.divide_no_nan(tf.reduce_sum(values * among), number)
        by_chance = tf.math.divide_no_nan(tf.reduce_sum(chance * among), number)
        return tf.math.divide_no_nan(share - by_chance, 1 - by_chance)

    sure = tf.reduce_max(tf.nn.softmax(logits, axis=-1), axis=-1) * present
    rank = tf.maximum(tf.cast(SUREST * count, "int32"), 1) - 1
    # By gather: XLA would compile a slice anew for every rank, and so every step.
    least_sure = tf.gather(tf.sort(sure, direction="DESCENDING"), rank)
    surest = tf.cast(sure >= least_sure, present.dtype) * present
    right = tf.cast(tf.argmax(targets, -1) == predicted, logits.dtype)
    of_all, of_surest = above_chance(right, present), above_chance(right, surest)
    knows = of_all / tf.maximum(of_surest, LEAST_RIGHT)
    has_learnt = tf.clip_by_value(of_all / LEAST_RIGHT, 0.0, 1.0)
    sureness = has_learnt * tf.maximum(above_chance(sure, present), 0.0)
    by_heart = sureness * tf.maximum(of_surest, 0.0)
    trust = tf.clip_by_value(tf.maximum(knows, by_heart) / ENOUGH, 0.0, 1.0)
    return Standing(trust, sureness)


def verdict(weighting, phi, examples, trust, classes, learning_rate, has_bias=True):
    """Mean absolute error of the given labels, each after a step of all the others.

    Args:
        weighting: The `Weighting`, of a `WNet`.
        phi: The weight net's values; the result is differentiable by them.
        examples: The `Judges`.
        trust: How far the weights count.
        classes: What `update_classes` keeps of each class.
        learning_rate: η of the virtual step.
        has_bias: Whether the last layer has one.
    """
    features, logits, targets = examples
    present = tf.reduce_sum(targets, axis=-1)
    slopes = tf.nn.softmax(logits, axis=-1) - targets
    batch = {"targets": targets, "trust": trust}
    weights = weighting.raw_weights(phi, features, logits, batch)
    # An empty row is of no class: balanced, it would be divided by zero.
    classes_of = targets + (1 - present)[:, None]
    weights = present * weighting.balanced(weights, classes_of, classes)
    after = leave_one_out_logits(
        features, logits, slopes, weights, learning_rate, has_bias
    )
    losses = mean_absolute_error(after, targets) * present
    return tf.math.divide_no_nan(tf.reduce_sum(losses), tf.reduce_sum(present))
