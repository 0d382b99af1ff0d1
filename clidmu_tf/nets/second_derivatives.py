"""Normalisation layers whose second derivatives are right.

`tf.nn.moments` holds the mean inside the variance constant. That is right for the
first derivative, since deviations from the mean sum to zero, and wrong for the second;
Keras's BatchNormalization, LayerNormalization and GroupNormalization all call it.
"""

import contextlib
import contextvars
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

_exact = contextvars.ContextVar("exact", default=False)
_lock = threading.Lock()
_users = 0
_moments = tf.nn.moments


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """While it lasts, what this thread runs or traces may be differentiated twice.

    A method that differentiates by θ through a step of θ needs it around the forward
    pass; CLID-MU, whose second derivative is by the weight net, does not. Values and
    first derivatives are the same up to rounding.

    Example:

    ```python
    from clidmu_tf.nets.second_derivatives import twice_differentiable

    normalise = keras.layers.BatchNormalization()
    with twice_differentiable():
        outputs = normalise(np.random.rand(8, 3), training=True)
    ```
    """
    # Replicas are threads that stop in the middle of a pass and take turns: each has
    # its own flag, and the last to leave puts TensorFlow's function back.
    global _users
    with _lock:
        _users += 1
        tf.nn.moments = _chosen_moments
    token = _exact.set(True)
    try:
        yield
    finally:
        _exact.reset(token)
        with _lock:
            _users -= 1
            if not _users:
                tf.nn.moments = _moments


def _chosen_moments(
    x: tf.Tensor,
    axes: Sequence[int],
    shift: Any = None,
    keepdims: bool = False,
    name: str | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    if not _exact.get():
        return _moments(x, axes, shift=shift, keepdims=keepdims, name=name)
    mean = tf.reduce_mean(x, axes, keepdims=keepdims)
    return mean, tf.math.reduce_variance(x, axes, keepdims=keepdims)
