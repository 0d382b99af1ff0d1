"""MLNT: a network that labels wrong on purpose cannot lead astray."""

from typing import Annotated

import keras
import tensorflow as tf

from clidmu_tf.core.consistency import consistency_gradient
from clidmu_tf.core.meta_gradient import real_gradient
from clidmu_tf.core.neighbors import NEIGHBORS, nearest_in_batch, synthetic_labels
from clidmu_tf.core.teacher import ramp, teacher_momentum, update_teacher
from clidmu_tf.engine.method import Method, StepResult
from clidmu_tf.engine.network import values_of
from clidmu_tf.engine.settings import Setting
from clidmu_tf.methods.cross_entropy import mean_cross_entropy
from clidmu_tf.nets.second_derivatives import twice_differentiable


@keras.saving.register_keras_serializable("clidmu_tf")
class MLNT(Method):
    """Meta-learning that makes a network noise-tolerant, with no clean label.

    Each step gives half of the batch the labels of near neighbours, in several ways,
    and takes a virtual step along each such set of labels. The network learns to
    predict afterwards what its teacher, a moving average of itself, predicts; so that
    wrong labels of the kind that data have move it little.

    The neighbours are those of features that plain training for `feature_epochs`
    epochs has made, frozen from then on; the classifier itself goes on from there.

    With `iteration_epochs` training starts anew every so many epochs, with the teacher
    as mentor: examples whose given label the mentor finds unlikely count no more, and
    its predictions are mixed into the teacher's. The paper says so in words alone;
    that every iteration starts from the first weights, and that the last teacher, not
    the best by clean labels, is the mentor, is this package's reading.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        num_sets: M, the sets of synthetic labels in a step.
        perturbed: ρ, the share of a batch whose labels are exchanged, above 0 to 1.
        virtual_rate: α, the learning rate of the virtual steps.
        feature_epochs: Epochs of plain training that make the features.
        start_step: Step after which the virtual steps begin, counted in each
            iteration.
        full_step: Step from which they count in full.
        iteration_epochs: Epochs of an iteration; 0 for one that never ends.
        drop_below: An example is left out where the mentor gives its label less.
        mentor_share: Share of the mentor in what the network is to predict.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of the synthetic labels.

    Example:

    ```python
    x, y = np.random.rand(32, 4).astype("float32"), np.arange(32) % 2
    classifier = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    )
    model = clidmu.MLNT(
        classifier, num_sets=3, feature_epochs=1, start_step=2, full_step=4
    )
    model.compile("sgd")
    model.fit(x, y, epochs=3, batch_size=16, verbose=0)
    ```

    Reference:
        Li, Wong, Zhao and Kankanhalli, "Learning to Learn from Noisy Labeled Data",
        CVPR 2019, arXiv:1812.05214, sections 3.1 to 3.4 and algorithm 1.
    """

    extra_logs = ("consistency",)
    is_random = True
    least_batch = NEIGHBORS + 1

    def __init__(
        self,
        classifier,
        num_sets: Annotated[
            int, Setting("Sets of synthetic labels in a step.", least=1)
        ] = 10,
        perturbed: Annotated[
            float,
            Setting("Share of a batch that gets others' labels.", above=0, most=1),
        ] = 0.5,
        virtual_rate: Annotated[
            float, Setting("Learning rate of the virtual steps.", above=0, search=5)
        ] = 0.02,
        feature_epochs: Annotated[
            int, Setting("Epochs of plain training that make the features.", least=1)
        ] = 3,
        start_step: Annotated[
            int, Setting("Step after which the virtual steps begin.", least=0)
        ] = 500,
        full_step: Annotated[
            int, Setting("Step from which they count in full.", least=1)
        ] = 2000,
        iteration_epochs: Annotated[
            int,
            Setting(
                "Epochs after which training starts anew, the teacher as mentor; 0: "
                "never.",
                least=0,
            ),
        ] = 0,
        drop_below: Annotated[
            float,
            Setting(
                "An example is left out where the mentor gives its label less.",
                least=0,
                most=1,
            ),
        ] = 0.01,
        mentor_share: Annotated[
            float, Setting("Share of the mentor in the targets.", least=0, most=1)
        ] = 0.5,
        feature_layer=None,
        seed=None,
        **kwargs,
    ):
        if full_step <= start_step:
            raise ValueError(
                f"full_step must be above start_step; received full_step={full_step} "
                f"and start_step={start_step}."
            )
        super().__init__(
            classifier,
            feature_layer,
            seed,
            num_sets=num_sets,
            perturbed=perturbed,
            virtual_rate=virtual_rate,
            feature_epochs=feature_epochs,
            start_step=start_step,
            full_step=full_step,
            iteration_epochs=iteration_epochs,
            drop_below=drop_below,
            mentor_share=mentor_share,
            **kwargs,
        )

    # --- the networks besides the one that learns

    def build_method(self):
        super().build_method()
        self.add_slot("iteration_step", (), 0, "int32")
        theta, state = (
            self.network.trainable_variables,
            self.network.non_trainable_variables,
        )
        self._add_copy("teacher", theta)
        self._add_copy("features", [*theta, *state])
        if self.iteration_epochs:
            self._add_copy("initial", [*theta, *state])
            self._add_copy("mentor", [*theta, *state])
            self.add_slot("has_mentor", (), 0, "int32")

    def _add_copy(self, name, variables):
        for i, variable in enumerate(variables):
            self.add_slot(f"{name}_{i}", tuple(variable.shape), 0, variable.dtype)

    def _copy(self, slots, name):
        """The values of a copy of the network: of θ, and of the state if it has any."""
        values, i = [], 0
        while f"{name}_{i}" in slots:
            values.append(slots[f"{name}_{i}"])
            i += 1
        size = len(self.network.trainable_variables)
        return values[:size], values[size:]

    def _store(self, name, values):
        for i, value in enumerate(values):
            self.slots[f"{name}_{i}"].assign(value)

    def begin_epoch(self, epoch):
        theta = values_of(self.network.trainable_variables)
        state = values_of(self.network.non_trainable_variables)
        if self.iteration_epochs and epoch == 0:
            self._store("initial", [*theta, *state])
        if epoch == self.feature_epochs:
            self._store("features", [*theta, *state])
        trained = epoch - self.feature_epochs
        if (
            self.iteration_epochs
            and trained > 0
            and not trained % self.iteration_epochs
        ):
            self._begin_iteration(state)

    def _begin_iteration(self, state):
        """Starts anew from the first weights, with the teacher as mentor.

        An iteration that ended before its first meta step has no teacher yet: the
        network itself is the mentor.
        """
        mentor, _ = self._copy(self.slots, "teacher")
        if int(self.slots["iteration_step"].numpy()) <= self.start_step:
            mentor = self.network.trainable_variables
        self._store("mentor", [*values_of(mentor), *state])
        initial = [*self._copy(self.slots, "initial")]
        places = self.network.trainable_variables, self.network.non_trainable_variables
        for variables, values in zip(places, initial, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        for variable in self.optimizer.variables:
            if variable is not self.optimizer.iterations:
                is_rate = variable is self.optimizer._learning_rate
                variable.assign(variable if is_rate else tf.zeros_like(variable.value))
        self.slots["iteration_step"].assign(0)
        self.slots["has_mentor"].assign(1)

    # --- the step

    def step_kind(self, step):
        if self.epoch < self.feature_epochs:
            return "features"
        has_mentor = self.iteration_epochs and int(self.slots["has_mentor"].numpy())
        is_early = int(self.slots["iteration_step"].numpy()) < self.start_step
        return ("plain" if is_early else "meta") + ("_mentor" if has_mentor else "")

    def draws(self, batch, kind):
        if "meta" not in kind:
            return {}
        count = tf.shape(batch["targets"])[0]
        chosen = tf.cast(tf.cast(count, "float32") * self.perturbed, "int32")
        seeds = tf.cast(self.generator.next(), "int32"), self.generator.next()
        keys = tf.random.stateless_uniform([self.num_sets, count], seeds[0])
        which = tf.random.stateless_uniform(
            *([self.num_sets, chosen], tf.cast(seeds[1], "int32"), 0, NEIGHBORS),
            dtype="int32",
        )
        return {"permutations": tf.argsort(keys), "neighbor_draws": which}

    def step(self, kind, forward, values, x, batch):
        slots = values["slots"]
        here = forward(values["theta"], values["state"], x)
        mentor = self._probabilities("mentor", slots, x) if "mentor" in kind else None
        if mentor is not None:
            batch = self._without_unlikely(batch, self.replicas.gather(mentor))
        loss = mean_cross_entropy(batch)
        gradient = real_gradient(loss, None, here)
        logs = {"loss": loss(None, here.features, here.logits, False)}
        logs |= {**self.reference_logs(here), "consistency": tf.constant(0.0)}
        new = {}
        if kind != "features":
            new["iteration_step"] = slots["iteration_step"] + 1
        if "meta" in kind:
            found, teacher = self._consistency(values, x, batch, mentor)
            replicas = self.distribute_strategy.num_replicas_in_sync
            gradient = [
                slope + more / replicas
                for slope, more in zip(gradient, found.gradient, strict=True)
            ]
            new |= {f"teacher_{i}": value for i, value in enumerate(teacher)}
            logs["consistency"] = tf.reduce_mean(found.consistencies)
        return StepResult(gradient, here.state, here.logits, logs, new)

    def _consistency(self, values, x, batch, mentor):
        """The gradient of the consistency, and the teacher that it goes by."""
        slots, theta, state = values["slots"], values["theta"], values["state"]
        now = slots["iteration_step"] + 1
        teacher, _ = self._copy(slots, "teacher")
        momentum = teacher_momentum(now, self.start_step, self.full_step)
        teacher = update_teacher(teacher, theta, momentum)
        _, logits, _ = self.network.apply(teacher, state, x)
        target = tf.nn.softmax(logits)
        if mentor is not None:
            target += self.mentor_share * (mentor - target)
        with twice_differentiable():
            found = consistency_gradient(
                self.network.apply,
                theta=theta,
                state=state,
                x=x,
                label_sets=self._label_sets(slots, x, batch),
                teacher=target,
                learning_rate=self.virtual_rate,
                ramp=ramp(now, self.start_step, self.full_step),
                total=self.replicas.sum,
                piece=self.piece(),
            )
        return found, teacher

    def _label_sets(self, slots, x, batch):
        """Synthetic labels of this replica's examples, by neighbours among all."""
        theta, state = self._copy(slots, "features")
        features, _, _ = self.network.apply_in_use(theta, state, x)
        neighbors = nearest_in_batch(self.replicas.gather(features))
        sets = synthetic_labels(
            *(batch["targets"], neighbors, batch["permutations"]),
            batch["neighbor_draws"],
        )
        rows = self.replicas.rows(keras.tree.flatten(x)[0])
        by_example = tf.transpose(sets, [1, 0, 2])
        return tf.transpose(self.replicas.scatter(by_example, rows), [1, 0, 2])

    def _probabilities(self, name, slots, x):
        """What a copy of the network predicts of this replica's examples."""
        theta, state = self._copy(slots, name)
        return tf.nn.softmax(self.network.apply_in_use(theta, state, x)[1])

    def _without_unlikely(self, batch, mentor):
        """The batch without the examples whose label the mentor finds unlikely."""
        of_label = tf.reduce_sum(mentor * batch["targets"], axis=-1)
        kept = tf.cast(of_label >= self.drop_below, of_label.dtype)
        return {**batch, "sample_weight": batch["sample_weight"] * kept}
