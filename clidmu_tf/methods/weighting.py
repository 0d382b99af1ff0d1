"""The training loss L_w under a weight net, as pure functions of tensors."""

import tensorflow as tf

from clidmu_tf.core.losses import cross_entropy, log_mean_prediction, prior_penalty
from clidmu_tf.nets.weight_nets import VRI

CLASS_MOMENTUM = 0.9
# What a mean prediction is taken over, at least: a batch with fewer examples a class
# tells little of how often each class is predicted.
EXAMPLES_A_CLASS = 10


class Weighting:
    """How a weight net φ enters the loss: WNet by weights, VRI by masks.

    Batches are dictionaries of `targets` `(n, num_classes)`, `sample_weight` `(n,)`
    and VRI's `noise` `(2, n, num_classes)`, for the virtual and the real loss, or of
    a WNet `trust`, how far its weights count, and `sureness`, how far the penalty does,
    if not in full; `classes` is what `update_classes` keeps of each class.

    Args:
        weight_net: `WNet` or `VRI`.
        class_balance: Whether each given class keeps its share of the total weight.
        prior_penalty: Weight λ of KL(given labels' shares ‖ mean prediction), the
            mean over ten examples a class or more: the batch, or a moving average.
    """

    def __init__(self, weight_net, class_balance, prior_penalty):
        self.weight_net = weight_net
        self.masks = isinstance(weight_net, VRI)
        self.class_balance = class_balance and not self.masks
        self.prior_penalty = prior_penalty

    def loss(self, batch, classes):
        """L_w of a batch: `(phi, features, logits, virtual) → scalar`."""
        _, count, prediction = classes
        prior = count / tf.reduce_sum(count)
        of_labels = self._masked if self.masks else self._weighted

        def training_loss(phi, features, logits, virtual):
            loss = of_labels(phi, features, logits, batch, classes, virtual)
            if self.prior_penalty:
                penalty = prior_penalty(logits, prior, prediction, batch_share(logits))
                loss += self.prior_penalty * batch.get("sureness", 1.0) * penalty
            return loss

        return training_loss

    def _weighted(self, phi, features, logits, batch, classes, virtual):
        losses = cross_entropy(logits, batch["targets"])
        weights = self.raw_weights(phi, features, logits, batch)
        weights = self.balanced(weights, batch["targets"], classes)
        weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights))
        return tf.reduce_sum(weights * losses * batch["sample_weight"])

    def _masked(self, phi, features, logits, batch, classes, virtual):
        noise = batch["noise"][0 if virtual else 1]
        mask, kl = self.mask(phi, features, batch["targets"], noise)
        losses = cross_entropy(mask * logits, batch["targets"])
        loss = tf.reduce_mean(losses * batch["sample_weight"])
        return loss + self.weight_net.kl_weight * kl if virtual else loss

    def raw_weights(self, phi, features, logits, batch):
        """One weight in (0, 1) an example: WNet's, or VRI's mask at the label."""
        if self.masks:
            no_noise = tf.zeros_like(batch["targets"])
            mask, _ = self.mask(phi, features, batch["targets"], no_noise)
            return tf.reduce_sum(mask * batch["targets"], axis=-1)
        losses = cross_entropy(logits, batch["targets"])
        weights = self._apply(phi, tf.stop_gradient(losses))
        return 1 - batch["trust"] * (1 - weights) if "trust" in batch else weights

    def mask(self, phi, features, targets, noise):
        """VRI's mask of the logits `(n, num_classes)`, and its divergence."""
        return self._apply(phi, tf.stop_gradient(features), targets, noise)

    def balanced(self, weights, targets, classes):
        """Weights over the mean weight of their given class."""
        if not self.class_balance:
            return weights
        return weights / tf.linalg.matvec(targets, classes[0])

    def _apply(self, phi, *inputs):
        fixed = [v.value for v in self.weight_net.non_trainable_variables]
        return self.weight_net.stateless_call(phi, fixed, *inputs)[0]


def batch_share(logits):
    """How much of the mean prediction is the batch's, in (0, 1]."""
    examples, classes = tf.unstack(tf.cast(tf.shape(logits), logits.dtype), 2)
    return tf.minimum(examples / (EXAMPLES_A_CLASS * classes), 1.0)


def update_classes(classes, weights, logits, targets, kind):
    """Moves what is known of each class along, by the real pass.

    Args:
        classes: Its mean weight, how often it was given, and its mean predicted
            probability, `(num_classes,)` each.
        weights: `(n,)`, the weights.
        logits: `(n, num_classes)`.
        targets: `(n, num_classes)`, the given labels.
        kind: The kind of step; a warm-up has no weights.

    Returns:
        The same three, moved.
    """
    mean, count, prediction = classes
    given = tf.reduce_sum(targets, axis=0)
    if kind != "warmup":
        present = tf.linalg.matvec(targets, weights, transpose_a=True)
        batch_mean = tf.math.divide_no_nan(present, given)
        moved = CLASS_MOMENTUM * mean + (1 - CLASS_MOMENTUM) * batch_mean
        mean = tf.where(given > 0, moved, mean)
    share = batch_share(logits)
    batch_prediction = tf.exp(log_mean_prediction(logits))
    prediction = (1 - share) * prediction + share * batch_prediction
    return [mean, count + given, prediction]
