"""CLID as a Keras metric."""

import math

import keras

from clidmu_tf.core.losses import clid


@keras.saving.register_keras_serializable("clidmu_tf")
class CLID(keras.metrics.Mean):
    """Mean of [`clid`](losses.py) over batches of features and logits.

    CLID depends on the batch size: to compare two values, compute both in
    batches of one fixed size and at one fixed temperature.

    Args:
        temperature: Above 0.
        name: Name of the metric.
        dtype: Dtype of the result.

    Example:

    ```python
    metric = clidmu.CLID(temperature=0.5)
    metric.update_state(keras.random.normal((8, 4)), keras.random.normal((8, 3)))
    print(float(metric.result()))
    ```
    """

    def __init__(self, temperature=0.5, name="clid", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.temperature = check_temperature(temperature)

    def update_state(self, features, logits, sample_weight=None):
        """Adds one batch.

        Args:
            features: `(n, d)`.
            logits: `(n, num_classes)`.
            sample_weight: Not used: CLID has no per-example terms to weight.
        """
        features = keras.ops.cast(features, self.dtype)
        logits = keras.ops.cast(logits, self.dtype)
        super().update_state(clid(features, logits, self.temperature))

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


def check_temperature(temperature):
    """Returns `temperature`, or raises a ValueError where it is none."""
    if not 0 < temperature < math.inf:
        raise ValueError(
            "temperature must be above 0 and finite; received "
            f"temperature={temperature}."
        )
    return float(temperature)
