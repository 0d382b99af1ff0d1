"""What every method shares: a classifier seen from inside, and Keras's plumbing."""

import functools
import logging

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.distributed import (
    Alone,
    Replicas,
    distributed_forward,
    mean_over_replicas,
)
from clidmu_tf.errors import TrainingDiverged
from clidmu_tf.features import ends_in_softmax, features_and_logits, head_of
from clidmu_tf.labels import check_labels, to_targets
from clidmu_tf.losses import clid, cross_entropy
from clidmu_tf.meta_gradient import local_forward

logger = logging.getLogger(__name__)

# CLID values compare only at one temperature; what is logged uses this one.
REFERENCE_TEMPERATURE = 0.5
CHECK_EVERY = 50
JIT_CHOICES = ("auto", True, False)
BATCH_SCOPES = ("global", "replica")


class NoisyLabelModel(keras.Model):
    """A Keras classifier trained by one of this package's methods.

    Subclasses say what one training step is (`train_step`); this class gives
    them the classifier's features and logits, and gives Keras the rest: build,
    compile, metrics, evaluation, saving and export.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
    """

    extra_logs: tuple[str, ...] = ("clid",)

    def __init__(self, classifier, feature_layer=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(classifier, keras.Model):
            raise ValueError(
                f"classifier must be a keras.Model; received {type(classifier)}."
            )
        self.classifier = classifier
        self.feature_layer = feature_layer
        self._trackers = {name: keras.metrics.Mean(name) for name in self.extra_logs}
        self._meta_iterator = None

    # --- building

    def build_if_ready(self):
        """Builds now, but for a Sequential that waits for its first data."""
        classifier = self.classifier
        if classifier.built or not isinstance(classifier, keras.Sequential):
            self._build_inside()

    def build(self, input_shape=None):
        if not self.built:
            if not self.classifier.built and input_shape is not None:
                self.classifier.build(input_shape)
            self._build_inside()

    def _build_inside(self):
        inside = features_and_logits(self.classifier, self.feature_layer)
        _refuse_layers(self.classifier)
        # A function, so that Keras does not track the shared weights twice.
        self._inside = lambda: inside
        self._num_features, self.num_classes = (
            output.shape[-1] for output in inside.outputs
        )
        self._returns_probabilities = ends_in_softmax(self.classifier)
        self.build_method()
        self.built = True
        self._build_optimizers()

    def build_method(self):
        """Creates the method's own variables."""

    def pure_step(self, kind):
        """Returns the step of this kind as a pure function of tensors."""
        raise NotImplementedError

    def _build_optimizers(self):
        if self.built and self.compiled:
            self.optimizer.build(self._theta())

    def call(self, inputs, training=None):
        return self.classifier(inputs, training=training)

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
        if kwargs:
            raise ValueError(
                f"compile() received {sorted(kwargs)}, which {type(self).__name__} "
                "does not take: it brings its own loss and runs one step at a time."
            )
        check_choice("jit_compile", jit_compile, JIT_CHOICES)
        check_choice("batch_scope", batch_scope, BATCH_SCOPES)
        super().compile(
            optimizer=optimizer,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
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

    def fit(self, x=None, y=None, **kwargs):
        """As `keras.Model.fit`."""
        if not self.built:
            self.build(_input_shape(x))
        if y is not None:
            check_labels(y, self.num_classes)
        callbacks = kwargs.pop("callbacks", None) or []
        if isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        # First, so that no other callback saves what diverged.
        return super().fit(x, y, callbacks=[_Guard(), *callbacks], **kwargs)

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
        logs = self._steps[kind](iterator, self._meta_iterator)
        if self._step % CHECK_EVERY == 0:
            self.check_logs(logs)
        self._step += 1
        return logs

    def _require_built(self):
        if not self.built:
            raise ValueError(
                f"classifier {self.classifier.name!r} has no input shape yet: put "
                "keras.Input first, or fit it to arrays or a tf.data.Dataset."
            )

    def _make_step(self, kind):
        strategy = self.distribute_strategy
        step = functools.partial(self.train_step, kind=kind, compute=self.compute(kind))

        @tf.autograph.experimental.do_not_convert
        def on_data(data, meta):
            logs = strategy.run(step, args=(data, meta))
            return {
                name: tf.reduce_mean(tf.stack(strategy.experimental_local_results(v)))
                for name, v in logs.items()
            }

        @tf.autograph.experimental.do_not_convert
        def on_iterators(iterator, meta_iterator):
            meta = None if meta_iterator is None else meta_iterator.get_next()
            return on_data(iterator.get_next(), meta)

        if not self.run_eagerly:
            on_data = tf.function(on_data, reduce_retracing=True)
            on_iterators = tf.function(on_iterators, reduce_retracing=True)

        def on_next(iterator, meta_iterator):
            iterators = (tf.data.Iterator, tf.distribute.DistributedIterator)
            if isinstance(iterator, iterators):
                return on_iterators(iterator, meta_iterator)
            # train_on_batch hands over a generator.
            return on_data(next(iterator), None)

        on_next.traced = on_iterators
        return on_next

    def compute(self, kind):
        """Returns the pure function of a step of this kind, compiled if asked for."""
        function = self.pure_step(kind)
        whole = self._jit and not self.is_distributed
        return tf.function(function, jit_compile=True) if whole else function

    def forward(self):
        """Returns how a step goes forward here: `(theta, state, x) → Forward`."""
        if not self.is_distributed:
            return local_forward(self.apply_classifier)
        return distributed_forward(self.apply_classifier, self.replicas, self._jit)

    @property
    def replicas(self):
        """Whom the losses of a batch talk to: all replicas, or nobody."""
        together = self.is_distributed and self.batch_scope == "global"
        return Replicas() if together else Alone()

    def apply_classifier(self, theta, state, x):
        """The classifier in training mode, a pure function of tensors.

        Returns:
            Features `(n, d)` and logits `(n, num_classes)`, at least float32, and
            the new non-trainable values.
        """
        (features, logits), state = self._inside().stateless_call(
            theta, state, x, training=True
        )
        return at_least_float32(features), at_least_float32(logits), state

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

    def gather_batch(self, y, sample_weight):
        """Returns what the loss needs of the whole batch: targets and weights."""
        targets = to_targets(y, self.num_classes)
        if sample_weight is None:
            sample_weight = tf.ones_like(targets[:, 0])
        sample_weight = tf.cast(tf.reshape(sample_weight, [-1]), targets.dtype)
        return {
            "targets": self.replicas.gather(targets),
            "sample_weight": self.replicas.gather(sample_weight),
        }

    def theta(self):
        """The classifier's trainable values, as tensors."""
        return [tf.convert_to_tensor(v.value) for v in self._theta()]

    def state(self):
        """The classifier's non-trainable values, as tensors."""
        return [tf.convert_to_tensor(v.value) for v in self._state()]

    def apply_step(self, gradient, state):
        """Applies the gradient (the replicas' shares are summed), assigns state."""
        self.optimizer.apply(self._regularised(gradient), self._theta())
        if self.is_distributed:
            state = mean_over_replicas(state)
        for variable, value in zip(self._state(), state, strict=True):
            variable.assign(value)

    def _regularised(self, gradient):
        """Adds the slopes of the layers' weight regularisers, which read no data."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        found = list(gradient)
        for i, variable in enumerate(self._theta()):
            if variable.regularizer is not None:
                value = tf.convert_to_tensor(variable.value)
                with tf.GradientTape() as tape:
                    tape.watch(value)
                    penalty = variable.regularizer(value)
                found[i] += tape.gradient(penalty, value) / replicas
        return found

    def log_step(self, x, y, sample_weight, logits, loss, **values):
        """Updates the metrics of a training step and returns what they say."""
        logits = self.replicas.scatter(logits, self.replicas.rows(y))
        self._loss_tracker.update_state(loss)
        for name, value in values.items():
            self._trackers[name].update_state(value)
        logs = {"loss": self._loss_tracker.result()}
        logs |= {name: metric.result() for name, metric in self._trackers.items()}
        return logs | self.compute_metrics(x, y, self._scores(logits), sample_weight)

    # --- evaluation

    def evaluate(self, x=None, y=None, **kwargs):
        """As `keras.Model.evaluate`."""
        self._require_built()
        return super().evaluate(x, y, **kwargs)

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        features, logits = map(at_least_float32, self._inside()(x, training=False))
        tracker = self._trackers["clid"]
        tracker.update_state(clid(features, logits, REFERENCE_TEMPERATURE))
        logs = {"clid": tracker.result()}
        if y is not None:
            losses = cross_entropy(logits, to_targets(y, self.num_classes))
            self._loss_tracker.update_state(losses, sample_weight)
            logs["loss"] = self._loss_tracker.result()
            logs |= self.compute_metrics(x, y, self._scores(logits), sample_weight)
        return {name: logs[name] for name in ("loss", "clid", *logs) if name in logs}

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        # Keras's own returns all metrics; these are the compiled ones alone.
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(y, y_pred, sample_weight)
            return self._compile_metrics.result()
        return {}

    def _scores(self, logits):
        return tf.nn.softmax(logits) if self._returns_probabilities else logits

    def _theta(self):
        return self._inside().trainable_variables

    def _state(self):
        return self._inside().non_trainable_variables

    @property
    def head(self):
        """The classifier's last Dense layer."""
        return head_of(self.classifier)

    # --- saving

    def export(self, filepath, **kwargs):
        """Exports the classifier alone as a SavedModel; see `keras.Model.export`."""
        self.classifier.export(filepath, **kwargs)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras does not save the state of seeds; training could not go on without.
        for i, variable in enumerate(self._seeds()):
            store[f"seed_{i}"] = variable.numpy()

    def load_own_variables(self, store):
        for i, variable in enumerate(self._seeds()):
            variable.assign(store[f"seed_{i}"])
        own = [name for name in store.keys() if not name.startswith("seed_")]
        super().load_own_variables({name: store[name] for name in own})

    def _seeds(self):
        return [v for v in self.variables if "seed_generator_state" in v.path]

    def get_config(self):
        return {
            "name": self.name,
            "classifier": keras.saving.serialize_keras_object(self.classifier),
            "feature_layer": self.feature_layer,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("classifier", "weight_net"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            name: keras.saving.serialize_keras_object(value)
            for name, value in self._compile_arguments.items()
        }

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))


class _Guard(keras.callbacks.Callback):
    """Checks the logs of every epoch, however few steps it has."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.check_logs(logs)


def _input_shape(x):
    spec = x.element_spec if isinstance(x, tf.data.Dataset) else x
    spec = spec[0] if isinstance(spec, tuple) else spec
    shape = getattr(spec, "shape", None)
    return None if shape is None else (None, *shape[1:])


def count(x):
    """The number of examples of one input or of several."""
    return len(keras.tree.flatten(x)[0])


def check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}; received {value!r}.")


def at_least_float32(tensor):
    """Casts what was computed in 16 bits, for the losses."""
    half = tensor.dtype in (tf.float16, tf.bfloat16)
    return tf.cast(tensor, tf.float32) if half else tensor


def _refuse_layers(classifier):
    """Refuses what a gradient through the logits alone would leave out, or lose."""
    for layer in classifier._flatten_layers():
        if layer.compute_dtype == "float16":
            raise ValueError(
                f"layer {layer.name!r} computes in float16, the virtual step of which "
                "underflows without loss scaling; use the policy 'mixed_bfloat16' or "
                "'float32'."
            )
        if layer.activity_regularizer is not None:
            raise ValueError(
                f"layer {layer.name!r} has an activity_regularizer, which the meta "
                "step does not see; use a kernel_regularizer, or weight decay."
            )


def _has_gpu():
    return bool(tf.config.list_logical_devices("GPU"))
