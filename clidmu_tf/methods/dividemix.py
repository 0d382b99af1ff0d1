"""DivideMix: two networks that tell each other which labels to believe."""

import functools
import logging
from typing import Annotated, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.core.divide import divided_losses, unlabeled_weight
from clidmu_tf.core.labels import to_targets
from clidmu_tf.core.losses import confidence_penalty, cross_entropy, prior_penalty
from clidmu_tf.core.meta_gradient import Forward, real_gradient
from clidmu_tf.core.mixing import mix, refined_targets
from clidmu_tf.core.mixture import fit_mixture, min_max_scaled
from clidmu_tf.engine.examples import views_of
from clidmu_tf.engine.method import Method, StepResult
from clidmu_tf.engine.settings import Setting
from clidmu_tf.methods.mixup import check_floating, draw_beta
from clidmu_tf.methods.reweighting import PriorPenalty

logger = logging.getLogger(__name__)

TINY = 1e-12  # Keeps the logarithm of a probability finite.


class Mixed(NamedTuple):
    """What one network learns from in a step: both views of a batch, mixed.

    Attributes:
        x: This replica's rows, all of its first views and then all of its second.
        targets: `(2n, num_classes)` of all replicas, first views first.
        is_labeled: `(2n,)`, ones where the label counts, else zeros.
        sizes: This replica's rows of each view.
        sample_weight: `(2n,)`, or one for all.
        noise: What a weight net draws for them, or `None`.
    """

    x: Any
    targets: tf.Tensor
    is_labeled: tf.Tensor
    sizes: list
    sample_weight: tf.Tensor | float = 1.0
    noise: tf.Tensor | None = None


