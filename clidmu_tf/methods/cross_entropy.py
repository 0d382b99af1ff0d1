"""Plain cross-entropy on the given labels: what every method is compared with."""

import keras
import tensorflow as tf

from clidmu_tf.core.losses import clid, cross_entropy
from clidmu_tf.core.meta_gradient import real_gradient
from clidmu_tf.engine.classifier_model import REFERENCE_TEMPERATURE
from clidmu_tf.engine.model import NoisyLabelModel


@keras.saving.register_keras_serializable("clidmu_tf")
class CrossEntropy(NoisyLabelModel):
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
        self.build_if_ready()

    def train_step(self, data, meta=None, *, kind, compute):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = self.gather_batch(y, sample_weight)
        gradient, state, logits, logs = compute(self.theta(), self.state(), x, batch)
        self.apply_step(gradient, state)
        return self.log_step(x, y, sample_weight, logits, **logs)

    def pure_step(self, kind):
        forward = self.forward()

        def step(theta, state, x, batch):
            here = forward(theta, state, x)
            gradient = real_gradient(mean_cross_entropy(batch), None, here)
            logs = {
                "loss": tf.reduce_mean(cross_entropy(here.logits, batch["targets"])),
                "clid": clid(here.features, here.logits, REFERENCE_TEMPERATURE),
            }
            return gradient, here.state, here.logits, logs

        return step


def mean_cross_entropy(batch):
    """The training loss that trusts every label, in the form `meta_step` takes."""

    def training_loss(phi, features, logits, virtual):
        losses = cross_entropy(logits, batch["targets"])
        return tf.reduce_mean(losses * batch["sample_weight"])

    return training_loss
