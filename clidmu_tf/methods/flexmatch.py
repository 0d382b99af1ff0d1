"""FlexMatch: FixMatch, with a lower threshold for classes that are learnt later."""

import keras

from clidmu_tf.core.semi_supervised import (
    NEVER,
    class_thresholds,
    confident_classes,
    learning_status,
    update_confident,
)
from clidmu_tf.methods.fixmatch import FixMatch


@keras.saving.register_keras_serializable("clidmu_tf")
class FlexMatch(FixMatch):
    """FixMatch whose threshold falls for a class of which few examples are sure yet.

    It remembers of each unlabelled example what it last was sure of, so that a dataset
    must name its examples (`engine.examples.with_index`, and `num_unlabeled=`).

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        threshold: That of the class that is learnt best.
        unlabeled_weight: Weight λ_u ≥ 0 of the unlabelled examples' loss.
        unlabeled_ratio: Unlabelled examples a step for each labelled one.
        ema_momentum: Of the weights' moving average, which predicts.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of order and augmentation.

    Example:

    ```python
    x, y = np.random.rand(8, 4).astype("float32"), np.arange(8) % 3
    unlabelled = np.random.rand(40, 4).astype("float32")
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = clidmu.FlexMatch(classifier, unlabeled_ratio=2)
    model.compile(optimizer="sgd")
    model.fit(x, y, unlabeled_data=unlabelled, batch_size=8, verbose=0)
    ```

    Reference:
        Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum
        Pseudo Labeling", NeurIPS 2021.
    """

    remembers_unlabeled = True

    def build_memory(self, num_examples, num_unlabeled=None):
        super().build_memory(num_examples, num_unlabeled)
        known = self.slots.get("confident")
        if num_unlabeled and (known is None or known.shape != (num_unlabeled,)):
            with self.distribute_strategy.scope():
                self.add_slot("confident", (num_unlabeled,), NEVER, "int32")

    def says(self, weak_logits, batch, slots):
        status = learning_status(
            slots["confident"], self.num_classes, dtype=weak_logits.dtype
        )
        limits = class_thresholds(status, self.threshold)
        mask, targets = confident_classes(weak_logits, limits)
        confident = update_confident(
            slots["confident"],
            self.gather_everywhere(batch["unlabeled"]["index"]),
            self.gather_everywhere(weak_logits),
            self.threshold,
        )
        return mask, targets, {"confident": confident}
