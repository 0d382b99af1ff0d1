"""Early-learning regularisation: stay with what was predicted before memorising."""

from typing import Annotated

import keras

from clidmu_tf.core.early_learning import early_learning_term, update_memory
from clidmu_tf.engine.method import Method
from clidmu_tf.engine.settings import Setting


@keras.saving.register_keras_serializable("clidmu_tf")
class ELR(Method):
    """Trains on cross-entropy, and holds each prediction to its own moving average.

    A network fits the right labels first. So the average of what it has predicted for
    an example soon says more than a wrong label does, and the added term cancels the
    gradient of the labels that contradict it.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        beta: How much of the average stays at each visit, from 0 to below 1. The
            paper's: 0.7 on CIFAR-10 and web images, 0.9 for asymmetric noise and
            CIFAR-100.
        penalty: Weight λ ≥ 0 of the added term. The paper's: 3, for asymmetric noise
            1, on CIFAR-100 7.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.

    Example:

    ```python
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = clidmu.ELR(classifier, beta=0.7, penalty=3.0)
    model.compile(optimizer="sgd", metrics=["accuracy"])
    model.fit(np.random.rand(8, 4), np.arange(8) % 3, epochs=2, verbose=0)
    ```

    Reference:
        Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy
        Labels", NeurIPS 2020: ELR, with one network and no weight averaging.
    """

    def __init__(
        self,
        classifier,
        beta: Annotated[
            float,
            Setting(
                "How much of each example's average prediction stays at a visit.",
                least=0,
                below=1,
                search=(0.5, 0.7, 0.9, 0.99),
            ),
        ] = 0.7,
        penalty: Annotated[
            float,
            Setting(
                "Weight of the early-learning term.", least=0, search=(1, 3, 5, 7, 10)
            ),
        ] = 3.0,
        feature_layer=None,
        **kwargs,
    ):
        super().__init__(
            classifier, feature_layer, beta=beta, penalty=penalty, **kwargs
        )

    def memory(self):
        return {"targets": self.num_classes}

    def remember(self, here, batch):
        rows = batch["memory"]["targets"]
        return {"targets": update_memory(rows, here.logits, self.beta)}

    def batch_loss(self, here, batch, values):
        # By the average that this very prediction is part of, as the authors do.
        averages = self.remember(here, batch)["targets"]
        term = early_learning_term(here.logits, averages)
        return super().batch_loss(here, batch, values) + self.penalty * term
