"""CLID-MU joined with another method, whose labelled part it weighs.

`CLIDMU(classifier, inner="fixmatch")` is of a class that stands on the one here and on
the inner method's: the loss of its labels is that of CLID-MU's weights, and CLID-MU's
meta step comes before it. Its settings are those of both.
"""

from typing import Annotated

import keras
import tensorflow as tf

from clidmu_tf.core.losses import cross_entropy, mean_over
from clidmu_tf.core.meta_gradient import with_momentum
from clidmu_tf.engine.network import values_of
from clidmu_tf.engine.settings import Setting
from clidmu_tf.methods.clid_mu import CLIDMU
from clidmu_tf.methods.reweighting import WeightNet
from clidmu_tf.methods.weighting import Weighting
from clidmu_tf.nets.weight_nets import WNet

# All but the given labels, which judge whole batches by the last layer alone.
META_OBJECTIVES = ("auto", "clid", "cross_entropy", "mae")


class WithInner(CLIDMU):
    """What all of them share: CLID, or meta labels, judge; not the given labels."""

    combines: tuple[type, ...] = ()
    judged_by_labels = False

    def __init__(
        self,
        classifier,
        weight_net: WeightNet = "wnet",
        meta_objective: Annotated[
            str,
            Setting(
                "What judges the virtual step; auto: clid.",
                META_OBJECTIVES,
                flag="meta_objective",
            ),
        ] = "auto",
        *args,
        virtual_momentum: Annotated[
            bool,
            Setting(
                "The virtual step is SGD's own, with momentum and weight decay.",
                flag="virtual_momentum",
            ),
        ] = False,
        inner=None,
        **kwargs,
    ):
        if inner not in (None, self.inner):
            raise ValueError(
                f"inner of {type(self).__name__} is {self.inner!r}; received {inner!r}."
            )
        weight_net = WNet() if weight_net == "wnet" else weight_net
        kwargs["virtual_momentum"] = virtual_momentum
        super().__init__(classifier, weight_net, meta_objective, *args, **kwargs)

    def compile(self, optimizer="sgd", meta_optimizer=None, **kwargs):
        """As `Reweighting.compile`."""
        super().compile(optimizer, meta_optimizer, **kwargs)
        if self.virtual_momentum and not getattr(self.optimizer, "momentum", 0):
            raise ValueError(
                "virtual_momentum=True takes the step of SGD with momentum; received "
                f"optimizer={type(self.optimizer).__name__} without: give "
                "keras.optimizers.SGD(…, momentum=0.9), or leave it out."
            )

    def values(self):
        found = super().values()
        if self.virtual_momentum:
            velocity = iter(values_of(self.optimizer.momentums))
            for own in found if isinstance(found, list) else [found]:
                own["velocity"] = [next(velocity) for _ in own["theta"]]
        return found

    def virtual_start(self, values):
        """`start` and `learning_rate` of `meta_step`."""
        if not self.virtual_momentum:
            return {"learning_rate": values["learning_rate"]}
        optimizer = self.optimizer
        start, rate = with_momentum(
            *(values["theta"], values["velocity"], values["learning_rate"]),
            *(optimizer.momentum, optimizer.weight_decay or 0.0, optimizer.nesterov),
        )
        return {"start": start, "learning_rate": rate}

    @classmethod
    def takes_meta_data(cls, settings):
        return True

    @property
    def inner(self):
        """The inner method's name."""
        return next(n for n, c in CLIDMU.joined.items() if c is type(self))

    def get_config(self):
        return {**super().get_config(), "inner": self.inner}


def joins(name):
    """Registers a class as what `CLIDMU(…, inner=name)` is."""

    def register(cls):
        CLIDMU.joined[name] = cls
        return keras.saving.register_keras_serializable("clidmu_tf")(cls)

    return register


class PartWeighting(Weighting):
    """Weights of some of a batch's labels, or of few: a mean, of nothing normalised.

    With `class_balance` weights have mean one in each class, so that the labels keep
    their part beside the unlabelled loss; without it this is the authors' form.
    """

    def _weighted(self, phi, features, logits, batch, classes, virtual):
        losses = cross_entropy(logits, batch["targets"]) * batch["sample_weight"]
        weights = self.raw_weights(phi, features, logits, batch)
        weights = self.balanced(weights, batch["targets"], classes)
        return mean_over(weights * losses, batch.get("kept", tf.ones_like(losses)))

    def _masked(self, phi, features, logits, batch, classes, virtual):
        noise = batch["noise"][0 if virtual else 1]
        mask, kl = self.mask(phi, features, batch["targets"], noise)
        losses = cross_entropy(mask * logits, batch["targets"])
        losses *= batch["sample_weight"]
        loss = mean_over(losses, batch.get("kept", tf.ones_like(losses)))
        return loss + self.weight_net.kl_weight * kl if virtual else loss
