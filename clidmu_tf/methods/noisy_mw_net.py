"""Meta-Weight-Net without clean labels: judged by MAE on other given labels."""

import keras
import numpy as np

from clidmu_tf.methods.as_published import AsPublished


@keras.saving.register_keras_serializable("clidmu_tf")
class NoisyMWNet(AsPublished):
    """Meta-Weight-Net that takes its meta batches from the noisy training data.

    The meta objective is the mean absolute error, a symmetric loss: under
    class-conditional noise it has its minimum on noisy labels where it has it on
    clean ones, so that no label needs to be right.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        warmup_steps: Steps of plain cross-entropy before the first meta step.
        meta_interval: A meta update every so many steps.
        virtual_scope: Which weights the virtual step moves: `"all"` (the paper),
            `"last_block"` or `"head"`.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of the meta batches.

    Example:

    ```python
    x, y = np.random.rand(32, 4).astype("float32"), np.arange(32) % 2
    classifier = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    )
    model = clidmu.NoisyMWNet(classifier)
    model.compile("sgd", meta_optimizer=keras.optimizers.Adam(1e-3))
    model.fit(x, y, verbose=0)
    ```

    Reference:
        Ghosh and Lan, "Do We Really Need Gold Samples for Sample Weighting under
        Label Noise?", WACV 2021, section 3.
    """

    reads_examples = True

    net, objective = "wnet", "mae"

    def own_streams(self, step):
        everyone = np.arange(len(self.examples))
        return {"meta": self.examples.batches(everyone, self.meta_batch_size, step)}
