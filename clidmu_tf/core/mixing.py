"""MixUp: training between the examples instead of at them."""

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
