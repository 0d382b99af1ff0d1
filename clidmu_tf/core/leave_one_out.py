"""Each label judged by a step that all the others take: the virtual step of a head.

A virtual step of the last Dense layer alone needs no second pass through the network.
With f and z the features and logits of N examples, u_k = ∂ℓ_k/∂z_k the slope of each
one's loss (p_k − y_k of cross-entropy) and w_k its weight, the layer's step along the
weighted loss of all examples but j moves the logits of j by

    ẑ_j = z_j − η Σ_{k≠j} w_k / (S − w_j) · (f_j·f_k + 1) u_k,   S = Σ_k w_k

So one batch teaches and judges at once, and no label speaks for itself: with the
diagonal kept every label would vote for its own weight, and with S in the place of
S − w_j it would through the weights of the others.
"""

import tensorflow as tf

SMALLEST_SHARE = 1e-6


def leave_one_out_logits(
    features: tf.Tensor,
    logits: tf.Tensor,
    slopes: tf.Tensor,
    weights: tf.Tensor,
    learning_rate: float | tf.Tensor,
    has_bias: bool = True,
) -> tf.Tensor:
    """The logits of every example after a step of the head on all the others.

    Args:
        features: `(n, d)`, what the head reads.
        logits: `(n, num_classes)`.
        slopes: `(n, num_classes)`, u, each example's loss differentiated by its own
            logits.
        weights: `(n,)`, 0 or above, on no particular scale; 0 of a row that holds no
            example. The result is differentiable by them, and by the slopes.
        learning_rate: η of the step.
        has_bias: Whether the layer has one; without it, the 1 above is left out.

    Returns:
        `(n, num_classes)`.
    """
    kernel = tf.matmul(features, features, transpose_b=True) + float(has_bias)
    kernel = tf.linalg.set_diag(kernel, tf.zeros_like(kernel[0]))
    push = tf.matmul(kernel, weights[:, None] * slopes)
    total = tf.reduce_sum(weights)
    others = total - weights
    # One example alone has no others, and stays.
    others = tf.where(others > SMALLEST_SHARE * total, others, tf.zeros_like(others))
    step = tf.math.divide_no_nan(push, others[:, None])
    return logits - tf.cast(learning_rate, logits.dtype) * step
