"""The mathematics: CLID, the per-example losses, and the prior penalty.

Pure functions of tensors that keep the dtype of what they are given, so that
the tests can hold them to reference values in float64.
"""

import tensorflow as tf

SIMILARITY_EPSILON = 1e-7
NORM_EPSILON = 1e-12


def clid(
    features: tf.Tensor, logits: tf.Tensor, temperature: float | tf.Tensor = 0.5
) -> tf.Tensor:
    """Cross-layer information divergence: do features and predictions agree?

    The similarities of the features give every example a distribution over the
    batch, and so do the similarities of the predicted probabilities; CLID is
    the mean cross-entropy between the two. It needs no label.

    The gradient flows through the probabilities alone: the feature graph is a
    fixed target, and the row sums that normalise the prediction graph are not
    differentiated. A negative feature similarity counts as zero *before* the
    softmax. These are choices of the authors' code.

    CLID depends on the temperature and, about as its logarithm, on the number
    of examples: values at another temperature or batch size don't compare.

    Args:
        features: `(n, d)`, the input of the classifier's last Dense layer.
        logits: `(n, num_classes)`, before the softmax.
        temperature: Above 0; the lower, the more the nearest examples count.

    Returns:
        A scalar, zero or above.

    Example:

    ```python
    features = tf.constant([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    logits = tf.constant([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    agree = clid(features, logits)
    disagree = clid(features, logits[::-1])
    assert agree < disagree
    ```

    Reference:
        Hu et al., "CLID-MU: Cross-Layer Information Divergence Based Meta
        Update Strategy for Learning with Noisy Labels", KDD 2025,
        arXiv:2507.11807, section 4.
    """
    unit_features = _unit_rows(tf.stop_gradient(features))
    similarity = tf.nn.relu(_gram(unit_features)) / temperature
    target = tf.nn.softmax(similarity, axis=-1)

    unit_predictions = _unit_rows(tf.nn.softmax(logits, axis=-1))
    agreement = _gram(unit_predictions)
    row_sum = tf.reduce_sum(agreement, axis=-1, keepdims=True)
    agreement = agreement / tf.stop_gradient(row_sum)

    divergence = -tf.math.log(target + SIMILARITY_EPSILON) * agreement
    return tf.reduce_mean(tf.reduce_sum(divergence, axis=-1))


def cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each example.

    Args:
        logits: `(n, num_classes)`.
        targets: `(n, num_classes)`, rows that sum to one.

    Returns:
        `(n,)`, zero or above.
    """
    return tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)


def mean_absolute_error(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """One minus the probability of the label, of each example.

    Args:
        logits: `(n, num_classes)`.
        targets: `(n, num_classes)`, rows that sum to one.

    Returns:
        `(n,)` in [0, 1].
    """
    return 1.0 - tf.reduce_sum(tf.nn.softmax(logits, axis=-1) * targets, axis=-1)


def generalized_cross_entropy(
    logits: tf.Tensor, targets: tf.Tensor, q: float = 0.7
) -> tf.Tensor:
    """(1 − p_y^q) / q of each example: cross-entropy that gives up on the hopeless.

    Its gradient is that of cross-entropy times p_y^q, so a label that the network
    finds ever less likely pulls ever less. It is `mean_absolute_error` at q = 1 and
    tends to `cross_entropy` as q tends to 0. p_y^q is the exponential of a log-softmax
    and the difference an `expm1`, so neither a saturated logit nor a tiny q rounds
    the loss, or its gradient, away.

    Args:
        logits: `(n, num_classes)`.
        targets: `(n, num_classes)`, rows that sum to one. Of a soft label, p_y is the
            probability that the network draws the class that the label draws.
        q: Above 0, at most 1.

    Returns:
        `(n,)` in [0, 1/q].

    Example:

    ```python
    from clidmu_tf.core.losses import generalized_cross_entropy

    logits = tf.constant([[2.0, 0.0], [-60.0, 60.0]])
    labels = tf.constant([[1.0, 0.0], [1.0, 0.0]])
    doubtful, hopeless = generalized_cross_entropy(logits, labels, q=0.7)
    assert doubtful < hopeless < 1 / 0.7 + 1e-5
    ```

    Reference:
        Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural
        Networks with Noisy Labels", NeurIPS 2018, equation 6.
    """
    log_probabilities = tf.nn.log_softmax(logits, axis=-1) + tf.math.log(targets)
    log_of_label = tf.reduce_logsumexp(log_probabilities, axis=-1)
    return -tf.math.expm1(q * log_of_label) / q


def prior_penalty(
    logits: tf.Tensor,
    prior: tf.Tensor,
    mean: tf.Tensor | None = None,
    share: float | tf.Tensor = 1.0,
    counts: tf.Tensor | None = None,
) -> tf.Tensor:
    """KL(prior ‖ mean prediction): high where whole classes are written off.

    A batch with few examples a class has another mean prediction than the data,
    however right its predictions are. A moving average makes up for that; the
    gradient is that of the batch's own part, at its full scale.

    Args:
        logits: `(n, num_classes)`.
        prior: `(num_classes,)`, the share of each class; sums to one.
        mean: `(num_classes,)`, the mean prediction before this batch.
        share: How much of the mean is this batch's, from above 0 to 1.
        counts: `(n,)`, the rows that the mean is over; `None` for all.

    Returns:
        A scalar, zero where the mean prediction is the prior.

    Reference:
        Li, Socher and Hoi, "DivideMix", ICLR 2020, equation 11. The moving average
        is this package's.
    """
    log_mean = log_mean_prediction(logits, counts)
    if mean is not None:
        share = tf.cast(share, logits.dtype)
        moved = tf.stop_gradient(
            tf.reduce_logsumexp(
                [
                    log_mean + tf.math.log(share),
                    tf.math.log(mean) + tf.math.log(1 - share),
                ],
                axis=0,
            )
        )
        here = tf.stop_gradient(log_mean)
        log_mean = moved + tf.exp(here - moved) * (log_mean - here)
    return tf.reduce_sum(prior * tf.math.log(prior)) - tf.reduce_sum(prior * log_mean)


def squared_error(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of probabilities and targets over the classes, `(n,)`."""
    return tf.reduce_mean((tf.nn.softmax(logits, axis=-1) - targets) ** 2, axis=-1)


def confidence_penalty(logits: tf.Tensor) -> tf.Tensor:
    """Mean Σ p log p, minus the mean entropy: high where predictions are sure.

    Reference:
        Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output
        Distributions", ICLR 2017 workshop; for a warm-up under asymmetric noise, Li,
        Socher and Hoi, "DivideMix", ICLR 2020, equation 3.
    """
    log_probabilities = tf.nn.log_softmax(logits, axis=-1)
    return tf.reduce_mean(
        tf.reduce_sum(tf.exp(log_probabilities) * log_probabilities, axis=-1)
    )


def mean_over(values: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """The mean of the values that count; zero where none does.

    Args:
        values: `(n,)`.
        counts: `(n,)`, ones and zeros, or weights.
    """
    total = tf.reduce_sum(counts)
    return tf.math.divide_no_nan(tf.reduce_sum(values * counts), total)


def log_mean_prediction(
    logits: tf.Tensor, counts: tf.Tensor | None = None
) -> tf.Tensor:
    """Logarithm of the mean predicted probability of each class, `(num_classes,)`.

    Args:
        logits: `(n, num_classes)`.
        counts: `(n,)`, ones and zeros: the rows that count; `None` for all. Where none
            does, all do.
    """
    log_probabilities = tf.nn.log_softmax(logits, axis=-1)
    if counts is None:
        log_sum = tf.reduce_logsumexp(log_probabilities, axis=0)
        return log_sum - tf.math.log(tf.cast(tf.shape(logits)[0], logits.dtype))
    counts = tf.where(tf.reduce_any(counts > 0), counts, tf.ones_like(counts))
    log_counts = tf.math.log(counts)
    log_sum = tf.reduce_logsumexp(log_probabilities + log_counts[:, None], axis=0)
    return log_sum - tf.math.log(tf.reduce_sum(counts))


def _unit_rows(matrix: tf.Tensor) -> tf.Tensor:
    norm = tf.norm(matrix, axis=-1, keepdims=True)
    return matrix / tf.maximum(norm, tf.cast(NORM_EPSILON, matrix.dtype))


def _gram(rows: tf.Tensor) -> tf.Tensor:
    return tf.matmul(rows, rows, transpose_b=True)
