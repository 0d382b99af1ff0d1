"""Co-teaching: two networks, each trained on what the other finds easy."""

from typing import Annotated

import keras
import tensorflow as tf

from clidmu_tf.core.co_teaching import forget_rate, small_losses
from clidmu_tf.core.losses import mean_over
from clidmu_tf.core.meta_gradient import real_gradient
from clidmu_tf.engine.method import Method, StepResult
from clidmu_tf.engine.settings import Setting


@keras.saving.register_keras_serializable("clidmu_tf")
class CoTeaching(Method):
    """Trains two networks at once on the examples of small loss, chosen crosswise.

    A network fits the right labels first, so that a small loss speaks for a label. Each
    network hands the examples that it finds easy to the other one: errors that one of
    them has made are not its own reason to go on. Both together predict, by their mean.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        forget_rate: τ, the share of a batch that is left out, from 0 to below 1: about
            that of wrong labels.
        gradual_epochs: T_k, epochs over which that share rises from 0.
        peer: The second network, of the same layers; `None` for a copy with weights
            drawn anew.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.

    Example:

    ```python
    x, y = np.random.rand(32, 4).astype("float32"), np.arange(32) % 2
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model = clidmu.CoTeaching(classifier, forget_rate=0.4)
    model.compile("sgd", metrics=["accuracy"])
    model.fit(x, y, epochs=2, verbose=0)
    ```

    Reference:
        Han et al., "Co-teaching: Robust Training of Deep Neural Networks with
        Extremely Noisy Labels", NeurIPS 2018, algorithm 1.
    """

    num_networks = 2

    def __init__(
        self,
        classifier,
        forget_rate: Annotated[
            float,
            Setting(
                "Share of a batch that is left out: about that of wrong labels.",
                least=0,
                below=1,
                search=(0.1, 0.2, 0.4, 0.6),
            ),
        ] = 0.2,
        gradual_epochs: Annotated[
            int, Setting("Epochs over which that share rises from 0.", least=1)
        ] = 10,
        peer=None,
        **kwargs,
    ):
        super().__init__(
            classifier,
            forget_rate=forget_rate,
            gradual_epochs=gradual_epochs,
            peer=peer,
            **kwargs,
        )

    def build_method(self):
        super().build_method()
        self.add_slot("forgotten", ())

    def begin_epoch(self, epoch):
        rate = forget_rate(epoch + 1, self.forget_rate, self.gradual_epochs)
        self.slots["forgotten"].assign(rate)

    def step(self, kind, forward, values, x, batch):
        heres = [forward(v["theta"], v["state"], x) for v in values]
        kept = [
            small_losses(
                self.example_losses(tf.stop_gradient(here.logits), batch),
                values[0]["slots"]["forgotten"],
            )
            for here in heres
        ]
        return self.learn(kind, forward, values, x, batch, heres, kept[::-1])

    def learn(self, kind, forward, values, x, batch, heres, kept):
        """What the step of each network comes to.

        Args:
            heres: The forward pass of each through the batch.
            kept: `(n,)` ones and zeros for each: the examples that the other one chose.
        """
        return [
            self._learn(batch, here, chosen)
            for here, chosen in zip(heres, kept, strict=True)
        ]

    def _learn(self, batch, here, chosen):
        def training_loss(phi, features, logits, virtual):
            losses = self.example_losses(logits, batch)
            return mean_over(losses * batch["sample_weight"], chosen)

        gradient = real_gradient(training_loss, None, here)
        loss = training_loss(None, here.features, here.logits, False)
        logs = {"loss": loss, **self.reference_logs(here)}
        return StepResult(gradient, here.state, here.logits, logs)
