"""Variational rectification: masked logits, judged by clean labels."""

import keras

from clidmu_tf.methods.as_published import AsPublished


@keras.saving.register_keras_serializable("clidmu_tf")
class VariationalRectification(AsPublished):
    """VRI with a clean meta set: an oracle, since its meta data must have right labels.

    A variational weight net masks the logits, by features and label, so that a
    virtual step lowers the cross-entropy of `meta_data`.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        warmup_steps: Steps of plain cross-entropy before the first meta step.
        meta_interval: A meta update every so many steps.
        virtual_scope: Which weights the virtual step moves: `"all"` (the paper),
            `"last_block"` or `"head"`.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of what the method draws.

    Example:

    ```python
    x, y = np.random.rand(32, 4).astype("float32"), np.arange(32) % 2
    classifier = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    )
    model = clidmu.VariationalRectification(classifier)
    model.compile("sgd", meta_optimizer=keras.optimizers.Adam(1e-3))
    model.fit(x, y, meta_data=(x[:8], y[:8]), verbose=0)
    ```

    Reference:
        Sun et al., "Variational Rectification Inference for Learning with Noisy
        Labels", IJCV 2024, section 3.
    """

    net, objective = "vri", "cross_entropy"

    @classmethod
    def wants_clean_labels(cls, settings):
        return True
