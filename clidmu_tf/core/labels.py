"""Labels in any form a Keras user has them, as rows of probabilities."""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from clidmu_tf.core.precision import in_dtype


def to_targets(
    labels: tf.Tensor | npt.ArrayLike,
    num_classes: int,
    dtype: str | tf.DType = "float32",
) -> tf.Tensor:
    """Returns labels as rows that sum to one.

    A row that is no label (an index out of range, a soft label below zero or one
    that does not sum to one, NaN) becomes NaN, so that the loss shows it.

    Args:
        labels: `(n,)` or `(n, 1)` class indices, or `(n, num_classes)` one-hot or
            soft labels.
        num_classes: Number of classes.
        dtype: Floating dtype of the result.

    Returns:
        `(n, num_classes)`.
    """
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank == 2 and labels.shape[-1] == num_classes:
        targets = tf.cast(labels, dtype)
    else:
        indices = tf.cast(tf.reshape(labels, [-1]), "int64")
        targets = tf.one_hot(indices, num_classes, dtype=dtype)
    total = tf.reduce_sum(targets, axis=-1, keepdims=True)
    least = tf.reduce_min(targets, axis=-1, keepdims=True)
    return tf.where((tf.abs(total - 1) < 1e-3) & (least >= 0), targets, np.nan)


def smooth(targets: tf.Tensor, amount: float | tf.Tensor) -> tf.Tensor:
    """Label smoothing: a share of each label goes to all classes alike.

    Args:
        targets: `(n, num_classes)`, rows that sum to one.
        amount: The share, from 0 (the labels as they are) to 1 (uniform).

    Returns:
        `(n, num_classes)`, rows that sum to one.

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
        CVPR 2016, section 7; against wrong labels, Lukasik et al., "Does Label
        Smoothing Mitigate Label Noise?", ICML 2020.
    """
    amount = in_dtype(amount, targets.dtype)
    num_classes = tf.cast(tf.shape(targets)[-1], targets.dtype)
    return (1 - amount) * targets + amount / num_classes


def check_labels(labels: npt.ArrayLike, num_classes: int) -> None:
    """Raises a ValueError that names the first label that is none.

    Args:
        labels: As for `to_targets`, a NumPy array.
        num_classes: Number of classes.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind in "USO" and labels.size:
        raise ValueError(
            f"labels must be numbers; received {str(labels.flat[0])!r} first: "
            f"encode them as whole numbers from 0 to {num_classes - 1}."
        )
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        is_label = (np.abs(labels.sum(axis=1) - 1) < 1e-3) & (labels >= 0).all(axis=1)
        bad = ~is_label
        expected = "rows of 0 or more that sum to one"
    elif labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1):
        labels = labels.reshape(-1)
        whole = np.floor(labels) == labels
        bad = ~(whole & (labels >= 0) & (labels < num_classes))
        expected = f"whole numbers from 0 to {num_classes - 1}"
    else:
        raise ValueError(
            f"labels must have shape (n,), (n, 1) or (n, {num_classes}); received "
            f"{labels.shape}."
        )
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"labels must be {expected}; received {labels[first]} at index {first} "
            f"({int(bad.sum())} of {len(labels)} are wrong)."
        )
