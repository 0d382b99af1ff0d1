"""Settings in the precision of what they act on."""

import tensorflow as tf


def in_dtype(value: float | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """As `tf.cast`, which alone rounds a Python float to float32 on its way."""
    if isinstance(value, float | int):
        return tf.constant(value, dtype)
    return tf.cast(value, dtype)
