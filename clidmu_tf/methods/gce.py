"""Generalized cross-entropy: between cross-entropy, which learns, and MAE, which
forgives."""

from typing import Annotated

import keras
import tensorflow as tf

from clidmu_tf.core.losses import generalized_cross_entropy
from clidmu_tf.engine.method import Method
from clidmu_tf.engine.settings import Setting
from clidmu_tf.methods.mae import probability_of_label


@keras.saving.register_keras_serializable("clidmu_tf")
class GCE(Method):
    """Trains on (1 − p_y^q) / q, so that a label counts less the less it is believed.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        q: Above 0, at most 1: towards 0 it is cross-entropy, at 1 the mean absolute
            error. The more labels are wrong, the higher; the paper's is 0.7.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.

    Example:

    ```python
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = clidmu.GCE(classifier, q=0.7)
    model.compile(optimizer="sgd", metrics=["accuracy"])
    model.fit(np.random.rand(8, 4), np.arange(8) % 3, verbose=0)
    ```

    Reference:
        Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural
        Networks with Noisy Labels", NeurIPS 2018, equation 6; without truncation.
    """

    def __init__(
        self,
        classifier,
        q: Annotated[
            float,
            Setting(
                "0: cross-entropy, 1: mean absolute error.",
                above=0,
                most=1,
                search=(0.3, 0.5, 0.7, 0.9),
            ),
        ] = 0.7,
        feature_layer=None,
        **kwargs,
    ):
        super().__init__(classifier, feature_layer, q=q, **kwargs)

    def example_losses(self, logits, batch):
        return generalized_cross_entropy(logits, batch["targets"], self.q)

    def weigh(self, x, y):
        """p_y^q: the weight that a label's gradient has beside cross-entropy's."""
        return tf.pow(probability_of_label(self, x, y), self.q)
