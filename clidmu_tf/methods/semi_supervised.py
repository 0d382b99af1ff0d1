"""What methods that learn from unlabelled examples share: views, their loss, the step.

The labelled batch and the strong view go through the network together, so that the
gradient of both is one; the weak view, which only says what to predict, goes alone.
"""

from typing import Annotated

import keras
import tensorflow as tf

from clidmu_tf.core.meta_gradient import real_gradient
from clidmu_tf.core.semi_supervised import consistency_loss
from clidmu_tf.engine.distributed import Alone, Replicas
from clidmu_tf.engine.examples import (
    batch_size_of,
    batches_of_views,
    split_index,
    views_of,
    with_index,
    with_views,
)
from clidmu_tf.engine.given import positions_of
from clidmu_tf.engine.method import Method, StepResult
from clidmu_tf.engine.network import count
from clidmu_tf.engine.settings import Setting

Threshold = Annotated[
    float,
    Setting(
        "Least probability by which a prediction becomes a target.",
        least=0,
        most=1,
        search=(0.7, 0.8, 0.9, 0.95),
    ),
]
UnlabeledWeight = Annotated[
    float,
    Setting(
        "Weight of the loss of unlabelled examples.",
        least=0,
        search=3,
        flag="unlabeled_weight",
    ),
]
UnlabeledRatio = Annotated[
    int,
    Setting(
        "Unlabelled examples a step for each labelled one.",
        least=1,
        flag="unlabeled_ratio",
    ),
]
EmaMomentum = Annotated[
    float,
    Setting(
        "How much of the weights' moving average, which predicts, stays at a step; 0: "
        "the weights predict themselves.",
        least=0,
        below=1,
        flag="ema_momentum",
    ),
]


