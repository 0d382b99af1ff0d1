"""Two networks that choose each other's examples: those of small loss.

Reference:
    Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely
    Noisy Labels", NeurIPS 2018, algorithm 1.
"""

import tensorflow as tf


def forget_rate(
    epoch: int | tf.Tensor, noise_rate: float, gradual_epochs: int
) -> float:
    """R: the share of a batch that is left out, min(epoch / T_k, 1) · τ.

    Args:
        epoch: Epochs done, 1 in the first of the paper, which counts from there.
        noise_rate: τ, about the share of wrong labels.
        gradual_epochs: T_k, after which the share stays.
    """
    return noise_rate * min(epoch / gradual_epochs, 1.0)


def small_losses(losses: tf.Tensor, rate: float | tf.Tensor) -> tf.Tensor:
    """Marks the examples of smallest loss, the 1 − rate share of them.

    Args:
        losses: `(n,)`.
        rate: The share that is left out.

    Returns:
        `(n,)`, int((1 − rate) · n) ones, and zeros. Of equal losses the first count;
        one example is kept at least.
    """
    count = tf.shape(losses)[0]
    kept = (1 - tf.cast(rate, "float64")) * tf.cast(count, "float64")
    # A share such as 0.7 of 10 must not round to 6.
    kept = tf.maximum(tf.cast(kept + 1e-6, "int32"), 1)
    ranks = tf.argsort(tf.argsort(losses, stable=True), stable=True)
    return tf.cast(ranks < kept, losses.dtype)
