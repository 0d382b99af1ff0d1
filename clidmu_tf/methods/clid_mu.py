"""CLID-MU: sample weights learnt from the agreement of features and predictions."""

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.core.labels import check_labels, to_targets
from clidmu_tf.core.losses import clid, cross_entropy, mean_absolute_error
from clidmu_tf.core.meta_gradient import meta_step, real_gradient
from clidmu_tf.engine.classifier_model import REFERENCE_TEMPERATURE, at_least_float32
from clidmu_tf.engine.distributed import mean_over_replicas
from clidmu_tf.engine.metrics import check_temperature
from clidmu_tf.engine.model import NoisyLabelModel, check_choice
from clidmu_tf.errors import TrainingDiverged
from clidmu_tf.methods.cross_entropy import mean_cross_entropy
from clidmu_tf.methods.weighting import Weighting, update_classes
from clidmu_tf.nets import weight_nets
from clidmu_tf.nets.features import virtual_variables

META_OBJECTIVES = ("clid", "cross_entropy", "mae")
VIRTUAL_SCOPES = ("all", "last_block", "head")
COLLAPSED_WEIGHT = 1e-6


@keras.saving.register_keras_serializable("clidmu_tf")
class CLIDMU(NoisyLabelModel):
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

    extra_logs = ("meta_loss", "mean_weight", "meta_grad_norm")

    def __init__(
        self,
        classifier,
        weight_net="wnet",
        meta_objective="clid",
        temperature=0.5,
        class_balance=True,
        prior_penalty=1.0,
        warmup_steps=0,
        meta_interval=1,
        virtual_scope="all",
        feature_layer=None,
        seed=None,
        **kwargs,
    ):
        check_choice("meta_objective", meta_objective, META_OBJECTIVES)
        check_choice("virtual_scope", virtual_scope, VIRTUAL_SCOPES)
        _check_at_least("prior_penalty", prior_penalty, 0)
        _check_at_least("warmup_steps", warmup_steps, 0)
        _check_at_least("meta_interval", meta_interval, 1)
        super().__init__(classifier, feature_layer, **kwargs)
        self.weight_net = weight_nets.get(weight_net)
        self.meta_objective = meta_objective
        self.temperature = check_temperature(temperature)
        self.class_balance = class_balance
        self.prior_penalty = prior_penalty
        self.warmup_steps = warmup_steps
        self.meta_interval = meta_interval
        self.virtual_scope = virtual_scope
        self.seed = seed
        self.weighting = Weighting(self.weight_net, class_balance, prior_penalty)
        self.draws = keras.random.SeedGenerator(seed)
        self.build_if_ready()

    # --- building

    def build_method(self):
        self.weight_net.build_for(self._num_features, self.num_classes)
        # Of each class: its moving mean weight, how often it was given, and its
        # moving mean prediction.
        self.class_mean = self._class_variable("class_mean", 1.0)
        self.class_count = self._class_variable("class_count", 1.0)
        self.class_prediction = self._class_variable(
            "class_prediction", 1 / self.num_classes
        )

    def _class_variable(self, name, value):
        start = keras.initializers.Constant(value)
        return self.add_weight((self.num_classes,), start, trainable=False, name=name)

    def _build_optimizers(self):
        super()._build_optimizers()
        if self.built and self.compiled:
            # Layers may have been frozen or thawed since the last compile().
            self._virtual = virtual_variables(self.classifier, self.virtual_scope)
            self.meta_optimizer.build(self.weight_net.trainable_variables)

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
        supervised = self.meta_objective != "clid"
        if supervised and not _has_labels(meta_data):
            raise ValueError(
                f"meta_objective={self.meta_objective!r} needs labelled meta data: "
                "pass meta_data=(inputs, labels), or use meta_objective='clid'."
            )
        if supervised and isinstance(meta_data, tuple) and self.built:
            check_labels(meta_data[1], self.num_classes)
        size = meta_batch_size or kwargs.get("batch_size") or 32
        self._meta_iterator = self._iterate_meta(meta_data, size)
        try:
            return super().fit(x, y, **kwargs)
        finally:
            self._meta_iterator = None

    def _iterate_meta(self, meta_data, batch_size):
        if meta_data is None:
            return None
        if isinstance(meta_data, list):  # several inputs, and no labels
            meta_data = (tuple(meta_data),)
        dataset = meta_data
        strategy = self.distribute_strategy
        distributed = isinstance(dataset, tf.distribute.DistributedDataset)
        if not isinstance(dataset, tf.data.Dataset) and not distributed:
            dataset = tf.data.Dataset.from_tensor_slices(meta_data)
            size = int(dataset.cardinality())
            dataset = dataset.shuffle(size, seed=self.seed).repeat()
            dataset = dataset.batch(min(batch_size, size), drop_remainder=True)
        elif not distributed:
            dataset = dataset.repeat()
        if self.is_distributed and not distributed:
            dataset = strategy.experimental_distribute_dataset(dataset)
        return iter(dataset)

    def step_kind(self, step):
        if step < self.warmup_steps:
            return "warmup"
        return "reuse" if (step - self.warmup_steps) % self.meta_interval else "meta"

    def train_step(self, data, meta=None, *, kind, compute):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = self.gather_batch(y, sample_weight)
        batch["noise"] = self._draw_noise(batch["targets"])
        meta_x, meta_y, _ = keras.utils.unpack_x_y_sample_weight(meta)
        if meta_y is not None:
            meta_y = self.replicas.gather(to_targets(meta_y, self.num_classes))
        gradient, state, logits, classes, logs = compute(
            self.theta(),
            self.phi(),
            self.state(),
            x,
            batch,
            x if meta_x is None else meta_x,
            meta_y,
            self._classes(),
            tf.convert_to_tensor(self.optimizer.learning_rate),
        )
        self.apply_step(gradient, state)
        classes = mean_over_replicas(classes)
        for variable, value in zip(self._class_variables(), classes, strict=True):
            variable.assign(value)
        return self.log_step(x, y, sample_weight, logits, **logs)

    def pure_step(self, kind):
        forward = self.forward()

        def step(theta, phi, state, x, batch, meta_x, meta_y, classes, learning_rate):
            loss = self.weighting.loss(batch, classes)
            meta_loss, meta_gradient = tf.constant(0.0), []
            if kind == "meta":
                gradient, state, here, meta_loss, meta_gradient, phi = meta_step(
                    forward,
                    loss,
                    self._meta_objective(meta_y),
                    self._update_weight_net,
                    theta=theta,
                    phi=phi,
                    state=state,
                    x=x,
                    meta_x=meta_x,
                    learning_rate=learning_rate,
                    virtual=self._virtual,
                )
            else:
                here = forward(theta, state, x)
                state = here.state
                if kind == "warmup":
                    loss = mean_cross_entropy(batch)
                gradient = real_gradient(loss, phi, here)
            weights = self.weighting.raw_weights(phi, here.features, here.logits, batch)
            logs = {
                "loss": loss(phi, here.features, here.logits, virtual=False),
                "clid": clid(here.features, here.logits, REFERENCE_TEMPERATURE),
                "meta_loss": meta_loss,
                "mean_weight": tf.reduce_mean(weights),
                "meta_grad_norm": tf.linalg.global_norm(meta_gradient or [0.0]),
            }
            classes = update_classes(
                classes, weights, here.logits, batch["targets"], kind
            )
            return gradient, state, here.logits, classes, logs

        return step

    def phi(self):
        """The weight net's trainable values, as tensors."""
        variables = self.weight_net.trainable_variables
        return [tf.convert_to_tensor(variable.value) for variable in variables]

    def _update_weight_net(self, gradient):
        # Keras sums over replicas, each of which holds the whole meta-gradient.
        replicas = self.distribute_strategy.num_replicas_in_sync
        self.meta_optimizer.apply(
            [slope / replicas for slope in gradient],
            self.weight_net.trainable_variables,
        )
        return self.phi()

    def _meta_objective(self, targets):
        if self.meta_objective == "clid":
            return lambda features, logits: clid(features, logits, self.temperature)
        losses = {"cross_entropy": cross_entropy, "mae": mean_absolute_error}
        loss = losses[self.meta_objective]
        return lambda features, logits: tf.reduce_mean(loss(logits, targets))

    def _draw_noise(self, targets):
        if not self.weighting.masks:
            return None
        shape = tf.concat([[2], tf.shape(targets)], axis=0)
        seed = tf.cast(self.draws.next(), "int32")
        return tf.random.stateless_normal(shape, seed, dtype=targets.dtype)

    def _class_variables(self):
        return [self.class_mean, self.class_count, self.class_prediction]

    def _classes(self):
        return [tf.convert_to_tensor(v.value) for v in self._class_variables()]

    def check_logs(self, logs):
        super().check_logs(logs)
        mean_weight = float(logs["mean_weight"])
        if mean_weight < COLLAPSED_WEIGHT:
            raise TrainingDiverged(
                f"The weights collapsed to zero (mean {mean_weight:.1e} at step "
                f"{self._step}): lower the meta learning rate, add warm-up steps, or "
                "keep class_balance=True and prior_penalty above 0."
            )

    # --- use

    def label_weights(self, x, y=None, batch_size=100):
        """How far the trained model trusts each label.

        Args:
            x: Inputs, `(n, …)`, or a `tf.data.Dataset` of batches `(x, y)`.
            y: Labels, as for `fit`; `None` with a dataset.
            batch_size: Examples at a time.

        Returns:
            `(n,)` NumPy array, zero or above, with mean one.
        """
        self._require_built()
        batches = x
        if not isinstance(x, tf.data.Dataset):
            arrays = (keras.tree.lists_to_tuples(x), np.asarray(y))
            batches = tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)

        weigh = tf.function(self.weigh, reduce_retracing=True)
        weights = np.concatenate([weigh(x, y).numpy() for x, y in batches])
        return weights / max(weights.mean(), np.finfo("float32").tiny)

    def weigh(self, x, y):
        """The weight of each label of a batch, `(n,)`, on no particular scale."""
        features, logits = map(at_least_float32, self._inside()(x, training=False))
        batch = {"targets": to_targets(y, self.num_classes)}
        weights = self.weighting.raw_weights(self.phi(), features, logits, batch)
        return self.weighting.balanced(weights, batch["targets"], self._classes())

    def get_config(self):
        names = (
            "meta_objective",
            "temperature",
            "class_balance",
            "prior_penalty",
            "warmup_steps",
            "meta_interval",
            "virtual_scope",
            "seed",
        )
        return {
            **super().get_config(),
            "weight_net": keras.saving.serialize_keras_object(self.weight_net),
            **{name: getattr(self, name) for name in names},
        }


def _has_labels(meta_data):
    if isinstance(meta_data, tf.data.Dataset | tf.distribute.DistributedDataset):
        return isinstance(meta_data.element_spec, tuple)
    return isinstance(meta_data, tuple) and len(meta_data) == 2


def _check_at_least(name, value, least):
    if not value >= least:
        raise ValueError(f"{name} must be {least} or more; received {value!r}.")
