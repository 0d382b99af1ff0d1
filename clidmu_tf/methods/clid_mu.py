"""CLID-MU: sample weights learnt from the agreement of features and predictions."""

from typing import Annotated

import keras
import tensorflow as tf

from clidmu_tf.core.meta_gradient import real_gradient
from clidmu_tf.engine.distributed import Alone, Replicas
from clidmu_tf.engine.given import positions_of
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

# Of a WNet that given labels judge: it starts by trusting all of them alike, and leaves
# each a little weight, since a class that lost all of its own could not win it back.
JUDGED = {"starts_even": True, "least": 1e-3}


# What `inner` may name; `clid_mu_inner` says what each comes to.
INNERS = ("none", "co_teaching", "dividemix", "fixmatch", "flexmatch", "uda")


@keras.saving.register_keras_serializable("clidmu_tf")
class CLIDMU(Reweighting):
    """Trains a Keras classifier on noisy labels, with no clean label.

    A small weight net makes a weight of each label's loss. Each step moves a copy of
    the classifier along the weighted loss (the virtual step), judges what came of it,
    and improves the weight net through that; then the classifier takes its real step
    with the new weights. What judges is `meta_objective`:

    - `"noisy_mae"`, the default for a `WNet`: the given labels of the batch and of the
      last examples before it, right or wrong, by their mean absolute error, each after
      a virtual step of the last layer that all the others take. The error is symmetric,
      so that wrong labels cancel, and no label speaks for itself. It needs no second
      pass and no further data. The weights count the more, the more the classifier
      knows, by the labels beyond chance; one that knows nothing trains as without them.
    - `"clid"`, the paper's: how well features and predictions agree, without a label.
      With `virtual_scope="all", class_balance=False, prior_penalty=0.0` it is the paper
      to the letter. On data that are hard to learn it does harm unless the meta
      learning rate is low and a warm-up comes first.
    - `"cross_entropy"` or `"mae"` of labelled `meta_data`: an oracle, if these are
      right.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer, with
            or without a softmax.
        weight_net: `"wnet"`, `"vri"`, or an instance of `WNet` or `VRI`.
        meta_objective: One of the above; `"auto"` is `"noisy_mae"` with a `WNet`, a
            `virtual_scope` of `"auto"` or `"head"` and no `feature_layer`, else
            `"clid"`.
        temperature: Of CLID, above 0.
        class_balance: Whether each given class keeps its share of the total
            weight. `VRI` masks logits and has no such weight; it is left out there.
        prior_penalty: Weight λ ≥ 0 of KL(given labels' shares ‖ mean prediction). The
            mean is the batch's, and with less than ten examples a class in a batch a
            moving average over as many. Where the given labels judge, it counts as
            far as the classifier is sure of what it has learnt.
        warmup_steps: Steps of plain cross-entropy before the first meta step.
        meta_interval: A meta update every so many steps; the steps between reuse
            the weight net as it is. 1 is the paper.
        virtual_scope: Which weights the virtual step moves: `"all"` (the paper),
            `"last_block"` or `"head"`, cheaper approximations; `"auto"` is `"head"`
            where the given labels judge, else `"all"`.
        judges: Examples before the batch that judge beside it, 0 or more.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of the draws that VRI samples.
        inner: A method whose labels are weighed, judged by CLID: `"co_teaching"`,
            `"dividemix"`, `"fixmatch"`, `"flexmatch"` or `"uda"`; `"none"` for plain
            training. It brings its own settings: `CLIDMU(classifier,
            inner="fixmatch", threshold=0.9)`.
        full_trust: Whether the weights count in full from the first step, however
            little the classifier knows: for one that, without dropout or augmentation,
            learns labels by heart within a few epochs. On data that are hard to learn
            it does harm.

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
        this package's; the penalty is DivideMix's (Li et al., ICLR 2020). That given
        labels can judge by a symmetric loss is shown by Ghosh and Lan, "Do We Really
        Need Gold Samples for Sample Weighting under Label Noise?", WACV 2021; that
        each is judged by a step of the others is this package's.
    """

    # The class of each inner method, by its name.
    joined: dict[str, type] = {}
    inner = "none"

    def __new__(cls, *args, inner="none", **kwargs):
        cls = cls.joined.get(inner, cls) if cls is CLIDMU else cls
        own = {} if cls in cls.joined.values() else {"inner": inner}
        return super().__new__(cls, *args, **own, **kwargs)

    def __init__(
        self,
        classifier,
        weight_net: WeightNet = "wnet",
        meta_objective: MetaObjective = "auto",
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
        *,
        inner: Annotated[
            str,
            Setting("Method whose labels are weighed, too.", INNERS, flag="inner"),
        ] = "none",
        full_trust: Annotated[
            bool,
            Setting("Weights count in full from the first step, under noisy_mae."),
        ] = False,
        **kwargs,
    ):
        obstacle = _obstacle(weight_net, virtual_scope, feature_layer)
        if meta_objective == "noisy_mae" and obstacle:
            raise ValueError(
                "meta_objective='noisy_mae' takes its virtual step with the last layer "
                f"and the weights of a WNet; received {obstacle}: leave it out, or use "
                "meta_objective='clid'."
            )
        if weight_net == "wnet" and meta_objective in ("auto", "noisy_mae"):
            weight_net = WNet() if obstacle else WNet(**JUDGED)
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
            full_trust=full_trust,
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
            self.add_slot("trust", ())

    @classmethod
    def takes_meta_data(cls, settings):
        return not _labels_judge(**settings)

    @property
    def judged_by_labels(self):
        """Whether the given labels judge, each after a step of the others."""
        return _labels_judge(
            self.meta_objective,
            self.weight_net,
            self.virtual_scope,
            self.feature_layer,
        )

    @positions_of(keras.Model.fit)
    def fit(self, x=None, y=None, *, meta_data=None, **kwargs):
        """As `Reweighting.fit`."""
        if self.judged_by_labels and meta_data is not None:
            raise ValueError(
                "meta_data= is for other meta objectives: under 'noisy_mae' the given "
                "labels judge. Leave it out, or use meta_objective='clid'."
            )
        return super().fit(x, y, meta_data=meta_data, **kwargs)

    def step(self, kind, forward, values, x, batch):
        if not self.judged_by_labels:
            return super().step(kind, forward, values, x, batch)
        here = forward(values["theta"], values["state"], x)
        classes = [values["slots"][name] for name in CLASS_SLOTS]
        examples = self._judges(here, values, batch)
        trust, sureness = judges.standing(examples)
        if self.full_trust:
            trust = tf.ones_like(trust)
        batch = {**batch, "trust": trust, "sureness": sureness}
        phi, meta_loss, meta_gradient = values["phi"], tf.constant(0.0), []
        if kind == "meta":
            meta_loss, meta_gradient = self._judge(
                phi, examples, trust, classes, values["learning_rate"]
            )
            phi = self._update_weight_net(meta_gradient)
        loss = mean_cross_entropy(batch)
        if kind != "warmup":
            loss = self.weighting.loss(batch, classes)
        gradient = real_gradient(loss, phi, here)
        logs, slots = self.report(
            kind, loss, phi, here, batch, classes, meta_loss, meta_gradient
        )
        kept = examples.newest(self.judges)
        slots |= dict(zip(judges.SLOTS, kept, strict=True)) | {"trust": trust}
        return StepResult(gradient, here.state, here.logits, logs, slots)

    def beside_weights(self):
        slot = self.slots.get("trust")
        return {} if slot is None else {"trust": tf.convert_to_tensor(slot.value)}

    def _judge(self, phi, examples, trust, classes, learning_rate):
        """The meta loss of the judges, and its gradient by the weight net."""
        rate = tf.cast(learning_rate, examples.logits.dtype)
        rate *= self.network.moving_logits
        with tf.GradientTape() as tape:
            tape.watch(phi)
            loss = judges.verdict(
                *(self.weighting, phi, examples, trust, classes, rate),
                has_bias=self.network.has_bias,
            )
        return loss, tape.gradient(loss, phi, unconnected_gradients="zero")

    def _judges(self, here, values, batch):
        """The batch and those before it, of all replicas whatever their losses see."""
        apart = self.is_distributed and self.batch_scope == "replica"
        gather = (Replicas() if apart else Alone()).gather
        theta, state = values["theta"], values["state"]
        # A label of no weight judges nothing: its row is empty.
        counts = tf.cast(batch["sample_weight"] > 0, batch["targets"].dtype)
        targets = batch["targets"] * counts[:, None]
        return judges.judges(
            gather(here.features),
            gather(tf.stop_gradient(here.logits)),
            gather(targets),
            [values["slots"][name] for name in judges.SLOTS],
            lambda features: self.network.head_logits(theta, state, features),
        )


def _labels_judge(
    meta_objective, weight_net, virtual_scope, feature_layer=None, **others
):
    if meta_objective == "auto":
        return _obstacle(weight_net, virtual_scope, feature_layer) is None
    return meta_objective == "noisy_mae"


def _obstacle(weight_net, virtual_scope, feature_layer):
    """What keeps the given labels from judging, as it was received; or `None`."""
    if weight_net != "wnet" and not isinstance(weight_net, WNet):
        return f"weight_net={weight_net!r}"
    if virtual_scope not in ("auto", "head"):
        return f"virtual_scope={virtual_scope!r}"
    return feature_layer and f"feature_layer={feature_layer!r}"
