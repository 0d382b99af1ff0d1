"""FixMatch: confident predictions of a weak view are the labels of a strong one."""

import keras

from clidmu_tf.core.semi_supervised import confident_classes
from clidmu_tf.methods.semi_supervised import (
    EmaMomentum,
    SemiSupervised,
    Threshold,
    UnlabeledRatio,
    UnlabeledWeight,
)


@keras.saving.register_keras_serializable("clidmu_tf")
class FixMatch(SemiSupervised):
    """Learns from few labels and many examples without any.

    Where the network is sure of a weakly augmented example, the class that it says is
    the label of the same example, strongly augmented. What predicts is the moving
    average of its weights.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        threshold: Least probability by which a prediction becomes a label.
        unlabeled_weight: Weight λ_u ≥ 0 of the unlabelled examples' loss.
        unlabeled_ratio: Unlabelled examples a step for each labelled one.
        ema_momentum: How much of the moving average stays at a step, from 0, where the
            weights predict themselves, to below 1; less at the very start.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of order and augmentation.

    Example:

    ```python
    x, y = np.random.rand(8, 4).astype("float32"), np.arange(8) % 3
    unlabelled = np.random.rand(40, 4).astype("float32")
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = clidmu.FixMatch(classifier, unlabeled_ratio=2)
    model.compile(optimizer="sgd", metrics=["accuracy"])
    model.fit(x, y, unlabeled_data=unlabelled, batch_size=8, verbose=0)
    ```

    Images are given their views by `augment="flip,crop"` and
    `strong="flip,crop,randaugment"` of `fit`.

    Reference:
        Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency
        and Confidence", NeurIPS 2020.
    """

    def __init__(
        self,
        classifier,
        threshold: Threshold = 0.95,
        unlabeled_weight: UnlabeledWeight = 1.0,
        unlabeled_ratio: UnlabeledRatio = 7,
        ema_momentum: EmaMomentum = 0.999,
        **kwargs,
    ):
        super().__init__(
            classifier,
            threshold=threshold,
            unlabeled_weight=unlabeled_weight,
            unlabeled_ratio=unlabeled_ratio,
            ema_momentum=ema_momentum,
            **kwargs,
        )

    def says(self, weak_logits, batch, slots):
        return *confident_classes(weak_logits, self.threshold), {}
