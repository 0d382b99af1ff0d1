"""What all methods with a weight net share: the meta step around their objective."""

import logging
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.core.labels import check_labels, to_targets
from clidmu_tf.core.losses import clid, cross_entropy, mean_absolute_error
from clidmu_tf.core.meta_gradient import meta_step, real_gradient
from clidmu_tf.engine.examples import batch_size_of
from clidmu_tf.engine.given import positions_of, refuse_loss
from clidmu_tf.engine.method import Method, StepResult
from clidmu_tf.engine.network import values_of
from clidmu_tf.engine.settings import Setting
from clidmu_tf.errors import TrainingDiverged
from clidmu_tf.methods.cross_entropy import mean_cross_entropy
from clidmu_tf.methods.weighting import Weighting, update_classes
from clidmu_tf.nets import weight_nets
from clidmu_tf.nets.features import virtual_variables

logger = logging.getLogger(__name__)

META_OBJECTIVES = ("auto", "noisy_mae", "clid", "cross_entropy", "mae")
VIRTUAL_SCOPES = ("auto", "all", "last_block", "head")
WEIGHT_NETS = ("wnet", "vri")
COLLAPSED_WEIGHT = 1e-6
# A class is about to be lost when its mean prediction falls below this part of the
# examples that it is given to.
LOST_SHARE = 0.1
# Of each class: its moving mean weight, how often it was given, and its moving mean
# prediction.
CLASS_SLOTS = ("class_mean", "class_count", "class_prediction")


# The settings of all methods with a weight net, under the flags that they share.
WeightNet = Annotated[
    str, Setting("Weight network.", WEIGHT_NETS, search=WEIGHT_NETS, flag="weight_net")
]
MetaObjective = Annotated[
    str,
    Setting(
        "What judges the virtual step: noisy_mae, the given labels, each after a step "
        "of the others; clid; or cross_entropy or mae of the true labels of the meta "
        "examples (an oracle). auto: noisy_mae where it can be, else clid.",
        META_OBJECTIVES,
        flag="meta_objective",
    ),
]
Temperature = Annotated[
    float, Setting("Temperature of CLID.", above=0, search=5, flag="temperature")
]
ClassBalance = Annotated[
    bool, Setting("Each given class keeps its share of weight.", flag="class_balance")
]
PriorPenalty = Annotated[
    float,
    Setting("Weight of KL(prior || mean prediction).", least=0, flag="prior_penalty"),
]
WarmupSteps = Annotated[
    int,
    Setting(
        "Epochs of plain cross-entropy first.",
        least=0,
        flag="warmup_epochs",
        in_epochs=True,
    ),
]
MetaInterval = Annotated[
    int, Setting("A meta update every so many steps.", least=1, flag="meta_interval")
]
VirtualScope = Annotated[
    str,
    Setting(
        "Weights that the virtual step moves; auto: head of noisy_mae, else all.",
        VIRTUAL_SCOPES,
        flag="virtual_scope",
    ),
]