@keras.saving.register_keras_serializable("clidmu_tf")
class DivideMix(Method):
    """Learns the likely labels, and of the other examples what both networks guess.

    After a warm-up, before each epoch, a mixture of two Gaussians is fitted to the
    losses that each network has on all training data: where the lower one is likelier,
    the other network takes the label as right. Labels are mixed with predictions as far
    as they are likely right, unlikely ones replaced by what both networks predict, and
    all of it is mixed in pairs (MixUp). Both networks together predict, by their mean.

    A step takes the same examples for both networks, of which each counts as labelled
    for a network or not; the authors draw as many of both kinds. Guesses are made as in
    use, without dropout and by moving averages.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer; its
            inputs must be floating-point numbers.
        warmup_epochs: Epochs of plain cross-entropy first, 1 or more.
        threshold: A label counts where it is likelier right than this.
        sharpening: T, the temperature by which targets are sharpened, above 0.
        alpha: Shares of pairs are drawn from Beta(α, α). The paper's: 4, on
            Clothing1M and WebVision 0.5.
        unlabeled_weight: λ_u ≥ 0, reached 16 epochs after the warm-up. The paper's: 0,
            25, 50 or 150, the higher the more labels are wrong.
        prior_penalty: Weight of KL(uniform ‖ mean prediction); on WebVision 0.
        confidence_penalty: Whether sure predictions cost in the warm-up: for
            asymmetric noise, and Clothing1M.
        labeled_only: Whether the rows without labels are but partners: for
            Clothing1M and WebVision.
        loss_epochs: Epochs whose losses are averaged for the mixture; 5 where 90 %
            of the labels are wrong.
        peer: The second network, of the same layers; `None` for a copy with weights
            drawn anew.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of pairs and shares, and of the mixture.

    Example:

    ```python
    x, y = np.random.rand(32, 4).astype("float32"), np.arange(32) % 2
    classifier = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    )
    model = clidmu.DivideMix(classifier, warmup_epochs=1)
    model.compile("sgd")
    model.fit(x, y, epochs=3, verbose=0)
    ```

    Of images, `augment="flip,crop"` of `fit` makes the two views.

    Reference:
        Li, Socher and Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised
        Learning", ICLR 2020.
    """

    num_networks = 2
    num_views = 2
    reads_examples = True
    is_random = True
    in_pieces = True
    extra_logs: tuple[str, ...] = ("labeled",)

    def __init__(
        self,
        classifier,
        warmup_epochs: Annotated[
            int, Setting("Epochs of plain cross-entropy first.", least=1)
        ] = 10,
        threshold: Annotated[
            float,
            Setting(
                "A label counts where it is likelier right.",
                least=0,
                below=1,
                search=(0.3, 0.5, 0.7),
            ),
        ] = 0.5,
        sharpening: Annotated[
            float, Setting("Temperature that sharpens targets.", above=0, search=2)
        ] = 0.5,
        alpha: Annotated[
            float,
            Setting(
                "Shares of pairs are drawn from Beta(alpha, alpha).", above=0, search=4
            ),
        ] = 4.0,
        unlabeled_weight: Annotated[
            float,
            Setting(
                "Weight of the loss of rows without labels.",
                least=0,
                search=(0, 25, 50, 150),
            ),
        ] = 25.0,
        prior_penalty: PriorPenalty = 1.0,
        confidence_penalty: Annotated[
            bool, Setting("Sure predictions cost in the warm-up.")
        ] = False,
        labeled_only: Annotated[
            bool, Setting("Rows without labels are but partners.")
        ] = False,
        loss_epochs: Annotated[
            int, Setting("Epochs whose losses are averaged for the split.", least=1)
        ] = 1,
        peer=None,
        **kwargs,
    ):
        super().__init__(
            classifier,
            warmup_epochs=warmup_epochs,
            threshold=threshold,
            sharpening=sharpening,
            alpha=alpha,
            unlabeled_weight=unlabeled_weight,
            prior_penalty=prior_penalty,
            confidence_penalty=confidence_penalty,
            labeled_only=labeled_only,
            loss_epochs=loss_epochs,
            peer=peer,
            **kwargs,
        )

    # --- the split

    def build_method(self):
        super().build_method()
        self.add_slot("unlabeled_weight_now", ())
        # Of each network's losses: range, means, variances and weights; see `weigh`.
        self.add_slot("mixture", (2, 8))

    def memory(self):
        # How likely each label is right, in the eyes of each network's other one; and
        # the scaled losses of either in the last epochs, the newest first.
        past = {"losses": 2 * self.loss_epochs} if self.loss_epochs > 1 else {}
        return {"clean": 2, **past}

    def begin_epoch(self, epoch):
        done = epoch - self.warmup_epochs
        if done < 0:
            return
        now = unlabeled_weight(epoch, self.unlabeled_weight, self.warmup_epochs)
        self.slots["unlabeled_weight_now"].assign(now)
        losses = [self.losses_of_all(network) for network in self.networks]
        scaled = np.stack([min_max_scaled(one) for one in losses], axis=-1)
        scaled = self._with_the_past(scaled, min(done + 1, self.loss_epochs))
        found = [fit_mixture(one, self.seed or 0) for one in scaled.T]
        self.slots["mixture"].assign(
            [
                [one.min(), one.max(), *fit.means, *fit.variances, *fit.weights]
                for one, fit in zip(losses, found, strict=True)
            ]
        )
        # Each network learns by what the other one finds.
        clean = np.stack([fit.probability for fit in found[::-1]], axis=-1)
        self.memories["clean"].assign(clean)
        for i, is_labeled in enumerate(clean.T > self.threshold):
            self._say_what_is_odd(f"Epoch {epoch + 1}, network {i + 1}", is_labeled)

    def _say_what_is_odd(self, where, is_labeled):
        """Warns where a split has nothing on one side, of all labels or of a class."""
        labels = to_targets(self.examples.labels(), self.num_classes)
        given = np.argmax(labels, axis=-1)
        believed = np.bincount(given[is_labeled], minlength=self.num_classes)
        missing = np.flatnonzero((believed == 0) & np.isin(range(len(believed)), given))
        if is_labeled.all():
            logger.warning("%s: every label is believed, and none guessed.", where)
        elif not is_labeled.any():
            logger.warning("%s: no label is believed, and all are guessed.", where)
        elif len(missing):
            classes = ", ".join(map(str, missing))
            logger.warning("%s: no label of class %s is believed.", where, classes)

    def _with_the_past(self, losses, epochs):
        """The mean of the scaled losses of so many epochs, this one among them."""
        if self.loss_epochs == 1:
            return losses
        past = self.memories["losses"]
        kept = np.concatenate([losses, past.numpy()[:, :-2]], axis=-1)
        past.assign(kept)
        return kept[:, : 2 * epochs].reshape(-1, epochs, 2).mean(axis=1)

    # --- the step

    def step_kind(self, step):
        return "warmup" if self.epoch < self.warmup_epochs else "train"

    def draws(self, batch, kind):
        if kind == "warmup":
            return {}
        rows = tf.range(2 * tf.shape(batch["targets"])[0])
        seeds = tf.random.split(tf.cast(self.generator.next(), "int32"), 4)
        share_seeds, order_seeds = tf.unstack(seeds)[:2], tf.unstack(seeds)[2:]
        shuffle = tf.random.experimental.stateless_shuffle
        return {
            "shares": tf.stack([draw_beta(self.alpha, seed) for seed in share_seeds]),
            "partners": tf.stack([shuffle(rows, seed) for seed in order_seeds]),
        }

    def step(self, kind, forward, values, x, batch):
        views = views_of(x)
        views = [views[0], views[-1]]
        if kind == "warmup":
            learn = self.once(functools.partial(self._warm_up, forward))
            return [learn(v, views[0], batch) for v in values]
        guess = self.once(self._guess)
        guesses = [self.replicas.gather(guess(v, views)) for v in values]
        mixed = [self._mixed(i, views, batch, guesses) for i in range(len(values))]
        results = self.learn(kind, forward, values, mixed, views[0], batch)
        # What the networks predict of the batch, for the metrics.
        return [
            result._replace(logits=tf.math.log(guess + TINY))
            for result, guess in zip(results, guesses, strict=True)
        ]

    def _warm_up(self, forward, values, x, batch):
        here = forward(values["theta"], values["state"], x)

        def training_loss(phi, features, logits, virtual):
            losses = cross_entropy(logits, batch["targets"])
            loss = tf.reduce_mean(losses * batch["sample_weight"])
            if self.confidence_penalty:
                loss += confidence_penalty(logits)
            return loss

        gradient = real_gradient(training_loss, None, here)
        loss = training_loss(None, here.features, here.logits, False)
        logs = {"loss": loss, "labeled": tf.constant(1.0)}
        logs |= self.reference_logs(here)
        return StepResult(gradient, here.state, here.logits, logs)

    def _guess(self, values, views):
        """What a network predicts of this replica's examples, over both views."""
        logits = [
            self.network.apply_in_use(values["theta"], values["state"], view)[1]
            for view in views
        ]
        return tf.add_n([tf.nn.softmax(z) for z in logits]) / len(logits)

    def _mixed(self, i, views, batch, guesses):
        """What network i learns from: refined or guessed targets, mixed in pairs."""
        clean = batch["memory"]["clean"][:, i]
        is_labeled = clean > self.threshold
        of_both = tf.add_n(guesses) / len(guesses)
        targets = tf.where(
            is_labeled[:, None],
            refined_targets(batch["targets"], clean, guesses[i], self.sharpening),
            refined_targets(of_both, 0.0 * clean, of_both, self.sharpening),
        )
        share = tf.maximum(batch["shares"][i], 1 - batch["shares"][i])
        partners = batch["partners"][i]
        targets = tf.concat([targets, targets], axis=0)
        is_labeled = tf.cast(is_labeled, targets.dtype)
        weight = tf.concat([batch["sample_weight"]] * 2, axis=0)
        rows = self.replicas.rows(keras.tree.flatten(views[0])[0])
        of_views = tf.split(partners, 2)
        mine = tf.concat([self.replicas.scatter(p, rows) for p in of_views], axis=0)

        def mixed(*parts):
            check_floating(parts[0], "DivideMix")
            everybody = tf.concat([self.replicas.gather(p) for p in parts], axis=0)
            return mix(tf.concat(parts, axis=0), tf.gather(everybody, mine), share)

        size = tf.shape(keras.tree.flatten(views[0])[0])[0]
        return Mixed(
            keras.tree.map_structure(mixed, *views),
            mix(targets, tf.gather(targets, partners), share),
            tf.concat([is_labeled, is_labeled], axis=0),
            [size, size],
            mix(weight, tf.gather(weight, partners), share),
        )

    def learn(self, kind, forward, values, mixed, x, batch):
        """What the step of each network comes to.

        Args:
            mixed: What each learns from.
            x: This replica's inputs as they are, of one view.
        """
        learn = self.once(functools.partial(self._learn, forward))
        return [learn(own, rows) for own, rows in zip(values, mixed, strict=True)]

    def _learn(self, forward, values, mixed):
        def training_loss(phi, features, logits, virtual):
            lx, lu = divided_losses(
                *(logits, mixed.targets, mixed.is_labeled),
                sample_weight=mixed.sample_weight,
            )
            return self.whole_loss(values, mixed, lx, lu, logits)

        forward = self.in_order(forward, mixed)
        here = forward(values["theta"], values["state"], mixed.x)
        return self.result(training_loss, None, here, mixed)

    def in_order(self, forward, mixed):
        """Forward passes in which the mixed rows, of all replicas, stand as targets do.

        A replica's rows are those of both views; of the targets, all of the first view
        stand before the second.
        """
        if not self.is_distributed:
            return forward
        parts = self.replicas.parts(mixed.sizes)

        def ordered(theta, state, x):
            here = forward(theta, state, x)
            if x is not mixed.x:
                return here
            order = tf.concat(parts(tf.range(tf.shape(here.logits)[0])), axis=0)
            back = tf.argsort(order)
            return Forward(
                tf.gather(here.features, order),
                tf.gather(here.logits, order),
                here.state,
                lambda u: here.pullback(tf.gather(u, back)),
                lambda u: here.gradient(tf.gather(u, back)),
            )

        return ordered

    def whole_loss(self, values, mixed, lx, lu, logits):
        """The sum of both parts and the penalty, in the form that is asked for."""
        loss = lx
        if not self.labeled_only:
            loss += tf.cast(values["slots"]["unlabeled_weight_now"], lx.dtype) * lu
        if self.prior_penalty:
            uniform = tf.ones_like(logits[0]) / self.num_classes
            counts = mixed.is_labeled if self.labeled_only else None
            loss += self.prior_penalty * prior_penalty(logits, uniform, counts=counts)
        return loss

    def result(self, training_loss, phi, here, mixed):
        """What the step of a network comes to."""
        gradient = real_gradient(training_loss, phi, here)
        loss = training_loss(phi, here.features, here.logits, False)
        logs = {"loss": loss, "labeled": tf.reduce_mean(mixed.is_labeled)}
        logs |= self.reference_logs(here)
        return StepResult(gradient, here.state, here.logits, logs)

    # --- use

    def weigh(self, x, y):
        """How likely each label is right, by the last split of both networks."""
        targets = to_targets(y, self.num_classes)
        mixtures = tf.unstack(self.slots["mixture"].value)
        found = [
            _posterior(cross_entropy(network(x)[1], targets), mixture)
            for network, mixture in zip(self.networks, mixtures, strict=True)
        ]
        return tf.add_n(found) / len(found)


def _posterior(losses, mixture):
    """Of the lower component; ones before the first split, and of equal losses."""
    low, high, *means, first, second, share, other = tf.unstack(mixture)
    scaled = (losses - low) / tf.maximum(high - low, TINY)
    logs = [
        tf.math.log(weight / tf.sqrt(variance)) - (scaled - mean) ** 2 / (2 * variance)
        for mean, variance, weight in zip(
            means, (first, second), (share, other), strict=True
        )
    ]
    return tf.where(high > low, tf.sigmoid(logs[0] - logs[1]), 1.0)
