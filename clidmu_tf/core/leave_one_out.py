"""Each label judged by a step that all the others take: the virtual step of a head.

A virtual step of the last Dense layer alone needs no second pass through the network.
With f and z the features and logits of N examples, u_k = ∂ℓ_k/∂z_k the slope of each
one's loss (p_k − y_k of cross-entropy), the layer's step along the weighted loss of all
examples but j moves the logits of j by

    ẑ_j = z_j − η Δ_j,   Δ_j = Σ_{k≠j} v_jk (f_j·f_k + 1) u_k

where v_jk is the share of k in the weight of all but j. Three things are held fixed,
so that to trust one label more than another is all that can be gained:

- No label speaks for itself. With the diagonal kept each would vote for its own weight,
  and with shares among all of them it would through the weights of the others.
- Every given class keeps the part of the weight that it has of the examples.
- The step keeps its length, ‖Δ‖ over all examples: only where it points is judged.
  Otherwise weight moves from what is learnt to what is not, right or wrong, for a
  longer step.
"""

import tensorflow as tf

SMALLEST_TOTAL = 1e-6


def leave_one_out_logits(
    features: tf.Tensor,
    logits: tf.Tensor,
    slopes: tf.Tensor,
    weights: tf.Tensor,
    groups: tf.Tensor,
    learning_rate: float | tf.Tensor,
) -> tf.Tensor:
    """The logits of every example after a step of the head on all the others.

    Args:
        features: `(n, d)`, what the head reads.
        logits: `(n, num_classes)`.
        slopes: `(n, num_classes)`, u, each example's loss differentiated by its own
            logits; zeros of a row that holds no example.
        weights: `(n,)`, 0 or above, on any scale in each group. The result is
            differentiable by them, and by the slopes.
        groups: `(n, g)`, rows that sum to one: each keeps its part of the weight.
            The given labels, or a column of ones where all are one group; zeros of a
            row that holds no example.
        learning_rate: η of the step.

    Returns:
        `(n, num_classes)`.
    """
    push = leave_one_out_push(features, slopes, weights, groups)
    length = tf.norm(push)
    kept = tf.math.divide_no_nan(tf.stop_gradient(length), length)
    return logits - tf.cast(learning_rate, logits.dtype) * kept * push


def leave_one_out_push(
    features: tf.Tensor, slopes: tf.Tensor, weights: tf.Tensor, groups: tf.Tensor
) -> tf.Tensor:
    """Δ of every example, `(n, num_classes)`: see `leave_one_out_logits`."""
    kernel = tf.matmul(features, features, transpose_b=True) + 1.0
    kernel = tf.linalg.set_diag(kernel, tf.zeros_like(kernel[0]))
    within = kernel * tf.matmul(groups, groups, transpose_b=True)
    size = tf.linalg.matvec(groups, tf.reduce_sum(groups, axis=0))
    total = group_totals(weights, groups)
    # To the judges of another group an example is one of all its group's; to those of
    # its own, one of all but the judge.
    share = tf.math.divide_no_nan(size * weights, total)[:, None] * slopes
    others = total - weights
    others = tf.where(others > SMALLEST_TOTAL * total, others, tf.zeros_like(others))
    own = tf.math.divide_no_nan(tf.maximum(size - 1.0, 0.0), others)
    push = tf.matmul(kernel, share) - tf.matmul(within, share)
    push += own[:, None] * tf.matmul(within, weights[:, None] * slopes)
    return push / tf.maximum(tf.reduce_sum(groups) - 1.0, 1.0)


def group_totals(values: tf.Tensor, groups: tf.Tensor) -> tf.Tensor:
    """To each example the sum over its group: `(n,)` and `(n, g)` → `(n,)`."""
    sums = tf.linalg.matvec(groups, values, transpose_a=True)
    return tf.linalg.matvec(groups, sums)


def balanced(weights: tf.Tensor, groups: tf.Tensor) -> tf.Tensor:
    """Weights over the mean of their group, `(n,)`; 0 where a group has none."""
    size = tf.linalg.matvec(groups, tf.reduce_sum(groups, axis=0))
    return tf.math.divide_no_nan(weights * size, group_totals(weights, groups))
