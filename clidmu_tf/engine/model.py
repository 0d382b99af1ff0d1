"""How Keras compiles, runs and watches the training steps of any method."""

import functools
import logging

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.core.meta_gradient import local_forward
from clidmu_tf.engine.classifier_model import ClassifierModel
from clidmu_tf.engine.distributed import (
    Alone,
    Replicas,
    distributed_forward,
)
from clidmu_tf.engine.given import refuse_keras_arguments, refuse_loss
from clidmu_tf.errors import TrainingDiverged
from clidmu_tf.nets.features import returns_single_logit

logger = logging.getLogger(__name__)

CHECK_EVERY = 50
JIT_CHOICES = ("auto", True, False)
BATCH_SCOPES = ("global", "replica")


class NoisyLabelModel(ClassifierModel):
    """A Keras classifier trained by one of this package's methods.

    A subclass says what one training step is (`train_step`, around the pure function
    of tensors that `pure_step` returns) and what comes before an epoch. This class
    compiles the step, runs it under whatever strategy there is, hands it what other
    data it asks for, and stops where it diverges.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
    """

    # Whether a step compiles its pieces itself, by `once`, for several networks.
    in_pieces = False
    # What a training step logs besides the loss and CLID.
    extra_logs: tuple[str, ...] = ()

    def __init__(self, classifier, feature_layer=None, **kwargs):
        super().__init__(classifier, feature_layer, **kwargs)
        means = {name: keras.metrics.Mean(name) for name in self.extra_logs}
        self._trackers = {"clid": self._clid_tracker, **means}
        self._streams = {}

    # --- compiling

    def _build_inside(self):
        super()._build_inside()
        self._build_optimizers()

    def _build_optimizers(self):
        if self.built and self.compiled:
            self.optimizer.build(self.trained_variables)

    def build_copies(self):
        self.networks = [self.network]

    @property
    def trained_variables(self):
        """The variables of θ of all networks."""
        return [v for network in self.networks for v in network.trainable_variables]

    def compile(
        self,
        optimizer="sgd",
        metrics=None,
        weighted_metrics=None,
        jit_compile="auto",
        batch_scope="global",
        run_eagerly=False,
        **kwargs,
    ):
        """Configures training.

        Args:
            optimizer: Keras optimizer of the classifier. The virtual step uses
                its current learning rate.
            metrics: Keras metrics of labels and class scores.
            weighted_metrics: The same, weighted by `sample_weight`.
            jit_compile: Whether XLA compiles the step: `True`, `False`, or
                `"auto"`, which compiles where there is a GPU.
            batch_scope: What the losses of a batch see under a `tf.distribute`
                strategy: `"global"`, the batch of all replicas, so that the update
                is that of one device; or `"replica"`, each replica's own part,
                which saves two all-reduces a step.
            run_eagerly: Runs the step without a graph, for debugging.
        """
        refuse_keras_arguments(kwargs)
        refuse_loss(metrics, "metrics")
        check_choice("jit_compile", jit_compile, JIT_CHOICES)
        check_choice("batch_scope", batch_scope, BATCH_SCOPES)
        super().compile(
            optimizer=optimizer,
            metrics=self._counted_from_zero(metrics),
            weighted_metrics=self._counted_from_zero(weighted_metrics),
            # Keras would put XLA around strategy.run, which fails with two
            # replicas; the pure function inside is what gets compiled.
            jit_compile=False,
            run_eagerly=run_eagerly,
        )
        self.jit_requested = jit_compile
        self.batch_scope = batch_scope
        jit = _has_gpu() if jit_compile == "auto" else jit_compile
        self._jit = jit and not run_eagerly
        self._compile_arguments = {
            "optimizer": self.optimizer,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
            "jit_compile": jit_compile,
            "batch_scope": batch_scope,
            "run_eagerly": run_eagerly,
        }
        self._build_optimizers()

    def _counted_from_zero(self, metrics):
        """Metrics in which the accuracy of a single logit is counted as it should be.

        Keras would call it the second class above one half, where it is a logit.
        """
        is_list = isinstance(metrics, list | tuple)
        if not is_list or not returns_single_logit(self.classifier):
            return metrics
        names = ("accuracy", "acc", "binary_accuracy")
        return [
            keras.metrics.MeanMetricWrapper(_accuracy_of_logits, name=metric)
            if metric in names
            else metric
            for metric in metrics
        ]

    def _say_how_steps_run(self):
        logger.info(
            "XLA is %s (jit_compile=%r, %s).",
            "on" if self._jit else "off",
            self.jit_requested,
            "a GPU" if _has_gpu() else "no GPU",
        )
        pooling = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D)
        if self._jit and any(
            isinstance(layer, pooling) for layer in self.classifier._flatten_layers()
        ):
            logger.warning(
                "XLA differentiates max pooling twice at 16 bits and may pick another "
                "element; use average pooling or strides, or jit_compile=False."
            )

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Metrics must be built before a strategy runs a step. Keras averages the
        # first batch over replicas to see its shapes, which fails with several
        # workers; one replica's part shows them as well.
        if not self.is_distributed:
            return
        if iterator is not None:
            batch = next(next(iter(iterator))[2])
            data_batch = keras.tree.map_structure(
                lambda v: self.distribute_strategy.experimental_local_results(v)[0],
                batch,
            )
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    # --- training

    def fit(self, x=None, y=None, *, streams=None, **kwargs):
        """As `keras.Model.fit`.

        Args:
            x: Inputs, or a dataset of batches `(inputs, labels)`.
            y: Labels, with inputs.
            streams: Further endless datasets by name, of which every step gets a batch.
            **kwargs: As for `keras.Model.fit`.
        """
        callbacks = kwargs.pop("callbacks", None) or []
        if isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        self._streams = self._iterate(streams or {})
        try:
            # First, so that no other callback saves what diverged.
            return super().fit(x, y, callbacks=[_Conductor(), *callbacks], **kwargs)
        finally:
            self._streams = {}

    def _iterate(self, datasets):
        """Iterators of datasets by name, over the replicas where there are several."""
        distribute = self.distribute_strategy.experimental_distribute_dataset
        known = tf.distribute.DistributedDataset
        if self.is_distributed:
            datasets = {
                name: data if isinstance(data, known) else distribute(data)
                for name, data in datasets.items()
            }
        return {name: iter(dataset) for name, dataset in datasets.items()}

    def enter_epoch(self):
        """What a method does before an epoch's first step."""

    def leave_epoch(self):
        """What a method does after an epoch's last step."""

    def pure_step(self, kind):
        """Returns the step of this kind as a pure function of tensors."""
        raise NotImplementedError

    def step_kind(self, step):
        """Names the kind of training step number `step`, counted from 0."""
        return "train"

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self._say_how_steps_run()
            self._steps = {}
        # Read at the first step: a callback may yet restore the optimizer.
        self._step = None
        self.train_function = self._train_on_next

    def _train_on_next(self, iterator):
        if self._step is None:
            self._require_built()
            self._step = int(self.optimizer.iterations.numpy())
        kind = self.step_kind(self._step)
        if kind not in self._steps:
            self._steps[kind] = self._make_step(kind)
        logs = self._steps[kind](iterator, self._streams)
        if self._step % CHECK_EVERY == 0:
            self.check_logs(logs)
        self._step += 1
        return logs

    def _make_step(self, kind):
        strategy = self.distribute_strategy
        step = functools.partial(self.train_step, kind=kind, compute=self.compute(kind))

        @tf.autograph.experimental.do_not_convert
        def on_data(data, others):
            logs = strategy.run(step, args=(data, others))
            return {
                name: tf.reduce_mean(tf.stack(strategy.experimental_local_results(v)))
                for name, v in logs.items()
            }

        @tf.autograph.experimental.do_not_convert
        def on_iterators(iterator, streams):
            others = {name: stream.get_next() for name, stream in streams.items()}
            return on_data(iterator.get_next(), others)

        if not self.run_eagerly:
            on_data = tf.function(on_data, reduce_retracing=True)
            on_iterators = tf.function(on_iterators, reduce_retracing=True)

        def on_next(iterator, streams):
            iterators = (tf.data.Iterator, tf.distribute.DistributedIterator)
            if isinstance(iterator, iterators):
                return on_iterators(iterator, streams)
            # train_on_batch hands over a generator.
            return on_data(next(iterator), {})

        on_next.traced = on_iterators
        return on_next

    def compute(self, kind):
        """Returns the pure function of a step of this kind, compiled if asked for."""
        function = self.pure_step(kind)
        texts = any(tensor.dtype == "string" for tensor in self.classifier.inputs)
        whole = self._jit and not (self.is_distributed or self.in_pieces or texts)
        if not whole:
            return function
        # Without AutoGraph, as elsewhere: it would wrap what a step raises in a page.
        return tf.function(function, jit_compile=True, autograph=False)

    def piece(self):
        """How a step that talks to other replicas compiles what lies in between."""
        apart = self.is_distributed and self._jit
        return functools.partial(tf.function, jit_compile=True) if apart else _as_it_is

    def once(self, function):
        """A piece of a step that several networks take, traced and compiled once.

        Args:
            function: A pure function of tensors.
        """
        # A function can't hold a talk between replicas; those trace it for each.
        if self.is_distributed or self.run_eagerly:
            return function
        return tf.function(function, jit_compile=self._jit, autograph=False)

    def forward(self):
        """Returns how a step goes forward here: `(theta, state, x) → Forward`."""
        if not self.is_distributed:
            return local_forward(self.network.apply)
        return distributed_forward(self.network.apply, self.replicas, self._jit)

    @property
    def replicas(self):
        """Whom the losses of a batch talk to: all replicas, or nobody."""
        together = self.is_distributed and self.batch_scope == "global"
        return Replicas() if together else Alone()

    def check_logs(self, logs):
        """Raises `TrainingDiverged` where a step's logs show that it failed."""
        loss = float(logs["loss"])
        if not np.isfinite(loss):
            raise TrainingDiverged(
                f"The loss is {loss} at step {self._step}: lower the learning rate "
                "(and the meta learning rate), or look for labels outside "
                f"0 to {self.num_classes - 1} and for NaN among the inputs."
            )

    @property
    def is_distributed(self):
        """Whether the model was made under a `tf.distribute` strategy."""
        return self._distribute_strategy is not None

    def _regularised(self, gradient):
        """Adds the slopes of the layers' weight regularisers, which read no data."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        gradient = list(gradient)
        for i, variable in enumerate(self.trained_variables):
            if variable.regularizer is not None:
                value = tf.convert_to_tensor(variable.value)
                with tf.GradientTape() as tape:
                    tape.watch(value)
                    penalty = variable.regularizer(value)
                gradient[i] += tape.gradient(penalty, value) / replicas
        return gradient

    def log_step(self, x, y, sample_weight, logits, loss, **values):
        """Updates the metrics of a training step and returns what they say."""
        logits = self.replicas.scatter(logits, self.replicas.rows(y))
        self._loss_tracker.update_state(loss)
        for name, value in values.items():
            self._trackers[name].update_state(value)
        logs = {"loss": self._loss_tracker.result()}
        logs |= {name: metric.result() for name, metric in self._trackers.items()}
        return logs | self.compute_metrics(x, y, self._scores(logits), sample_weight)

    # --- saving

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            name: keras.saving.serialize_keras_object(value)
            for name, value in self._compile_arguments.items()
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))


class _Conductor(keras.callbacks.Callback):
    """Tells the method of every epoch, and checks its logs, however short it is."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.enter_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self.model.check_logs(logs)
        self.model.leave_epoch()


def _accuracy_of_logits(y_true, y_pred):
    y_pred = keras.ops.cast(y_pred > 0, y_pred.dtype)
    return keras.metrics.binary_accuracy(y_true, y_pred)


def _as_it_is(function):
    return function


def input_shape(x):
    """The shape of inputs or of a dataset's, `None` where there are several."""
    spec = x.element_spec if isinstance(x, tf.data.Dataset) else x
    spec = spec[0] if isinstance(spec, tuple) else spec
    shape = getattr(spec, "shape", None)
    return None if shape is None else (None, *shape[1:])


def check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}; received {value!r}.")


def _has_gpu():
    return bool(tf.config.list_logical_devices("GPU"))
