"""DivideMix's losses: likely labels are learnt, the others' examples are guessed.

Reference:
    Li, Socher and Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised
    Learning", ICLR 2020, section 3.
"""

import tensorflow as tf

from clidmu_tf.core.losses import cross_entropy, mean_over, squared_error

RAMP_EPOCHS = 16


def unlabeled_weight(
    epoch: float | tf.Tensor, full: float, warmup_epochs: int
) -> tf.Tensor:
    """λ_u now: it rises over 16 epochs after the warm-up.

    Args:
        epoch: Epochs done, fractions and all.
        full: λ_u, what it rises to.
        warmup_epochs: Epochs of warm-up.
    """
    return full * tf.clip_by_value((epoch - warmup_epochs) / RAMP_EPOCHS, 0, 1)


def divided_losses(
    logits: tf.Tensor,
    targets: tf.Tensor,
    is_labeled: tf.Tensor,
    weights: tf.Tensor | None = None,
    sample_weight: float | tf.Tensor = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """L_x of the rows that count as labelled, and L_u of the others.

    Args:
        logits: `(n, num_classes)`.
        targets: `(n, num_classes)`, soft.
        is_labeled: `(n,)`, ones and zeros.
        weights: `(n,)` that sum to one over all rows, in place of two means; `None`
            for the means of the paper.
        sample_weight: `(n,)` by which each row's loss is multiplied.

    Returns:
        The cross-entropy, and the squared error of the probabilities; two scalars.

    Reference:
        Li, Socher and Hoi, ICLR 2020, equations 9 and 10.
    """
    losses = sample_weight * cross_entropy(logits, targets)
    errors = sample_weight * squared_error(logits, targets)
    is_unlabeled = 1 - is_labeled
    if weights is None:
        return mean_over(losses, is_labeled), mean_over(errors, is_unlabeled)
    return (
        tf.reduce_sum(weights * is_labeled * losses),
        tf.reduce_sum(weights * is_unlabeled * errors),
    )
