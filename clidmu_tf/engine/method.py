"""What a method is: the interface, with what most of them share as its defaults.

A method says what is its own, as a rule its loss. The engine runs it in graphs, under
XLA and over replicas, saves and restores it, exports it, and lets it be searched.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from clidmu_tf.core.losses import clid, cross_entropy
from clidmu_tf.core.meta_gradient import Forward, real_gradient
from clidmu_tf.engine.classifier_model import REFERENCE_TEMPERATURE
from clidmu_tf.engine.method_model import MethodModel, Tensors
from clidmu_tf.engine.settings import check_arguments, settings_of


class StepResult(NamedTuple):
    """What a step, a pure function of tensors, comes to.

    Attributes:
        gradient: By the classifier's weights, this replica's share.
        state: The classifier's new non-trainable values.
        logits: Of the batch, `(n, num_classes)`, for the metrics.
        logs: Scalars by name, `loss` and `clid` among them.
        slots: New values of slots, by name; the others stay.
        memory: New rows of memories for the batch's examples, by name.
    """

    gradient: list[tf.Tensor]
    state: list[tf.Tensor]
    logits: tf.Tensor
    logs: Tensors
    slots: Tensors = {}
    memory: Tensors = {}


class Method(MethodModel):
    """A way to train a classifier on labels of which some are wrong.

    A subclass declares its settings in its constructor, whose signature is all that
    the command line, the checks, `get_config` and a search go by, and passes them
    on by name:

    ```python
    from typing import Annotated
    from clidmu_tf.core.losses import cross_entropy
    from clidmu_tf.engine.method import Method
    from clidmu_tf.engine.settings import Setting

    class Tempered(Method):
        def __init__(
            self,
            classifier,
            heat: Annotated[float, Setting("Divides the logits.", above=0)] = 2.0,
            **kwargs,
        ):
            super().__init__(classifier, heat=heat, **kwargs)

        def example_losses(self, logits, batch):
            return cross_entropy(logits / self.heat, batch["targets"])
    ```

    A *batch* is a dict of tensors that holds, of all replicas' examples:
    `targets` `(n, num_classes)`; `sample_weight` `(n,)`; `index` `(n,)` int64 where
    the data say which examples they are; `memory`, the rows of each memory; what
    `draws` drew; and of each further stream, by its name, a dict of `x` (of this
    replica) and `targets`.

    *Values* are a dict of tensors: `theta`, `state`, `learning_rate`, `step`, `slots`.

    Where `num_networks` is 2, values are a list of such, a step returns a list of
    results, and both networks predict together; with `num_views`, x is `with_views`.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of what the method draws.
        **settings: What the subclass's constructor declares, and what `keras.Model`
            takes.
    """

    # Whether `begin_epoch` or `own_streams` read the training data by index.
    reads_examples = False
    # Whether `fit` must be given `unlabeled_data`, and whether it remembers them.
    takes_unlabeled_data = False
    remembers_unlabeled = False
    # Whether `compile` takes a second optimizer, of a weight net.
    takes_meta_optimizer = False
    # Whether it draws at random, from `self.generator`.
    is_random = False
    # The fewest examples of a batch that a step can work with.
    least_batch = 1

    def __new__(cls, *args, **kwargs):
        # Before a constructor goes by them, and hands on what it fixes for its bases.
        check_arguments(cls, args, kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __init__(
        self, classifier, feature_layer=None, seed=None, *, peer=None, **settings
    ):
        # A class may fix what the one that it builds on leaves open.
        declared = {}
        for base in reversed(type(self).__mro__):
            declared |= settings_of(base) if issubclass(base, Method) else {}
        own = {name: settings.pop(name) for name in declared if name in settings}
        super().__init__(classifier, feature_layer, **settings)
        for name, value in own.items():
            setattr(self, name, value)
        self.seed = seed
        self.peer = peer
        if self.is_random:
            self.generator = keras.random.SeedGenerator(seed)
        self.slots = {}
        self._passes = {}
        self.memories = {}
        self.examples = None
        self.build_if_ready()

    # --- what a method says

    def example_losses(self, logits: tf.Tensor, batch: Tensors) -> tf.Tensor:
        """The loss of each example, `(n,)`, differentiable by the logits."""
        return cross_entropy(logits, batch["targets"])

    def batch_loss(self, here: Forward, batch: Tensors, values: Tensors) -> tf.Tensor:
        """The loss of a batch, a scalar; it reads θ through the logits alone."""
        losses = self.example_losses(here.logits, batch)
        return tf.reduce_mean(losses * batch["sample_weight"])

    def prepare(self, x: Any, batch: Tensors) -> tuple[Any, Tensors]:
        """What a step trains on in place of its inputs and batch."""
        return x, batch

    def draws(self, batch: Tensors, kind: str) -> Tensors:
        """What is drawn at random for a step; a dict that joins the batch."""
        return {}

    def memory(self) -> dict[str, int]:
        """What is remembered of every example: names, and how many numbers each."""
        return {}

    def remember(self, here: Forward, batch: Tensors) -> Tensors:
        """New rows of the memories for the examples of a batch."""
        return {}

    def step_kind(self, step: int) -> str:
        """Names the kind of training step number `step`, counted from 0."""
        return "train"

    def begin_epoch(self, epoch: int) -> None:
        """What comes before an epoch, once, also where a run goes on inside of it."""

    def own_streams(self, step: int) -> dict[str, tf.data.Dataset]:
        """Endless datasets that the method makes itself, before each epoch.

        Args:
            step: Number of the step that comes next: what a stream holds from there
                on must be the same however the run was cut.
        """
        return {}

    @classmethod
    def takes_meta_data(cls, settings: dict[str, Any]) -> bool:
        """Whether, with these settings, `fit` takes `meta_data`."""
        return False

    @classmethod
    def wants_clean_labels(cls, settings: dict[str, Any]) -> bool:
        """Whether, with these settings, it needs a stream `meta` with right labels."""
        return False

    @property
    def goes_by_epochs(self) -> bool:
        """Whether something comes before its epochs."""
        return type(self).begin_epoch is not Method.begin_epoch

    @property
    def is_supervised(self) -> bool:
        """Whether `fit` must be given meta data with right labels."""
        return False

    def weigh(self, x: Any, y: Any) -> tf.Tensor | None:
        """How far each label of a batch is trusted, `(n,)`; `None`: all alike."""
        return None

    def step(self, kind: str, forward: Any, values: Any, x: Any, batch: Tensors) -> Any:
        """A training step, pure: by default the gradient of `batch_loss`."""
        x, batch = self.prepare(x, batch)
        here = forward(values["theta"], values["state"], x)

        def training_loss(phi, features, logits, virtual):
            return self.batch_loss(here._replace(logits=logits), batch, values)

        gradient = real_gradient(training_loss, None, here)
        loss = self.batch_loss(here, batch, values)
        logs = {"loss": loss, **self.reference_logs(here)}
        memory = self.remember(here, batch)
        return StepResult(gradient, here.state, here.logits, logs, {}, memory)

    def reference_logs(self, here: Forward) -> Tensors:
        """What every method logs: CLID at the reference temperature."""
        return {"clid": clid(here.features, here.logits, REFERENCE_TEMPERATURE)}
