"""What the engine makes of a method: variables by name, steps, memories, saving.

The class here runs what a subclass says, in `engine/method.py`: a reader of methods may
leave it aside.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.core.labels import check_labels, to_index_tensor, to_targets
from clidmu_tf.core.losses import cross_entropy
from clidmu_tf.engine.distributed import mean_over_replicas
from clidmu_tf.engine.examples import (
    ArrayExamples,
    batch_size_of,
    batches_of_views,
    split_index,
    split_off_validation,
    with_index,
)
from clidmu_tf.engine.given import (
    as_arrays,
    check_inputs,
    check_lengths,
    checked_batches,
    is_batches,
    names_known,
    positions_of,
)
from clidmu_tf.engine.model import NoisyLabelModel, input_shape
from clidmu_tf.engine.network import (
    Network,
    check_alike,
    count,
    values_of,
)
from clidmu_tf.engine.settings import settings_of
from clidmu_tf.nets.copies import copy_of, drawn_anew
from clidmu_tf.nets.features import average_of

Tensors = dict[str, Any]


class MethodModel(NoisyLabelModel):
    """Feeds a method's steps, applies what they come to, and saves it all by name."""

    # Views of each example that a step gets.
    num_views = 1
    # How many networks it trains; all of them predict, by their mean.
    num_networks = 1
    # How much of the weights' moving average, which then predicts, stays at a step.
    ema_momentum = 0.0

    # --- what it holds

    def build_copies(self):
        super().build_copies()
        self._served = None
        if self.num_networks > 1:
            self.peer = self.peer or drawn_anew(self.classifier)
            if self.peer.name == self.classifier.name:
                self.peer.name += "_peer"
            check_alike(self.classifier, self.peer)
            self.networks.append(Network(self.peer, self.feature_layer))
            self._served = average_of([self.classifier, self.peer])
        elif self.ema_momentum:
            self._served = copy_of(self.classifier)

    @property
    def served(self):
        return getattr(self, "_served", None) or self.classifier

    def add_slot(self, name, shape, value=0.0, dtype="float32"):
        """Creates a variable that a step may read and replace; it is saved by name."""
        self.slots[name] = self.add_weight(
            shape,
            keras.initializers.Constant(value),
            dtype=dtype,
            trainable=False,
            name=name,
            autocast=False,
        )
        self.train_function = None  # a step that was traced holds the variable before
        return self.slots[name]

    def build_method(self):
        # Epochs begun, and whether the last of them is under way.
        self.add_slot("progress", (2,), 0, "int32")

    def build_memory(self, num_examples, num_unlabeled=None):
        """Makes room for what is remembered of so many examples.

        Args:
            num_examples: Labelled ones; `None` where that is unknown.
            num_unlabeled: Those without labels.
        """
        if not num_examples:
            return
        widths = self.memory()
        if {n: (num_examples, w) for n, w in widths.items()} == {
            name: tuple(memory.shape) for name, memory in self.memories.items()
        }:
            return
        with self.distribute_strategy.scope():
            self.memories = {
                name: self.add_weight(
                    (num_examples, width),
                    "zeros",
                    trainable=False,
                    name=f"memory_{name}",
                    aggregation="only_first_replica",
                    autocast=False,
                )
                for name, width in widths.items()
            }
        self.train_function = None  # a step that was traced holds those before

    # --- training

    @positions_of(keras.Model.fit)
    def fit(
        self,
        x=None,
        y=None,
        *,
        augment=None,
        num_examples=None,
        examples=None,
        **kwargs,
    ):
        """As `keras.Model.fit`.

        Args:
            x: Inputs, or a dataset of batches `(inputs, labels)`.
            y: Labels, with inputs: `(n,)`, `(n, 1)`, or one-hot or soft `(n, C)`;
                indices of classes, or their names.
            augment: Augments arrays anew each epoch: a function `(inputs, seeds) →
                inputs` as those of `clidmu_tf.data.augment`, or words such as
                `"flip,crop"`; `randaugment` takes pixels from 0 to 255.
            num_examples: Of a dataset whose batches name their examples
                (`engine.examples.with_index`), how many there are; for a method that
                remembers each.
            examples: What reads the training data of a dataset by index, for a
                method that looks at all of them before an epoch.
            **kwargs: As for `keras.Model.fit`.
        """
        is_arrays = y is not None
        x = as_arrays(x)
        if not is_arrays and not is_batches(x):
            check_lengths(x, y)
        self.build_from(x)
        y = self.indices(y)
        held_out = kwargs.get("validation_data")
        if isinstance(held_out, list | tuple):
            kwargs["validation_data"] = self._in_form(held_out)
        if is_arrays and (self.reads_examples or augment):
            x, y, kwargs = split_off_validation(x, y, kwargs)
        if is_arrays:
            check_labels(y, self.num_classes)
            check_lengths(x, y)
            check_inputs(x)
            num_examples = count(y)
            self._check_batch_size(kwargs.get("batch_size") or 32, num_examples)
            if self.reads_examples:
                examples = ArrayExamples(x, y, self.seed or 0)
            if augment:
                x, y, kwargs = self._augmented(x, y, augment, kwargs)
            elif self.memory():
                x = with_index(x, np.arange(num_examples))
        self._check_data(num_examples, examples)
        self.examples = examples
        self.pass_batch_size = batch_size_of(x, kwargs)
        # A bar where Keras shows one; a line of its own in a log would say nothing.
        self._pass_verbose = int(kwargs.get("verbose", "auto") in ("auto", 1))
        if num_examples:
            self.build_memory(num_examples)
        try:
            return super().fit(x, y, **kwargs)
        finally:
            self.examples = None

    def losses_of_all(self, network, batch_size=None):
        """The cross-entropy of every given label, as a network stands, in order."""
        key = id(network)
        if key not in self._passes:

            @tf.function(reduce_retracing=True)
            def losses(x, y):
                _, logits = network(x)
                return cross_entropy(logits, to_targets(y, self.num_classes))

            self._passes[key] = losses
        found, size = [], batch_size or self.pass_batch_size
        steps = -(-len(self.examples) // size)
        bar = keras.utils.Progbar(steps, verbose=self._pass_verbose, unit_name="batch")
        for x, y in self.examples.in_order(size):
            found.append(self._passes[key](x, y).numpy())
            bar.update(len(found))
        return np.concatenate(found)

    def build_from(self, x):
        """Builds, where that has waited for the first data."""
        if not self.built:
            self.build(input_shape(x))

    def _augmented(self, x, y, augment, kwargs):
        """Arrays as an endless dataset of whole batches, every view augmented."""
        kwargs = {**kwargs}
        size = min(kwargs.pop("batch_size", None) or 32, count(y))
        weights = kwargs.pop("sample_weight", None)
        others = (y,) if weights is None else (y, weights)
        step = int(self.optimizer.iterations.numpy())
        views = [augment] * self.num_views
        dataset = batches_of_views(x, others, views, size, self.seed or 0, step)
        kwargs.setdefault("steps_per_epoch", count(y) // size)
        return dataset, None, {**kwargs, "shuffle": False}

    def _check_data(self, num_examples, examples):
        name = type(self).__name__
        if self.memory() and not num_examples:
            raise ValueError(
                f"{name} remembers each example: give arrays, or a dataset of batches "
                "(with_index(x, index), y) and num_examples=."
            )
        if self.reads_examples and examples is None:
            raise ValueError(
                f"{name} looks at all training examples before an epoch: give arrays "
                "rather than a dataset."
            )

    def train_on_batch(self, x, y=None, *args, **kwargs):
        asks_more = self.reads_examples or self.takes_unlabeled_data
        if self.is_supervised or self.memory() or asks_more or self.goes_by_epochs:
            raise ValueError(
                f"{type(self).__name__} needs more than a batch (it remembers its "
                "examples, takes a second stream of data, or goes by epochs): use "
                "fit()."
            )
        return super().train_on_batch(*self._in_form((x, y)), *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        return super().test_on_batch(*self._in_form((x, y)), *args, **kwargs)

    def enter_epoch(self):
        epochs, is_open = self.slots["progress"].numpy()
        if not is_open:
            self.begin_epoch(int(epochs))
            self.slots["progress"].assign([epochs + 1, 1])
        step = int(self.optimizer.iterations.numpy())
        self._streams |= self._iterate(self.own_streams(step))

    def leave_epoch(self):
        epochs, _ = self.slots["progress"].numpy()
        self.slots["progress"].assign([epochs, 0])

    @property
    def epoch(self):
        """Number of the epoch under way, counted from 0, over all calls of `fit`."""
        return int(self.slots["progress"].numpy()[0]) - 1

    def pure_step(self, kind):
        forward = self.forward()

        def step(values, x, batch):
            return self.step(kind, forward, values, x, batch)

        return step

    def train_step(self, data, streams, *, kind, compute):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = to_index_tensor(y, self.class_names)
        x, index = split_index(x)
        batch = self.gather_batch(y, sample_weight, index, streams)
        batch |= self.draws(batch, kind)
        found = compute(self.values(), x, batch)
        results = found if self.num_networks > 1 else [found]
        self.apply(results, index)
        logits, logs = results[0].logits, results[0].logs
        if self.num_networks > 1:
            logits = tf.add_n([result.logits for result in results]) / len(results)
            logs = {n: tf.reduce_mean([r.logs[n] for r in results]) for n in logs}
        return self.log_step(x, y, sample_weight, logits, **logs)

    def gather_batch(self, y, sample_weight=None, index=None, streams=None):
        """Returns what the loss needs of the whole batch, and of the streams."""
        targets = to_targets(y, self.num_classes)
        if sample_weight is None:
            sample_weight = tf.ones_like(targets[:, 0])
        sample_weight = tf.cast(tf.reshape(sample_weight, [-1]), targets.dtype)
        batch = {
            "targets": self.replicas.gather(targets),
            "sample_weight": self.replicas.gather(sample_weight),
        }
        if index is not None:
            batch["index"] = self.replicas.gather(index)
            batch["memory"] = {
                name: tf.gather(memory.value, batch["index"])
                for name, memory in self.memories.items()
            }
        for name, data in (streams or {}).items():
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            x, index = split_index(x)
            batch[name] = {"x": x}
            if index is not None:
                batch[name]["index"] = self.replicas.gather(index)
            if y is not None:
                y = to_index_tensor(y, self.class_names)
                targets = to_targets(y, self.num_classes)
                batch[name]["targets"] = self.replicas.gather(targets)
        return batch

    def _check_batch_size(self, size, examples):
        last = examples % size or size
        if min(size, last) < self.least_batch:
            raise ValueError(
                f"{type(self).__name__} needs batches of {self.least_batch} examples "
                f"or more; received batch_size={size} and {examples} examples, {last} "
                "of them in the last batch."
            )

    def values(self) -> Any:
        """What a step reads of the model, as tensors; of several networks, a list."""
        slots = {
            name: tf.convert_to_tensor(variable.value)
            for name, variable in self.slots.items()
        }
        found = [
            {
                "theta": values_of(network.trainable_variables),
                "state": values_of(network.non_trainable_variables),
                "learning_rate": tf.convert_to_tensor(self.optimizer.learning_rate),
                "step": tf.convert_to_tensor(self.optimizer.iterations.value),
                "slots": slots,
            }
            for network in self.networks
        ]
        return found if self.num_networks > 1 else found[0]

    def apply(self, results, index=None):
        """Makes what a step came to the model's: weights, state, slots, memories.

        Args:
            results: A `StepResult` of each network.
            index: Which examples the batch holds.
        """
        gradient = [slope for result in results for slope in result.gradient]
        self.optimizer.apply(self._regularised(gradient), self.trained_variables)
        variables, values = [], []
        for network, result in zip(self.networks, results, strict=True):
            variables += network.non_trainable_variables
            variables += [self.slots[name] for name in result.slots]
            values += [*result.state, *result.slots.values()]
        if self.is_distributed:
            values = mean_over_replicas(values)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        for result in results:
            for name, rows in result.memory.items():
                self._write_rows(self.memories[name], index, rows)
        if self.ema_momentum:
            self._move_average()

    def _move_average(self):
        """Moves what predicts a little towards the classifier; more at the start."""
        step = tf.cast(self.optimizer.iterations, "float32")
        keep = tf.minimum(self.ema_momentum, (1 + step) / (10 + step))
        pairs = zip(self._served.variables, self.classifier.variables, strict=True)
        for average, variable in pairs:
            value = tf.convert_to_tensor(variable.value)
            if value.dtype.is_floating:
                part = tf.cast(keep, value.dtype)
                value = part * average.value + (1 - part) * value
            average.assign(value)

    def _write_rows(self, memory, index, rows):
        """Replaces the rows of the batch's examples, on all replicas alike."""
        index = tf.cast(index, tf.int64)
        if self.is_distributed:
            gather = tf.distribute.get_replica_context().all_gather
            together = self.batch_scope == "global"
            rows = rows if together else gather(rows, axis=0)
            index = gather(index, axis=0)
        memory.value.scatter_update(tf.IndexedSlices(rows, index))

    # --- use

    def label_weights(self, x, y=None, batch_size=100):
        """How far the trained model trusts each label.

        Args:
            x: Inputs as for `fit`, or batches `(inputs, labels)` in a fixed order.
            y: Labels, as for `fit`; `None` with batches.
            batch_size: Examples at a time.

        Returns:
            `(n,)` NumPy array, zero or above, with mean one: all ones of a method
            that trusts all labels alike.

        Raises:
            ValueError: Labels or inputs are not what `fit` takes.
        """
        self._require_built()
        batches = checked_batches(
            x,
            y,
            batch_size=batch_size,
            num_classes=self.num_classes,
            class_names=names_known(self.class_names, y, self.num_classes),
        )

        def weigh_alike(x, y):
            weights = self.weigh(x, y)
            return tf.ones(tf.shape(y)[0]) if weights is None else weights

        weigh = tf.function(weigh_alike, reduce_retracing=True)
        weights = np.concatenate([weigh(x, y).numpy() for x, y in batches])
        return weights / max(weights.mean(), np.finfo("float32").tiny)

    # --- saving

    def parts(self):
        """Further layers of the method, by name, to be saved with it."""
        if self.num_networks > 1:
            return {"peer": self.peer}
        return {"average": self._served} if self.ema_momentum else {}

    def named_variables(self):
        """What is saved of the method beside its layers and optimizers, by name."""
        return {
            **{f"slot.{name}": variable for name, variable in self.slots.items()},
            **{f"memory.{name}": variable for name, variable in self.memories.items()},
        }

    # The names of what version 0.1 saved by number.
    numbered_variables: tuple[str, ...] = ()

    def save_own_variables(self, store):
        for name, variable in self.named_variables().items():
            store[name] = variable.numpy()
        for i, variable in enumerate(self.seeds()):
            store[f"seed_{i}"] = variable.numpy()

    def load_own_variables(self, store):
        sizes = [
            len(store[name]) for name in store.keys() if name.startswith("memory.")
        ]
        if sizes:
            self.build_memory(sizes[0])
        for i, variable in enumerate(self.seeds()):
            if f"seed_{i}" in store.keys():
                variable.assign(store[f"seed_{i}"])
        for name in store.keys():
            owner, _, slot = name.partition(".")
            if owner == "slot" and slot not in self.slots:  # of data seen since
                value = store[name]
                self.add_slot(slot, value.shape, 0, str(value.dtype))
        for name, variable in self.named_variables().items():
            if name in store.keys():
                variable.assign(store[name])
        for number, name in enumerate(self.numbered_variables):
            if str(number) in store.keys():
                self.slots[name].assign(store[str(number)])

    def seeds(self):
        """The states of all seed generators, which Keras does not save."""
        return [v for v in self.variables if "seed_generator_state" in v.path]

    def get_config(self):
        settings = {name: getattr(self, name) for name in settings_of(type(self))}
        if self.num_networks > 1:
            settings["peer"] = self.peer
        return {
            **super().get_config(),
            "seed": self.seed,
            **{
                name: keras.saving.serialize_keras_object(value)
                if isinstance(value, keras.layers.Layer)
                else value
                for name, value in settings.items()
            },
        }
