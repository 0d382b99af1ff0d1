"""The mean absolute error: a loss that wrong labels, if symmetric, do not mislead."""

import keras

from clidmu_tf.core.labels import to_targets
from clidmu_tf.core.losses import mean_absolute_error
from clidmu_tf.engine.method import Method


@keras.saving.register_keras_serializable("clidmu_tf")
class MAE(Method):
    """Trains on 1 − p_y, half the distance of prediction and label.

    Its minimum over all classifiers is that of clean labels under symmetric noise of
    any rate that leaves the right label the likeliest. It learns slowly, since a
    label that is not believed yet hardly counts: with many classes take `GCE`.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.

    Example:

    ```python
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = clidmu.MAE(classifier)
    model.compile(optimizer=keras.optimizers.SGD(0.5), metrics=["accuracy"])
    model.fit(np.random.rand(8, 4), np.arange(8) % 3, verbose=0)
    ```

    Reference:
        Ghosh, Kumar and Sastry, "Robust Loss Functions under Label Noise for Deep
        Neural Networks", AAAI 2017.
    """

    def __init__(self, classifier, feature_layer=None, **kwargs):
        super().__init__(classifier, feature_layer, **kwargs)

    def example_losses(self, logits, batch):
        return mean_absolute_error(logits, batch["targets"])

    def weigh(self, x, y):
        """p_y: the weight that a label's gradient has beside cross-entropy's."""
        return probability_of_label(self, x, y)


def probability_of_label(model, x, y):
    """How likely a model finds each given label, `(n,)`."""
    _, logits = model.network(x)
    return 1 - mean_absolute_error(logits, to_targets(y, model.num_classes))
