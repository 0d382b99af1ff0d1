"""The training loss L_w under a weight net, as pure functions of tensors."""

import tensorflow as tf

from clidmu_tf.losses import cross_entropy, prior_penalty
from clidmu_tf.weight_nets import VRI

CLASS_MOMENTUM = 0.9


class Weighting:
    """How a weight net φ enters the loss: WNet by weights, VRI by masks.

    Batches are dictionaries of `targets` `(n, num_classes)`, `sample_weight` `(n,)`
    and VRI's `noise` `(2, n, num_classes)`, for the virtual and the real loss;
    `classes` is the mean weight and the count of each given class.

    Args:
        weight_net: `WNet` or `VRI`.
        class_balance: Whether each given class keeps its share of the total weight.
        prior_penalty: Weight λ of KL(given labels' shares ‖ mean prediction).
    """

    def __init__(self, weight_net, class_balance, prior_penalty):
        self.weight_net = weight_net
        self.masks = isinstance(weight_net, VRI)
        self.class_balance = class_balance and not self.masks
        self.prior_penalty = prior_penalty

    def loss(self, batch, classes):
        """L_w of a batch: `(phi, features, logits, virtual) → scalar`."""
        prior = classes[1] / tf.reduce_sum(classes[1])
        of_labels = self._masked if self.masks else self._weighted

        def training_loss(phi, features, logits, virtual):
            loss = of_labels(phi, features, logits, batch, classes, virtual)
            if self.prior_penalty:
                loss += self.prior_penalty * prior_penalty(logits, prior)
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
        mask, kl = self._apply(phi, features, batch["targets"], noise)
        losses = cross_entropy(mask * logits, batch["targets"])
        loss = tf.reduce_mean(losses * batch["sample_weight"])
        return loss + self.weight_net.kl_weight * kl if virtual else loss

    def raw_weights(self, phi, features, logits, batch):
        """One weight in (0, 1) an example: WNet's, or VRI's mask at the label."""
        if self.masks:
            no_noise = tf.zeros_like(batch["targets"])
            mask, _ = self._apply(phi, features, batch["targets"], no_noise)
            return tf.reduce_sum(mask * batch["targets"], axis=-1)
        losses = cross_entropy(logits, batch["targets"])
        return self._apply(phi, tf.stop_gradient(losses))

    def balanced(self, weights, targets, classes):
        """Weights over the mean weight of their given class."""
        if not self.class_balance:
            return weights
        return weights / tf.linalg.matvec(targets, classes[0])

    def _apply(self, phi, *inputs):
        fixed = [v.value for v in self.weight_net.non_trainable_variables]
        return self.weight_net.stateless_call(phi, fixed, *inputs)[0]


def update_classes(classes, weights, targets, kind):
    """Moves each class's mean weight, and counts how often each class was given.

    Args:
        classes: The mean weight and the count of each class, `(num_classes,)` each.
        weights: `(n,)`, the weights of the real pass.
        targets: `(n, num_classes)`, the given labels.
        kind: The kind of step; a warm-up has no weights, and only counts.

    Returns:
        The new mean weights and counts.
    """
    mean, count = classes
    given = tf.reduce_sum(targets, axis=0)
    if kind != "warmup":
        present = tf.linalg.matvec(targets, weights, transpose_a=True)
        batch_mean = tf.math.divide_no_nan(present, given)
        moved = CLASS_MOMENTUM * mean + (1 - CLASS_MOMENTUM) * batch_mean
        mean = tf.where(given > 0, moved, mean)
    return [mean, count + given]
