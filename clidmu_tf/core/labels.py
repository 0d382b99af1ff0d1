"""Labels in any form a Keras user has them, as rows of probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from clidmu_tf.core.precision import in_dtype
from clidmu_tf.errors import listed


def to_targets(
    labels: tf.Tensor | npt.ArrayLike,
    num_classes: int,
    dtype: str | tf.DType = "float32",
) -> tf.Tensor:
    """Returns labels as rows that sum to one.

    A row that is no label (an index out of range or between two, a soft label below
    zero or one that does not sum to one, NaN) becomes NaN, so that the loss shows it.

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
        given = tf.reshape(labels, [-1])
        indices = tf.cast(given, "int64")
        if given.dtype.is_floating:  # 1.9 is no label, least of all the label 1
            indices = tf.where(tf.cast(indices, given.dtype) == given, indices, -1)
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


def as_labels(labels: npt.ArrayLike) -> npt.NDArray[Any]:
    """Returns labels as an array of numbers or of texts, whatever they came in.

    Args:
        labels: As for `to_targets`, or names of classes: an array, a list, a column of
            a table.

    Raises:
        ValueError: One is missing.
    """
    found = np.asarray(labels)
    if found.dtype.kind == "O":
        flat = found.reshape(-1).tolist()
        missing = [i for i, value in enumerate(flat) if _is_missing(value)]
        if missing:
            raise ValueError(
                f"labels must not be missing; received {flat[missing[0]]!r} at index "
                f"{missing[0]} ({len(missing)} of {len(flat)} are missing)."
            )
        found = np.array(flat).reshape(found.shape)
    if found.dtype.kind == "S":
        found = np.char.decode(found, "utf-8")
    return found.astype("int64") if found.dtype.kind == "b" else found


def _is_missing(value: Any) -> bool:
    # NaN, NaT and pandas's NA equal nothing, not even themselves.
    same = value == value
    return value is None or not (isinstance(same, bool | np.bool_) and same)


def names_of(labels: npt.ArrayLike, num_classes: int) -> list[str] | None:
    """Returns the names of classes that are found in labels, sorted.

    Args:
        labels: What `as_labels` returned.
        num_classes: Number of classes that there must be.

    Returns:
        A list of `num_classes` names; `None` of labels that are numbers.

    Raises:
        ValueError: There are more names, or fewer.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind != "U":
        return None
    names = [str(name) for name in np.unique(labels)]
    if len(names) != num_classes:
        few = listed([*map(repr, names)], most=5)
        raise ValueError(
            f"labels have {len(names)} names ({few}) and the classifier {num_classes} "
            f"classes: give it {len(names)}, or name them all by class_names=."
        )
    return names


def to_indices(
    labels: npt.ArrayLike, class_names: Sequence[str] | None
) -> npt.NDArray[Any]:
    """Returns labels as class indices, where they are names.

    Args:
        labels: What `as_labels` returned.
        class_names: Names of the classes, in order, if they are known.

    Raises:
        ValueError: A label is no name of a class.
    """
    labels = np.asarray(labels)
    if class_names is None or labels.dtype.kind != "U":
        return labels
    names = np.asarray(class_names)
    order = np.argsort(names, kind="stable")
    place = np.minimum(np.searchsorted(names, labels, sorter=order), len(names) - 1)
    indices = order[place]
    bad = names[indices] != labels
    if bad.any():
        first = int(np.argmax(bad.reshape(-1)))
        raise ValueError(
            f"labels must be among class_names; received {labels.flat[first].item()!r} "
            f"at index {first} ({int(bad.sum())} of {labels.size} are not)."
        )
    return indices.astype("int64")


def to_index_tensor(labels: tf.Tensor, class_names: Sequence[str] | None) -> tf.Tensor:
    """As `to_indices`, in a graph; what is no name of a class becomes -1."""
    if labels.dtype != tf.string:
        return labels
    if class_names is None:
        raise ValueError(
            "labels are texts, whose classes nobody can know before the data are "
            "read: name the classes, in order, by class_names=."
        )
    same = tf.equal(tf.reshape(labels, [-1, 1]), tf.constant(class_names)[None])
    indices = tf.where(tf.reduce_any(same, axis=-1), tf.argmax(same, axis=-1), -1)
    return tf.reshape(indices, tf.shape(labels))


def check_labels(labels: npt.ArrayLike, num_classes: int, first_row: int = 0) -> None:
    """Raises a ValueError that names the first label that is none.

    Args:
        labels: As for `to_targets`, a NumPy array.
        num_classes: Number of classes.
        first_row: What to call the first of them.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind in "USO" and labels.size:
        raise ValueError(
            f"labels must be numbers; received {str(labels.flat[0])!r} first: name "
            "the classes, in order, by class_names=."
        )
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        is_label = (np.abs(labels.sum(axis=1) - 1) < 1e-3) & (labels >= 0).all(axis=1)
        bad = ~is_label
        expected = "rows of 0 or more that sum to one"
        if bad.any() and np.isin(labels, (0, 1)).all():
            expected += " (several labels an example, multi-label, are not supported)"
    elif labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1):
        labels = labels.reshape(-1)
        whole = np.floor(labels) == labels
        bad = ~(whole & (labels >= 0) & (labels < num_classes))
        expected = f"whole numbers from 0 to {num_classes - 1}"
        if bad.any() and not whole[np.isfinite(labels)].all():
            expected += " (values, as of a regression, are not supported)"
    else:
        raise ValueError(
            f"labels must have shape (n,), (n, 1) or (n, {num_classes}); received "
            f"{labels.shape}."
        )
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"labels must be {expected}; received {labels[first]} at index "
            f"{first_row + first} ({int(bad.sum())} of {len(labels)} are wrong)."
        )
