"""A pseudo-clean meta set: the labels whose losses are small after a warm-up."""

from typing import Annotated

import keras
import numpy as np

from clidmu_tf.core.labels import to_targets
from clidmu_tf.core.mixture import clean_probability, cleanest_per_class
from clidmu_tf.engine.settings import Setting
from clidmu_tf.methods.reweighting import (
    ClassBalance,
    MetaInterval,
    PriorPenalty,
    Reweighting,
    VirtualScope,
    WeightNet,
)

OBJECTIVES = ("cross_entropy", "mae")


@keras.saving.register_keras_serializable("clidmu_tf")
class SmallLoss(Reweighting):
    """Meta-reweighting judged by the labels that look right, chosen every epoch.

    After a warm-up by cross-entropy, a mixture of two Gaussians is fitted to the
    losses of all training examples before each epoch; those likeliest to belong to
    the lower one, as many of each class, are the meta set of the epoch.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        weight_net: `"wnet"`, `"vri"`, or an instance of `WNet` or `VRI`.
        objective: What judges the virtual step on them: `"cross_entropy"` or
            `"mae"`, one minus the probability of the label.
        warmup_epochs: Epochs of plain cross-entropy first, 1 or more.
        meta_examples: Size of the meta set.
        class_balance: Whether each given class keeps its share of the total weight.
        prior_penalty: Weight λ ≥ 0 of KL(given labels' shares ‖ mean prediction).
        meta_interval: A meta update every so many steps.
        virtual_scope: Which weights the virtual step moves: `"all"` (the paper),
            `"last_block"` or `"head"`.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of the meta batches and of the mixture.

    Example:

    ```python
    x, y = np.random.rand(32, 4).astype("float32"), np.arange(32) % 2
    classifier = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    )
    model = clidmu.SmallLoss(classifier, warmup_epochs=1, meta_examples=10)
    model.compile("sgd", meta_optimizer=keras.optimizers.Adam(1e-3))
    model.fit(x, y, epochs=3, verbose=0)
    ```

    Reference:
        Hu et al., KDD 2025, arXiv:2507.11807, section 5 (the baselines with a
        pseudo-clean meta set); the mixture is that of Li, Socher and Hoi,
        "DivideMix", ICLR 2020, section 3.1.
    """

    reads_examples = True

    def __init__(
        self,
        classifier,
        weight_net: WeightNet = "wnet",
        objective: Annotated[
            str, Setting("What judges the virtual step.", OBJECTIVES)
        ] = "cross_entropy",
        warmup_epochs: Annotated[
            int, Setting("Epochs of plain cross-entropy first.", least=1)
        ] = 10,
        meta_examples: Annotated[
            int, Setting("Examples of the pseudo-clean meta set.", least=2)
        ] = 1000,
        class_balance: ClassBalance = True,
        prior_penalty: PriorPenalty = 1.0,
        meta_interval: MetaInterval = 1,
        virtual_scope: VirtualScope = "all",
        feature_layer=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            classifier,
            weight_net=weight_net,
            meta_objective=objective,
            objective=objective,
            warmup_epochs=warmup_epochs,
            meta_examples=meta_examples,
            class_balance=class_balance,
            prior_penalty=prior_penalty,
            warmup_steps=0,
            meta_interval=meta_interval,
            virtual_scope=virtual_scope,
            feature_layer=feature_layer,
            seed=seed,
            **kwargs,
        )

    def memory(self):
        # Whether an example is in the meta set of the epoch, 0 or 1.
        return {"chosen": 1}

    def step_kind(self, step):
        return "warmup" if self.epoch < self.warmup_epochs else super().step_kind(step)

    def begin_epoch(self, epoch):
        if epoch < self.warmup_epochs:
            return
        labels = np.argmax(
            to_targets(self.examples.labels(), self.num_classes), axis=-1
        )
        losses = self.losses_of_all(self.network, self.meta_batch_size)
        probability = clean_probability(losses, seed=self.seed or 0)
        chosen = cleanest_per_class(
            probability, labels, self.meta_examples, self.num_classes
        )
        is_chosen = np.zeros((len(labels), 1), "float32")
        is_chosen[chosen] = 1
        self.memories["chosen"].assign(is_chosen)

    def own_streams(self, step):
        chosen = np.flatnonzero(self.memories["chosen"].numpy())
        if not len(chosen):  # the warm-up has no meta set yet
            return {}
        return {"meta": self.examples.batches(chosen, self.meta_batch_size, step)}
