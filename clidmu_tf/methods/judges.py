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


def verdict(weighting, phi, examples, classes, learning_rate):
    """Mean absolute error of the given labels, each after a step of all the others.

    Args:
        weighting: The `Weighting`, of a `WNet`.
        phi: The weight net's values; the result is differentiable by them.
        examples: The `Judges`.
        classes: What `update_classes` keeps of each class.
        learning_rate: η of the virtual step.
    """
    features, logits, targets = examples
    present = tf.reduce_sum(targets, axis=-1)
    slopes = tf.nn.softmax(logits, axis=-1) - targets
    weights = weighting.raw_weights(phi, features, logits, {"targets": targets})
    # An empty row is of no class: balanced, it would be divided by zero.
    classes_of = targets + (1 - present)[:, None]
    weights = present * weighting.balanced(weights, classes_of, classes)
    after = leave_one_out_logits(features, logits, slopes, weights, learning_rate)
    losses = mean_absolute_error(after, targets) * present
    return tf.reduce_sum(losses) / tf.reduce_sum(present)
