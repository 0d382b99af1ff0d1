"""CLID-MU: sample weights learnt from the agreement of features and predictions."""

from typing import Annotated

import keras
import tensorflow as tf

from clidmu_tf.core.meta_gradient import real_gradient
from clidmu_tf.engine.distributed import Alone, Replicas
from clidmu_tf.engine.method import StepResult
from clidmu_tf.engine.settings import Setting
from clidmu_tf.methods import judges
from clidmu_tf.methods.cross_entropy import mean_cross_entropy
from clidmu_tf.methods.reweighting import (
    CLASS_SLOTS,
    ClassBalance,
    MetaInterval,
    MetaObjective,
    PriorPenalty,
    Reweighting,
    Temperature,
    VirtualScope,
    WarmupSteps,
    WeightNet,
)
from clidmu_tf.nets.weight_nets import WNet


@keras.saving.register_keras_serializable("clidmu_tf")
class CLIDMU(Reweighting):
    """Trains a Keras classifier on noisy labels, with no clean label.

    Each step moves a copy of the classifier along the weighted loss (the virtual
    step), measures there how well features and predictions agree (CLID, no
    labels), and improves the weight net through that; then the classifier takes
    its real step with the new weights.

    `class_balance=False, prior_penalty=0.0` is the paper to the letter. The two
    terms keep the weights from writing off whole classes, which CLID can't see.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer, with
            or without a softmax.
        weight_net: `"wnet"`, `"vri"`, or an instance of `WNet` or `VRI`.
        meta_objective: `"clid"`, or with labelled `meta_data` `"cross_entropy"` or
            `"mae"`.
        temperature: Of CLID, above 0.
        class_balance: Whether each given class keeps its share of the total
            weight. `VRI` masks logits and has no such weight; it is left out there.
        prior_penalty: Weight λ ≥ 0 of KL(given labels' shares ‖ mean prediction). The
            mean is the batch's, and with less than ten examples a class in a batch a
            moving average over as many.
        warmup_steps: Steps of plain cross-entropy before the first meta step.
        meta_interval: A meta update every so many steps; the steps between reuse
            the weight net as it is. 1 is the paper.
        virtual_scope: Which weights the virtual step moves: `"all"` (the paper),
            `"last_block"` or `"head"`, cheaper approximations.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of the draws that VRI samples.

    Example:

    ```python
    x, y = np.random.rand(64, 4).astype("float32"), np.arange(64) % 3
    classifier = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]
    )
    model = clidmu.CLIDMU(classifier, weight_net="wnet", temperature=0.5)
    model.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        meta_optimizer=keras.optimizers.Adam(1e-3),
        metrics=["accuracy"],
    )
    model.fit(x, y, epochs=2, verbose=0)
    ```

    Reference:
        Hu et al., KDD 2025, arXiv:2507.11807, algorithm 1. The class balance is
        this package's; the penalty is DivideMix's (Li et al., ICLR 2020).
    """

    def __init__(
        self,
        classifier,
        weight_net: WeightNet = "wnet",
        meta_objective: MetaObjective = "noisy_mae",
        temperature: Temperature = 0.5,
        class_balance: ClassBalance = True,
        prior_penalty: PriorPenalty = 1.0,
        warmup_steps: WarmupSteps = 0,
        meta_interval: MetaInterval = 1,
        virtual_scope: VirtualScope = "auto",
        judges: Annotated[
            int,
            Setting(
                "Examples before the batch that judge beside it under noisy_mae.",
                least=0,
            ),
        ] = 500,
        feature_layer=None,
        seed=None,
        **kwargs,
    ):
        if meta_objective == "noisy_mae":
            _check_noisy_mae(virtual_scope, feature_layer)
            if weight_net == "wnet":
                weight_net = WNet(starts_even=True)
        super().__init__(
            classifier,
            weight_net=weight_net,
            meta_objective=meta_objective,
            temperature=temperature,
            class_balance=class_balance,
            prior_penalty=prior_penalty,
            warmup_steps=warmup_steps,
            meta_interval=meta_interval,
            virtual_scope=virtual_scope,
            judges=judges,
            feature_layer=feature_layer,
            seed=seed,
            **kwargs,
        )

    @classmethod
    def wants_clean_labels(cls, settings):
        return settings["meta_objective"] in ("cross_entropy", "mae")

    def build_method(self):
        super().build_method()
        if self.judged_by_labels:
            widths = self.network.num_features, self.num_classes
            for name, width in zip(judges.SLOTS, widths, strict=True):
                self.add_slot(name, (self.judges, width))

    @property
    def judged_by_labels(self):
        """Whether the given labels judge, each after a step of the others."""
        return self.meta_objective == "noisy_mae"

    def draws(self, batch, kind):
        more = self.judges if self.judged_by_labels else 0
        return super().draws(batch, kind, more)

    def step(self, kind, forward, values, x, batch):
        if not self.judged_by_labels:
            return super().step(kind, forward, values, x, batch)
        here = forward(values["theta"], values["state"], x)
        classes = [values["slots"][name] for name in CLASS_SLOTS]
        examples = self._judges(here, values, batch, of_all=True)
        phi, meta_loss, meta_gradient = values["phi"], tf.constant(0.0), []
        if kind == "meta":
            meta_loss, meta_gradient = self._judge(
                phi, examples, batch["noise"], values["learning_rate"]
            )
            phi = self._update_weight_net(meta_gradient)
        loss = mean_cross_entropy(batch)
        if kind != "warmup":
            loss = self._shared_loss(phi, here, values, batch, classes)
        gradient = real_gradient(loss, phi, here)
        logs, slots = self.report(
            kind, loss, phi, here, batch, classes, meta_loss, meta_gradient
        )
        kept = examples.newest(self.judges)
        slots |= dict(zip(judges.SLOTS, kept, strict=True))
        return StepResult(gradient, here.state, here.logits, logs, slots)

    def _judge(self, phi, examples, noise, learning_rate):
        """The meta loss of the judges, and its gradient by the weight net."""
        if noise is not None:
            noise = noise[0, : tf.shape(examples.logits)[0]]
        rate = tf.cast(learning_rate, examples.logits.dtype)
        with tf.GradientTape() as tape:
            tape.watch(phi)
            loss = judges.verdict(self.weighting, phi, examples, noise, rate)
        return loss, tape.gradient(loss, phi, unconnected_gradients="zero")

    def _judges(self, here, values, batch, of_all=False):
        """The batch and those before it; of all replicas, whatever their losses see."""
        apart = of_all and self.is_distributed and self.batch_scope == "replica"
        gather = (Replicas() if apart else Alone()).gather
        theta, state = values["theta"], values["state"]
        return judges.judges(
            gather(here.features),
            gather(tf.stop_gradient(here.logits)),
            gather(batch["targets"]),
            [values["slots"][name] for name in judges.SLOTS],
            lambda features: self.network.head_logits(theta, state, features),
            self.weighting.class_balance,
        )

    def _shared_loss(self, phi, here, values, batch, classes):
        """L_w of the real step: weights are shared out as the judges saw them."""
        if self.weighting.masks:
            return self.weighting.loss(batch, classes)
        examples = self._judges(here, values, batch)
        size = tf.shape(batch["targets"])[0]
        weights = judges.batch_weights(self.weighting, phi, examples, size)
        weights = tf.stop_gradient(weights) * batch["sample_weight"]
        weighted = mean_cross_entropy({**batch, "sample_weight": weights})

        def training_loss(phi, features, logits, virtual):
            loss = weighted(phi, features, logits, virtual)
            if self.prior_penalty:
                loss += self.weighting.penalty(logits, classes)
            return loss

        return training_loss

    def check_logs(self, logs):
        # What judges, judges apart from the scale: weights near zero are no collapse.
        is_free = self.judged_by_labels and not self.weighting.masks
        super().check_logs({**logs, "mean_weight": 1.0} if is_free else logs)


def _check_noisy_mae(virtual_scope, feature_layer):
    if virtual_scope not in ("auto", "head"):
        raise ValueError(
            "meta_objective='noisy_mae' takes its virtual step with the last layer "
            f"alone; received virtual_scope={virtual_scope!r}: leave it at 'auto', or "
            "use meta_objective='clid'."
        )
    if feature_layer is not None:
        raise ValueError(
            "meta_objective='noisy_mae' reads the inputs of the last Dense layer; "
            f"received feature_layer={feature_layer!r}: leave it out, or use "
            "meta_objective='clid'."
        )
