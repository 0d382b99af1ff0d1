"""MixUp, training between the examples; and targets that networks agree on."""

import tensorflow as tf

from clidmu_tf.core.precision import in_dtype


def mix(rows: tf.Tensor, partners: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
    """share · rows + (1 − share) · partners, of inputs or of labels.

    Inputs and labels of a batch are mixed with the same partners and the same share.
    Nothing is drawn here: the partners are a permutation of the batch, or another
    one, and the share is a draw of Beta(α, α).

    Args:
        rows: `(n, …)`, floating.
        partners: As `rows`, the one that each row is mixed with.
        share: How much of a row stays, in [0, 1]: a scalar, or `(n,)` for one each.

    Returns:
        `(n, …)`. Where rows and partners each sum to one, so do these.

    Example:

    ```python
    from clidmu_tf.core.mixing import mix

    images, labels = tf.random.uniform((4, 8, 8, 3)), tf.one_hot([0, 1, 2, 1], 3)
    partners = tf.constant([2, 0, 3, 1])
    mixed_images = mix(images, tf.gather(images, partners), share=0.8)
    mixed_labels = mix(labels, tf.gather(labels, partners), share=0.8)
    ```

    Reference:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    share = in_dtype(share, rows.dtype)
    if share.shape.rank == 1:
        share = tf.reshape(share, [-1] + [1] * (rows.shape.rank - 1))
    return share * rows + (1 - share) * partners


def sharpen(probabilities: tf.Tensor, temperature: float) -> tf.Tensor:
    """p^(1/T) / Σ p^(1/T): the likelier classes gain.

    Args:
        probabilities: `(n, num_classes)`, rows that sum to one.
        temperature: T above 0: 1 leaves them as they are, near 0 makes them one-hot.

    Returns:
        `(n, num_classes)`, rows that sum to one.

    Reference:
        Berthelot et al., "MixMatch", NeurIPS 2019, equation 7.
    """
    # By logarithms, since a power of a small probability underflows.
    logs = tf.math.log(probabilities) / in_dtype(temperature, probabilities.dtype)
    return tf.nn.softmax(logs, axis=-1)


def refined_targets(
    labels: tf.Tensor,
    clean_probability: tf.Tensor,
    predicted: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """Labels and predictions, each as far as the label is likely right, sharpened.

    With a clean probability of 0 these are the predictions alone, as they are guessed
    for examples whose labels do not count.

    Args:
        labels: `(n, num_classes)`.
        clean_probability: `(n,)`, w in [0, 1].
        predicted: `(n, num_classes)`, mean predicted probabilities.
        temperature: Of `sharpen`.

    Returns:
        `(n, num_classes)`, rows that sum to one; constant.

    Reference:
        Li, Socher and Hoi, "DivideMix", ICLR 2020, section 3.2.
    """
    mixed = mix(labels, predicted, clean_probability)
    return tf.stop_gradient(sharpen(mixed, temperature))
