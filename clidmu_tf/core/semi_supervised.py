"""Learning from examples without labels: what the weak view says, the strong must say.

A network predicts an example under a weak augmentation; where it is confident, that
prediction is the target of the same example under a strong one. The methods differ in
what confident means, and in whether the target is a class or a distribution.

Reference:
    Sohn et al., "FixMatch", NeurIPS 2020; Zhang et al., "FlexMatch", NeurIPS 2021; Xie
    et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020.
"""

import tensorflow as tf

from clidmu_tf.core.losses import cross_entropy
from clidmu_tf.core.precision import in_dtype

NEVER = -1  # The class of an example of which the network was never confident.
ANNEALINGS = ("none", "linear", "exp", "log")


def confident_classes(
    weak_logits: tf.Tensor, threshold: float | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pseudo-labels, and where the network is confident enough of them.

    Args:
        weak_logits: `(n, num_classes)`, of the weak view; no gradient flows into them.
        threshold: The least probability of the likeliest class: one for all classes,
            or `(num_classes,)`.

    Returns:
        `(n,)` mask, ones and zeros, and `(n, num_classes)` one-hot targets.

    Example:

    ```python
    from clidmu_tf.core.semi_supervised import confident_classes, consistency_loss

    weak, strong = tf.constant([[9.0, 0.0], [0.1, 0.0]]), tf.zeros((2, 2))
    mask, targets = confident_classes(weak, 0.95)
    assert mask.numpy().tolist() == [1, 0]
    loss = consistency_loss(strong, targets, mask)  # log(2) / 2: the mean of all rows
    ```

    Reference:
        Sohn et al., "FixMatch", NeurIPS 2020, equation 4.
    """
    probabilities = tf.stop_gradient(tf.nn.softmax(weak_logits, axis=-1))
    classes = tf.argmax(probabilities, axis=-1)
    least = in_dtype(threshold, probabilities.dtype)
    if least.shape.rank:
        least = tf.gather(least, classes)
    mask = tf.reduce_max(probabilities, axis=-1) >= least
    num_classes = tf.shape(probabilities)[-1]
    targets = tf.one_hot(classes, num_classes, dtype=probabilities.dtype)
    return tf.cast(mask, probabilities.dtype), targets


def confident_distributions(
    weak_logits: tf.Tensor, threshold: float, temperature: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """As `confident_classes`, with sharpened predictions in place of classes.

    Args:
        weak_logits: `(n, num_classes)`, of the weak view; no gradient flows into them.
        threshold: The least probability of the likeliest class, before sharpening.
        temperature: Divides the logits of the targets: below 1 sharpens.

    Returns:
        `(n,)` mask, and `(n, num_classes)` targets, rows that sum to one.

    Reference:
        Xie et al., "UDA", NeurIPS 2020, section 3.2.
    """
    mask, _ = confident_classes(weak_logits, threshold)
    heat = in_dtype(temperature, weak_logits.dtype)
    return mask, tf.stop_gradient(tf.nn.softmax(weak_logits / heat, axis=-1))


def consistency_loss(
    strong_logits: tf.Tensor, targets: tf.Tensor, mask: tf.Tensor
) -> tf.Tensor:
    """Cross-entropy of the strong view, a mean over *all* rows, masked ones included.

    Args:
        strong_logits: `(n, num_classes)`.
        targets: `(n, num_classes)`.
        mask: `(n,)`.
    """
    return tf.reduce_mean(mask * cross_entropy(strong_logits, targets))


# --- FlexMatch


def class_thresholds(status: tf.Tensor, threshold: float) -> tf.Tensor:
    """Lower thresholds for the classes that are learnt more slowly, `(num_classes,)`.

    Args:
        status: β, from `learning_status`.
        threshold: That of a class that is learnt best.

    Reference:
        Zhang et al., "FlexMatch", NeurIPS 2021, equation 11.
    """
    return in_dtype(threshold, status.dtype) * status / (2 - status)


def update_confident(
    confident: tf.Tensor, index: tf.Tensor, weak_logits: tf.Tensor, threshold: float
) -> tf.Tensor:
    """The class that each example was last found confidently to be.

    Args:
        confident: `(num_examples,)` int32, `NEVER` at first.
        index: `(n,)`, which examples the batch holds.
        weak_logits: `(n, num_classes)`.
        threshold: The one before any class has its own.

    Returns:
        `(num_examples,)` int32.
    """
    mask, _ = confident_classes(weak_logits, threshold)
    classes = tf.argmax(weak_logits, axis=-1, output_type="int32")
    kept = tf.gather(confident, index)
    rows = tf.where(mask > 0, classes, kept)
    return tf.tensor_scatter_nd_update(confident, index[:, None], rows)


def learning_status(
    confident: tf.Tensor,
    num_classes: int,
    warm_up: bool = True,
    dtype: str = "float32",
) -> tf.Tensor:
    """β of each class: how many examples are confidently of it, over the most.

    Args:
        confident: From `update_confident`.
        num_classes: Number of classes.
        warm_up: Whether the examples never yet confident count as a class among those
            that the most is taken of, so that thresholds rise slowly.
        dtype: Floating dtype of the result.

    Returns:
        `(num_classes,)` in [0, 1]; zeros where no example was ever confident.

    Reference:
        Zhang et al., "FlexMatch", NeurIPS 2021, equations 5 to 7 and section 3.3.
    """
    counts = tf.math.unsorted_segment_sum(
        tf.ones(tf.shape(confident), dtype), confident - NEVER, num_classes + 1
    )
    most = tf.reduce_max(counts if warm_up else counts[1:])
    return tf.math.divide_no_nan(counts[1:], most)


# --- training-signal annealing


def annealed_threshold(
    progress: float | tf.Tensor, num_classes: int, schedule: str
) -> tf.Tensor:
    """The probability from which on a label teaches no more, for now.

    Args:
        progress: How much of training is done, from 0 to 1.
        num_classes: Number of classes.
        schedule: One of `ANNEALINGS`.

    Returns:
        A scalar, from 1 / num_classes to 1; 1 throughout for `"none"`.

    Reference:
        Xie et al., "UDA", NeurIPS 2020, section 3.3 of its first version.
    """
    progress = tf.clip_by_value(tf.convert_to_tensor(progress), 0, 1)
    rise = {
        "none": tf.ones_like(progress),
        "linear": progress,
        "exp": tf.exp(5 * (progress - 1)),
        "log": 1 - tf.exp(-5 * progress),
    }[schedule]
    return rise * (1 - 1 / num_classes) + 1 / num_classes


def annealed_losses(
    logits: tf.Tensor, targets: tf.Tensor, threshold: tf.Tensor
) -> tf.Tensor:
    """Cross-entropies `(n,)`, zero where the network is surer than the threshold."""
    probabilities = tf.stop_gradient(tf.nn.softmax(logits, axis=-1))
    is_unsure = tf.reduce_max(probabilities, axis=-1) <= in_dtype(
        threshold, probabilities.dtype
    )
    return tf.cast(is_unsure, logits.dtype) * cross_entropy(logits, targets)