class SemiSupervised(Method):
    """Trains on labelled examples, and on the network's own word about others.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        threshold: Least probability by which a prediction becomes a target.
        unlabeled_weight: λ_u ≥ 0.
        unlabeled_ratio: Unlabelled examples a step for each labelled one.
        ema_momentum: Of the weights' moving average, which predicts.
        **kwargs: As for `Method`.
    """

    extra_logs: tuple[str, ...] = ("confident",)
    takes_unlabeled_data = True

    def __init__(
        self,
        classifier,
        *,
        threshold: Threshold,
        unlabeled_weight: UnlabeledWeight,
        unlabeled_ratio: UnlabeledRatio,
        ema_momentum: EmaMomentum,
        **kwargs,
    ):
        super().__init__(
            classifier,
            threshold=threshold,
            unlabeled_weight=unlabeled_weight,
            unlabeled_ratio=unlabeled_ratio,
            ema_momentum=ema_momentum,
            **kwargs,
        )

    # --- what a method says of its own

    def says(self, weak_logits, batch, slots):
        """What the weak view has the network predict of the strong one.

        Args:
            weak_logits: `(n, num_classes)`.
            batch: The batch; `batch["unlabeled"]` may name the examples.
            slots: The values of the slots.

        Returns:
            `(n,)` mask, `(n, num_classes)` targets, and the new values of slots.
        """
        raise NotImplementedError

    def labeled_loss(self, here, batch, values):
        """The loss of the labelled part, a scalar."""
        return self.batch_loss(here, batch, values)

    # --- training

    @positions_of(keras.Model.fit)
    def fit(
        self,
        x=None,
        y=None,
        *,
        unlabeled_data=None,
        strong=None,
        num_unlabeled=None,
        **kwargs,
    ):
        """As `keras.Model.fit`, with unlabelled data.

        Args:
            x: Inputs, or a dataset of batches `(inputs, labels)`.
            y: Labels, with inputs.
            unlabeled_data: Inputs without labels: arrays, of which both views are made
                here, or a dataset of batches `(weak, strong)`.
            strong: Of arrays, the augmentation of the strong view, as `augment` is that
                of the weak one, and of the labelled inputs: a function
                `(inputs, seeds) → inputs` as those of `clidmu_tf.data.augment`, or
                words such as `"flip,crop,randaugment"`. `None` for `augment`.
            num_unlabeled: Of a dataset whose batches name their examples
                (`engine.examples.with_index`), how many there are.
            **kwargs: As for `Method.fit`.
        """
        if unlabeled_data is None:
            raise ValueError(
                f"{type(self).__name__} learns from examples without labels too: pass "
                "unlabeled_data=, inputs like those of the labelled ones."
            )
        self.build_from(x)
        is_dataset = isinstance(
            unlabeled_data, tf.data.Dataset | tf.distribute.DistributedDataset
        )
        if not is_dataset:
            self._check_shape(unlabeled_data)
            num_unlabeled = count(unlabeled_data)
            weak = kwargs.get("augment")
            size = self.unlabeled_ratio * batch_size_of(x, kwargs)
            unlabeled_data = batches_of_views(
                *(unlabeled_data, (), [weak, strong or weak]),
                min(size, num_unlabeled),
                self.seed or 0,
                int(self.optimizer.iterations.numpy()),
            )
        elif isinstance(unlabeled_data, tf.data.Dataset):
            if isinstance(unlabeled_data.element_spec, tuple):
                unlabeled_data = unlabeled_data.map(_as_views).repeat()
            self._check_shape(split_index(unlabeled_data.element_spec)[0])
        if num_unlabeled:
            self.build_memory(None, num_unlabeled)
        elif self.remembers_unlabeled:
            raise ValueError(
                f"{type(self).__name__} remembers each example without a label: give "
                "arrays, or a dataset of batches (with_index(weak, index), "
                "with_index(strong, index)) and num_unlabeled=."
            )
        streams = {"unlabeled": unlabeled_data, **(kwargs.pop("streams", None) or {})}
        return super().fit(x, y, streams=streams, **kwargs)

    def _check_shape(self, unlabeled_data):
        inputs = self.classifier.inputs
        arrays = keras.tree.flatten(views_of(unlabeled_data)[0])
        wanted = [tuple(tensor.shape[1:]) for tensor in inputs]
        found = [tuple(array.shape[1:]) for array in arrays]
        if found != wanted:
            raise ValueError(
                f"unlabeled_data must have inputs of shape (n, *{wanted[0]}) like the "
                f"labelled ones; received {[tuple(a.shape) for a in arrays][0]}."
            )

    def step(self, kind, forward, values, x, batch):
        result, _ = self.join(forward, values, x, batch)
        return result

    def join(self, forward, values, x, batch, labeled=None):
        """A step on labels and unlabelled examples together.

        Args:
            forward: `(theta, state, x) → Forward`.
            values: As for `step`.
            x: As for `step`.
            batch: As for `step`.
            labeled: The labelled part's loss, `(features, logits) → scalar`, from
                whoever weighs the labels; `None` for the method's own.

        Returns:
            The `StepResult`, and the `Forward` of the labelled part.
        """
        theta, state = values["theta"], values["state"]
        weak, strong = views_of(batch["unlabeled"]["x"])
        _, weak_logits, _ = self.network.apply(theta, state, weak)
        weak_logits = self.replicas.gather(weak_logits)
        mask, targets, slots = self.says(weak_logits, batch, values["slots"])
        here = forward(theta, state, _together(x, strong))
        parts = self.replicas.parts([_rows(x), _rows(strong)])

        def of_labels(features, logits):
            part = here._replace(features=parts(features)[0], logits=parts(logits)[0])
            if labeled is not None:
                return labeled(part.features, part.logits)
            return self.labeled_loss(part, batch, values)

        def training_loss(phi, features, logits, virtual):
            unlabeled = consistency_loss(parts(logits)[1], targets, mask)
            return of_labels(features, logits) + self.unlabeled_weight * unlabeled

        gradient = real_gradient(training_loss, None, here)
        labels = here._replace(
            features=parts(here.features)[0], logits=parts(here.logits)[0]
        )
        logs = {
            "loss": training_loss(None, here.features, here.logits, False),
            **self.reference_logs(labels),
            "confident": tf.reduce_mean(mask),
        }
        result = StepResult(gradient, here.state, labels.logits, logs, slots)
        return result, labels

    def gather_everywhere(self, tensor):
        """What all replicas hold, also where losses see one replica's part alone."""
        apart = self.is_distributed and self.batch_scope == "replica"
        return (Replicas() if apart else Alone()).gather(tensor)


def _as_views(*views):
    (weak, index), (strong, _) = (split_index(view) for view in views)
    views = with_views(weak, strong)
    return views if index is None else with_index(views, index)


def _rows(x):
    return tf.shape(keras.tree.flatten(x)[0])[0]


def _together(x, strong):
    return keras.tree.map_structure(
        lambda *parts: tf.concat(
            [tf.cast(part, parts[0].dtype) for part in parts], axis=0
        ),
        x,
        strong,
    )
