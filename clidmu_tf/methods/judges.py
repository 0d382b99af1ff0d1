"""The examples that judge a weight net: the batch at hand and the last before it.

What is kept of those before is what the last layer reads of them and the labels they
were given, so that they cost no further pass through the network. Only their features
are those of some steps ago.
"""

from typing import NamedTuple

import tensorflow as tf

from clidmu_tf.core.leave_one_out import balanced, leave_one_out_logits
from clidmu_tf.core.losses import cross_entropy, mean_absolute_error

SLOTS = ("judge_features", "judge_targets")


class Judges(NamedTuple):
    """Examples in the rows of tensors, the batch first; empty rows hold zeros.

    Attributes:
        features: `(n, d)`, what the last layer reads.
        logits: `(n, num_classes)`, by the network as it stands.
        targets: `(n, num_classes)`, the given labels.
        groups: `(n, g)`, what keeps its part of the weight: each given class, or all.
    """

    features: tf.Tensor
    logits: tf.Tensor
    targets: tf.Tensor
    groups: tf.Tensor

    def newest(self, count):
        """What is kept of them for the next step: the tensors of `SLOTS`."""
        return [self.features[:count], self.targets[:count]]


def judges(features, logits, targets, kept, head_logits, by_class):
    """The batch and the examples that were kept.

    Args:
        features: `(b, d)` of the batch.
        logits: `(b, num_classes)`.
        targets: `(b, num_classes)`.
        kept: The tensors of `SLOTS`.
        head_logits: Features → logits, by the last layer as it stands.
        by_class: Whether each given class keeps its part of the weight.
    """
    old_features, old_targets = kept
    targets = tf.concat([targets, old_targets], axis=0)
    present = tf.reduce_sum(targets, axis=-1, keepdims=True)
    return Judges(
        tf.concat([features, old_features], axis=0),
        tf.concat([logits, head_logits(old_features)], axis=0),
        targets,
        targets if by_class else present,
    )


def verdict(weighting, phi, examples, noise, learning_rate):
    """Mean absolute error of the given labels, each after a step of all the others.

    Args:
        weighting: The `Weighting`.
        phi: The weight net's values; the result is differentiable by them.
        examples: The `Judges`.
        noise: VRI's draws `(n, num_classes)`, `None` for WNet.
        learning_rate: η of the virtual step.
    """
    features, logits, targets, groups = examples
    present = tf.reduce_sum(targets, axis=-1)
    if weighting.masks:
        mask, _ = weighting.mask(phi, features, targets, noise)
        slopes = mask * (tf.nn.softmax(mask * logits, axis=-1) - targets)
        weights = present
    else:
        slopes = tf.nn.softmax(logits, axis=-1) - targets
        weights = scaled_weights(weighting, phi, examples)
    slopes *= present[:, None]
    after = leave_one_out_logits(
        features, logits, slopes, weights, groups, learning_rate
    )
    losses = mean_absolute_error(after, targets) * present
    return tf.reduce_sum(losses) / tf.reduce_sum(present)


def batch_weights(weighting, phi, examples, size):
    """WNet's weights of the batch, the first rows, with mean one in every group."""
    weights = scaled_weights(weighting, phi, examples)
    return balanced(weights, examples.groups)[:size]


def scaled_weights(weighting, phi, examples):
    """WNet's weights over the largest of their group, `(n,)`.

    What scale a group's weights have says nothing and may wander; by logarithms none
    of them is lost to rounding, wherever it is.
    """
    losses = cross_entropy(examples.logits, examples.targets)
    logs, groups = weighting.log_weights(phi, losses), examples.groups
    of_group = tf.where(groups > 0, logs[:, None], logs.dtype.min)
    largest = tf.stop_gradient(tf.reduce_max(of_group, axis=0))
    # Of a group that holds nobody, nobody asks.
    largest = tf.where(tf.reduce_any(groups > 0, axis=0), largest, 0.0)
    present = tf.reduce_sum(groups, axis=-1) > 0
    logs = tf.where(present, logs - tf.linalg.matvec(groups, largest), 0.0)
    return tf.exp(logs) * tf.cast(present, logs.dtype)
