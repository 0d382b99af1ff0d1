"""UDA: a strong view is to predict the distribution of the weak one, sharpened."""

from typing import Annotated

import keras
import tensorflow as tf

from clidmu_tf.core.semi_supervised import (
    ANNEALINGS,
    annealed_losses,
    annealed_threshold,
    confident_distributions,
)
from clidmu_tf.engine.settings import Setting
from clidmu_tf.methods.semi_supervised import (
    EmaMomentum,
    SemiSupervised,
    Threshold,
    UnlabeledRatio,
    UnlabeledWeight,
)


@keras.saving.register_keras_serializable("clidmu_tf")
class UDA(SemiSupervised):
    """Learns from few labels and many examples without any, by soft targets.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        threshold: Least probability by which a prediction becomes a target.
        heat: Divides the logits of the targets; below 1 sharpens them.
        annealing: How the limit rises above which a label teaches no more, so that few
            labels are not learnt by heart: `"none"`, `"linear"`, `"exp"` or `"log"`.
        annealing_steps: Steps over which it rises, 1 or more where it does.
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
    model = clidmu.UDA(classifier, unlabeled_ratio=2)
    model.compile(optimizer="sgd")
    model.fit(x, y, unlabeled_data=unlabelled, batch_size=8, verbose=0)
    ```

    Reference:
        Xie et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS
        2020.
    """

    def __init__(
        self,
        classifier,
        threshold: Threshold = 0.8,
        heat: Annotated[
            float,
            Setting("Temperature of the targets; below 1 sharpens.", above=0, search=3),
        ] = 0.4,
        annealing: Annotated[
            str,
            Setting("How the limit of labels that still teach rises.", ANNEALINGS),
        ] = "none",
        annealing_steps: Annotated[
            int, Setting("Epochs over which it rises.", least=0, in_epochs=True)
        ] = 0,
        unlabeled_weight: UnlabeledWeight = 1.0,
        unlabeled_ratio: UnlabeledRatio = 7,
        ema_momentum: EmaMomentum = 0.999,
        **kwargs,
    ):
        super().__init__(
            classifier,
            threshold=threshold,
            heat=heat,
            annealing=annealing,
            annealing_steps=annealing_steps,
            unlabeled_weight=unlabeled_weight,
            unlabeled_ratio=unlabeled_ratio,
            ema_momentum=ema_momentum,
            **kwargs,
        )

    def fit(self, *args, **kwargs):
        """As `SemiSupervised.fit`."""
        if self.annealing != "none" and not self.annealing_steps:
            raise ValueError(
                f"annealing={self.annealing!r} needs annealing_steps, over how many "
                "the limit rises; received annealing_steps=0."
            )
        return super().fit(*args, **kwargs)

    def says(self, weak_logits, batch, slots):
        return *confident_distributions(weak_logits, self.threshold, self.heat), {}

    def labeled_loss(self, here, batch, values):
        if self.annealing == "none":
            return super().labeled_loss(here, batch, values)
        progress = tf.cast(values["step"], here.logits.dtype) / self.annealing_steps
        limit = annealed_threshold(progress, self.num_classes, self.annealing)
        losses = annealed_losses(here.logits, batch["targets"], limit)
        return tf.reduce_mean(losses * batch["sample_weight"])