class Reweighting(Method):
    """A classifier whose loss a weight net reweights, itself taught by a meta loss.

    Each step moves a copy of the classifier along the weighted loss (the virtual
    step), measures the meta objective there, and improves the weight net through
    that; then the classifier takes its real step with the new weights.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer, with
            or without a softmax.
        weight_net: `"wnet"`, `"vri"`, or an instance of `WNet` or `VRI`.
        meta_objective: What judges the virtual step: `"clid"`, or of labelled meta
            data `"cross_entropy"` or `"mae"`.
        temperature: Of CLID, above 0.
        class_balance: Whether each given class keeps its share of the total weight.
        prior_penalty: Weight λ ≥ 0 of KL(given labels' shares ‖ mean prediction).
        warmup_steps: Steps of plain cross-entropy before the first meta step.
        meta_interval: A meta update every so many steps.
        virtual_scope: Which weights the virtual step moves.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of what the method draws.
        **kwargs: As for `keras.Model`.
    """

    extra_logs: tuple[str, ...] = ("meta_loss", "mean_weight", "meta_grad_norm")
    takes_meta_optimizer = True
    is_random = True  # VRI samples
    # How the weight net enters the loss.
    weighting_type = Weighting
    numbered_variables = CLASS_SLOTS

    def __init__(
        self,
        classifier,
        *,
        weight_net: WeightNet,
        meta_objective: MetaObjective,
        temperature: Temperature = 0.5,
        class_balance: ClassBalance,
        prior_penalty: PriorPenalty,
        warmup_steps: WarmupSteps,
        meta_interval: MetaInterval,
        virtual_scope: VirtualScope,
        feature_layer=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            classifier,
            feature_layer=feature_layer,
            seed=seed,
            weight_net=weight_nets.get(weight_net),
            meta_objective=meta_objective,
            temperature=temperature,
            class_balance=class_balance,
            prior_penalty=prior_penalty,
            warmup_steps=warmup_steps,
            meta_interval=meta_interval,
            virtual_scope=virtual_scope,
            **kwargs,
        )

    # --- building

    def build_method(self):
        # First, as version 0.1 had them.
        for name, value in zip(
            CLASS_SLOTS, (1.0, 1.0, 1 / self.num_classes), strict=True
        ):
            self.add_slot(name, (self.num_classes,), value)
        super().build_method()
        self._lost = np.zeros(self.num_classes, bool)  # classes that were warned of
        self.weighting = self.weighting_type(
            self.weight_net, self.class_balance, self.prior_penalty
        )
        self.weight_net.build_for(self.network.num_features, self.num_classes)

    def parts(self):
        return {**super().parts(), "weight_net": self.weight_net}

    def _build_optimizers(self):
        super()._build_optimizers()
        if self.built and self.compiled:
            # Layers may have been frozen or thawed since the last compile().
            scope = "all" if self.virtual_scope == "auto" else self.virtual_scope
            self._virtual = virtual_variables(self.classifier, scope)
            self.meta_optimizer.build(self.meta_variables)

    @property
    def meta_variables(self):
        """What the meta optimizer moves."""
        return self.weight_net.trainable_variables

    def compile(self, optimizer="sgd", meta_optimizer=None, **kwargs):
        """Configures training.

        Args:
            optimizer: Keras optimizer of the classifier. The virtual step is plain
                SGD at its current learning rate.
            meta_optimizer: Keras optimizer of the weight net; `None` for
                `Adam(1e-3)`. Its learning rate matters most of all settings.
            **kwargs: `metrics`, `weighted_metrics`, `jit_compile`, `batch_scope`,
                `run_eagerly`, as for `NoisyLabelModel.compile`.
        """
        refuse_loss(meta_optimizer, "meta_optimizer")
        if meta_optimizer is None:
            meta_optimizer = keras.optimizers.Adam(1e-3)
        # Two equal names make two optimizers; one optimizer is one.
        optimizer = keras.optimizers.get(optimizer)
        self.meta_optimizer = keras.optimizers.get(meta_optimizer)
        if self.meta_optimizer is optimizer:
            raise ValueError(
                "optimizer and meta_optimizer must be two objects, since each keeps "
                f"the state of its own weights; received {optimizer!r} twice."
            )
        super().compile(optimizer, **kwargs)
        self._compile_arguments["meta_optimizer"] = self.meta_optimizer

    # --- training

    @positions_of(keras.Model.fit)
    def fit(self, x=None, y=None, *, meta_data=None, meta_batch_size=None, **kwargs):
        """As `keras.Model.fit`, with data for the meta objective.

        Args:
            x: Training inputs, or a `tf.data.Dataset` of batches.
            y: The given labels: `(n,)`, `(n, 1)`, or one-hot or soft `(n, C)`.
            meta_data: Inputs for the meta objective (an array, a list or dict of
                several, or a dataset of batches); `(inputs, labels)` for a supervised
                one. `None` takes the batch's own inputs.
            meta_batch_size: Examples of `meta_data` a step; `None` for `batch_size`.
            **kwargs: As for `keras.Model.fit`.
        """
        if self.is_supervised and not _has_labels(meta_data):
            raise ValueError(
                f"{type(self).__name__} with meta_objective={self.meta_objective!r} "
                "needs labelled meta data: pass meta_data=(inputs, labels) with right "
                "labels, or use CLIDMU with meta_objective='clid'."
            )
        if self.is_supervised and isinstance(meta_data, tuple) and self.built:
            meta_data = meta_data[0], self.indices(meta_data[1])
            check_labels(meta_data[1], self.num_classes)
        self.meta_batch_size = meta_batch_size or kwargs.get("batch_size") or 32
        check_sizes(kwargs.get("batch_size"), meta_batch_size, x, meta_data)
        streams = dict(kwargs.pop("streams", None) or {})
        if meta_data is not None:
            streams["meta"] = self._meta_dataset(meta_data, self.meta_batch_size)
        return super().fit(x, y, streams=streams, **kwargs)

    @classmethod
    def takes_meta_data(cls, settings):
        return not cls.reads_examples

    @property
    def is_supervised(self):
        return self.wants_clean_labels({"meta_objective": self.meta_objective})

    def _meta_dataset(self, meta_data, batch_size):
        """Endless batches of the meta data, in whatever form they came."""
        if isinstance(meta_data, tf.distribute.DistributedDataset):
            return meta_data
        if isinstance(meta_data, tf.data.Dataset):
            return meta_data.repeat()
        if isinstance(meta_data, list):  # several inputs, and no labels
            meta_data = (tuple(meta_data),)
        dataset = tf.data.Dataset.from_tensor_slices(meta_data)
        size = int(dataset.cardinality())
        dataset = dataset.shuffle(size, seed=self.seed).repeat()
        return dataset.batch(min(batch_size, size), drop_remainder=True)

    def step_kind(self, step):
        if step < self.warmup_steps:
            return "warmup"
        return "reuse" if (step - self.warmup_steps) % self.meta_interval else "meta"

    def draws(self, batch, kind):
        if not self.weighting.masks:
            return {"noise": None}
        shape = tf.concat([[2], tf.shape(batch["targets"])], axis=0)
        seed = tf.cast(self.generator.next(), "int32")
        normal = tf.random.stateless_normal(shape, seed, dtype=batch["targets"].dtype)
        return {"noise": normal}

    def values(self):
        found = super().values()
        if self.num_networks == 1:
            found["phi"] = values_of(self.weight_net.trainable_variables)
        return found

    def step(self, kind, forward, values, x, batch):
        classes = [values["slots"][name] for name in CLASS_SLOTS]
        loss = self.weighting.loss(batch, classes)
        phi, meta_loss, meta_gradient = values["phi"], tf.constant(0.0), []
        if kind == "meta":
            meta = batch.get("meta", {"x": x})
            gradient, state, here, meta_loss, meta_gradient, phi = meta_step(
                forward,
                loss,
                self.meta_objective_of(meta.get("targets")),
                self._update_weight_net,
                theta=values["theta"],
                phi=phi,
                state=values["state"],
                x=x,
                meta_x=meta["x"],
                learning_rate=values["learning_rate"],
                virtual=self._virtual,
            )
        else:
            here = forward(values["theta"], values["state"], x)
            state = here.state
            if kind == "warmup":
                loss = mean_cross_entropy(batch)
            gradient = real_gradient(loss, phi, here)
        logs, slots = self.report(
            kind, loss, phi, here, batch, classes, meta_loss, meta_gradient
        )
        return StepResult(gradient, state, here.logits, logs, slots)

    def report(self, kind, loss, phi, here, batch, classes, meta_loss, meta_gradient):
        """What a step logs, and what it leaves known of each class."""
        weights = self.weighting.raw_weights(phi, here.features, here.logits, batch)
        logs = {
            "loss": loss(phi, here.features, here.logits, virtual=False),
            **self.reference_logs(here),
            "meta_loss": meta_loss,
            "mean_weight": tf.reduce_mean(weights),
            "meta_grad_norm": tf.linalg.global_norm(meta_gradient or [0.0]),
        }
        classes = update_classes(classes, weights, here.logits, batch["targets"], kind)
        return logs, dict(zip(CLASS_SLOTS, classes, strict=True))

    def _update_weight_net(self, gradient):
        # Keras sums over replicas, each of which holds the whole meta-gradient.
        replicas = self.distribute_strategy.num_replicas_in_sync
        variables = self.meta_variables
        self.meta_optimizer.apply([slope / replicas for slope in gradient], variables)
        return values_of(variables)

    def meta_objective_of(self, targets):
        """The meta objective of features and logits, given the meta labels if any."""
        if self.meta_objective in ("auto", "clid"):
            return lambda features, logits: clid(features, logits, self.temperature)
        losses = {"cross_entropy": cross_entropy, "mae": mean_absolute_error}
        loss = losses[self.meta_objective]
        return lambda features, logits: tf.reduce_mean(loss(logits, targets))

    def check_logs(self, logs):
        super().check_logs(logs)
        mean_weight = float(logs["mean_weight"])
        if mean_weight < COLLAPSED_WEIGHT:
            raise TrainingDiverged(
                f"The weights collapsed to zero (mean {mean_weight:.1e} at step "
                f"{self._step}): {self._remedy()}."
            )

    def leave_epoch(self):
        super().leave_epoch()
        _, given, predicted = (np.asarray(values) for values in self.classes())
        given = given / given.sum()
        lost = predicted < LOST_SHARE * given
        for label in np.flatnonzero(lost & ~self._lost):
            logger.warning(
                "Class %d is given to %.1f %% of the examples, predicted of %.2f %%, "
                "so that the network is about to write it off: %s.",
                *(label, 100 * given[label], 100 * predicted[label], self._remedy()),
            )
        self._lost |= lost

    def _remedy(self):
        """What there is to do against weights that go astray, as things are set."""
        if not self.class_balance and not self.weighting.masks:
            return "keep class_balance=True"
        if not self.prior_penalty:
            return "keep prior_penalty=1.0"
        if not self.warmup_steps:
            return "add warm-up steps, or lower the meta learning rate"
        return "lower the meta learning rate, or compare with CrossEntropy"

    # --- use

    def weigh(self, x, y):
        """The weight of each label of a batch, `(n,)`, on no particular scale."""
        features, logits = self.network(x)
        batch = {"targets": to_targets(y, self.num_classes), **self.beside_weights()}
        phi = values_of(self.weight_net.trainable_variables)
        weights = self.weighting.raw_weights(phi, features, logits, batch)
        return self.weighting.balanced(weights, batch["targets"], self.classes())

    def beside_weights(self):
        """What weights go by, beside losses and labels, as training left it."""
        return {}

    def classes(self):
        """Of each class: its mean weight, how often it was given, how predicted."""
        return values_of(self.slots[name] for name in CLASS_SLOTS)


def check_sizes(batch_size, meta_batch_size, x=None, meta_data=None):
    """Refuses batches of one, of which nothing can be learnt about a weight.

    Weights count relative to each other in a batch, and CLID compares its examples.

    Args:
        batch_size: Examples a batch; `None` where that is left to others.
        meta_batch_size: The same of the meta data.
        x: What is trained on, arrays or batches.
        meta_data: The same of the meta data.
    """
    named = (
        ("batch_size", batch_size, x),
        ("meta_batch_size", meta_batch_size, meta_data),
    )
    for name, size, data in named:
        if batch_size_of(data, {"batch_size": size}) == 1:
            raise ValueError(
                f"{name} must be 2 or more, since weights count relative to each other "
                "in a batch; received 1."
            )


def _has_labels(meta_data):
    if isinstance(meta_data, tf.data.Dataset | tf.distribute.DistributedDataset):
        return isinstance(meta_data.element_spec, tuple)
    return isinstance(meta_data, tuple) and len(meta_data) == 2
