"""Early-learning regularisation: hold on to what was predicted before memorising.

A network fits the right labels first and memorises the wrong ones later. So each
example's predictions are averaged over the epochs, and the loss keeps the network
near that average: the gradient of a wrong label's cross-entropy is then met by one
of the opposite sign.

Reference:
    Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy
    Labels", NeurIPS 2020.
"""

import tensorflow as tf

# Keeps the logarithm finite; the authors' value.
CLIP = 1e-4


def early_learning_term(
    logits: tf.Tensor, memory: tf.Tensor, clip: float = CLIP
) -> tf.Tensor:
    """mean log(1 − ⟨p̂, memory⟩): low where the network still says what it said.

    No gradient flows into the memory, nor through a probability that is clipped.

    Args:
        logits: `(n, num_classes)`.
        memory: `(n, num_classes)`, the rows that `update_memory` has just returned.
        clip: Probabilities stay within [clip, 1 − clip].

    Returns:
        A scalar, from log(clip) to 0. The loss is the cross-entropy plus it, times a
        factor (the paper's λ: 3 on CIFAR-10, 7 on CIFAR-100).

    Example:

    ```python
    from clidmu_tf.core.early_learning import early_learning_term, update_memory

    logits = tf.constant([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    memory = update_memory(tf.zeros((2, 3)), logits, beta=0.7)
    constant = early_learning_term(logits, memory)
    changed = early_learning_term(logits[::-1], memory)
    assert constant < changed
    ```

    Reference:
        Liu et al., NeurIPS 2020, equation 6.
    """
    agreement = tf.reduce_sum(
        _clipped(logits, clip) * tf.stop_gradient(memory), axis=-1
    )
    return tf.reduce_mean(tf.math.log(1 - agreement))


def update_memory(
    memory_rows: tf.Tensor, logits: tf.Tensor, beta: float, clip: float = CLIP
) -> tf.Tensor:
    """β·memory + (1 − β)·p̂/Σp̂: the moving average of each example's predictions.

    Args:
        memory_rows: `(n, num_classes)`, the batch's rows of the memory; zeros at
            first, so that a row's sum grows towards one with every visit.
        logits: `(n, num_classes)`.
        beta: How much of the memory stays, from 0 to below 1.
        clip: As for `early_learning_term`.

    Returns:
        `(n, num_classes)`, constant: zero or above, rows that sum to one at most.

    Reference:
        Liu et al., NeurIPS 2020, equation 9.
    """
    predicted = _clipped(tf.stop_gradient(logits), clip)
    predicted /= tf.reduce_sum(predicted, axis=-1, keepdims=True)
    return beta * tf.stop_gradient(memory_rows) + (1 - beta) * predicted


def _clipped(logits: tf.Tensor, clip: float) -> tf.Tensor:
    return tf.clip_by_value(tf.nn.softmax(logits, axis=-1), clip, 1 - clip)
