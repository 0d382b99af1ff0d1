"""Plain cross-entropy on the given labels: what every method is compared with."""

import keras
import tensorflow as tf

from clidmu_tf.core.losses import cross_entropy
from clidmu_tf.engine.method import Method


@keras.saving.register_keras_serializable("clidmu_tf")
class CrossEntropy(Method):
    """Trusts every label; same plumbing, data and logs as the other methods.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.

    Example:

    ```python
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = clidmu.CrossEntropy(classifier)
    model.compile(optimizer="sgd", metrics=["accuracy"])
    model.fit(np.random.rand(8, 4), np.arange(8) % 3, verbose=0)
    ```
    """

    def __init__(self, classifier, feature_layer=None, **kwargs):
        super().__init__(classifier, feature_layer, **kwargs)


def mean_cross_entropy(batch):
    """The training loss that trusts every label, in the form `meta_step` takes."""

    def training_loss(phi, features, logits, virtual):
        losses = cross_entropy(logits, batch["targets"])
        return tf.reduce_mean(losses * batch["sample_weight"])

    return training_loss
