"""Label smoothing: no label is trusted to the last."""

from typing import Annotated

import keras

from clidmu_tf.core.labels import smooth
from clidmu_tf.core.losses import cross_entropy
from clidmu_tf.engine.method import Method
from clidmu_tf.engine.settings import Setting


@keras.saving.register_keras_serializable("clidmu_tf")
class LabelSmoothing(Method):
    """Trains on cross-entropy with labels of which a share goes to all classes alike.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        amount: The share, from 0 (the labels as they are) to below 1.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.

    Example:

    ```python
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = clidmu.LabelSmoothing(classifier, amount=0.1)
    model.compile(optimizer="sgd", metrics=["accuracy"])
    model.fit(np.random.rand(8, 4), np.arange(8) % 3, verbose=0)
    ```

    Reference:
        Lukasik et al., "Does Label Smoothing Mitigate Label Noise?", ICML 2020.
    """

    def __init__(
        self,
        classifier,
        amount: Annotated[
            float,
            Setting(
                "Share of each label that goes to all classes alike.",
                least=0,
                below=1,
                search=(0.1, 0.2, 0.4, 0.6),
            ),
        ] = 0.1,
        feature_layer=None,
        **kwargs,
    ):
        super().__init__(classifier, feature_layer, amount=amount, **kwargs)

    def example_losses(self, logits, batch):
        return cross_entropy(logits, smooth(batch["targets"], self.amount))
