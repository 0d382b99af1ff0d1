"""The mean teacher: a network's moving average, and how far it is heeded.

Reference:
    Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017; with
    the constants of Li et al., "Learning to Learn from Noisy Labeled Data", CVPR
    2019, arXiv:1812.05214.
"""

from collections.abc import Sequence

import tensorflow as tf

from clidmu_tf.core.precision import in_dtype

EARLY_MOMENTUM, LATE_MOMENTUM = 0.99, 0.999
# How steeply the ramp rises: exp(−5) at its start.
STEEPNESS = 5.0


def update_teacher(
    teacher: Sequence[tf.Tensor],
    theta: Sequence[tf.Tensor],
    momentum: float | tf.Tensor,
) -> list[tf.Tensor]:
    """momentum · teacher + (1 − momentum) · θ; it comes before the teacher's use.

    Args:
        teacher: The teacher's values.
        theta: The network's, before its own update.
        momentum: From 0, which makes the teacher a copy, to below 1.

    Returns:
        The teacher's new values.
    """
    moved = []
    for old, new in zip(teacher, theta, strict=True):
        keep = in_dtype(momentum, old.dtype)
        moved.append(keep * old + (1 - keep) * new)
    return moved


def teacher_momentum(iteration: int | tf.Tensor, start: int, middle: int) -> tf.Tensor:
    """The momentum of the teacher's update in an iteration, a float64 scalar.

    Args:
        iteration: Counts from 0.
        start: The last iteration without a teacher. The next one copies the network.
        middle: The last iteration of the early momentum, 0.99; then it is 0.999.

    Returns:
        0 up to `start` + 1, then 0.99, after `middle` 0.999.
    """
    momenta = tf.constant([0, EARLY_MOMENTUM, LATE_MOMENTUM], "float64")
    copy, early, late = tf.unstack(momenta)
    moving = tf.where(iteration > middle, late, early)
    return tf.where(iteration <= start + 1, copy, moving)


def ramp(iteration: int | tf.Tensor, start: int, middle: int) -> tf.Tensor:
    """exp(−5 (1 − u)²), u going from 0 to 1: how much the consistency counts.

    Args:
        iteration: Counts from 0.
        start: Up to here the consistency does not count at all.
        middle: From here it counts in full; above `start`.

    Returns:
        A float64 scalar in [0, 1].
    """
    iteration = tf.cast(iteration, "float64")
    progress = tf.clip_by_value((iteration - start) / (middle - start), 0.0, 1.0)
    rising = tf.exp(-STEEPNESS * (1 - progress) ** 2)
    return tf.where(iteration > start, rising, tf.zeros_like(rising))
