"""CLID-MU with few labels: it weighs those of FixMatch, FlexMatch and UDA."""

from typing import Annotated

import tensorflow as tf

from clidmu_tf.core.meta_gradient import meta_step
from clidmu_tf.engine.examples import views_of
from clidmu_tf.engine.settings import Setting
from clidmu_tf.methods.clid_mu import CLIDMU
from clidmu_tf.methods.clid_mu_inner import PartWeighting, WithInner, joins
from clidmu_tf.methods.cross_entropy import mean_cross_entropy
from clidmu_tf.methods.fixmatch import FixMatch
from clidmu_tf.methods.flexmatch import FlexMatch
from clidmu_tf.methods.reweighting import CLASS_SLOTS
from clidmu_tf.methods.semi_supervised import SemiSupervised
from clidmu_tf.methods.uda import UDA

META_FROM = ("unlabeled", "labeled")


class SemiSupervisedCLIDMU(WithInner):
    """CLID-MU's weights of the labelled part of a semi-supervised method.

    The virtual step takes the labelled part alone, as the authors' does; then labels,
    by their new weights, and unlabelled examples make one gradient.
    """

    extra_logs = (*CLIDMU.extra_logs, *SemiSupervised.extra_logs)
    takes_unlabeled_data = True
    weighting_type = PartWeighting

    def __init__(
        self,
        classifier,
        *args,
        meta_from: Annotated[
            str,
            Setting(
                "Which examples' inputs CLID judges by, with an inner method.",
                META_FROM,
                flag="meta_from",
            ),
        ] = "unlabeled",
        **kwargs,
    ):
        super().__init__(classifier, *args, meta_from=meta_from, **kwargs)

    def step(self, kind, forward, values, x, batch):
        classes = [values["slots"][name] for name in CLASS_SLOTS]
        loss, phi = self.weighting.loss(batch, classes), values["phi"]
        meta_loss, meta_gradient = tf.constant(0.0), []
        if kind == "warmup":
            loss = mean_cross_entropy(batch)
        if kind == "meta":
            meta = meta_step(
                forward,
                loss,
                self.meta_objective_of(batch.get("meta", {}).get("targets")),
                self._update_weight_net,
                theta=values["theta"],
                phi=phi,
                state=values["state"],
                x=x,
                meta_x=self._meta_inputs(x, batch),
                **self.virtual_start(values),
                virtual=self._virtual,
            )
            phi, meta_loss = meta.phi, meta.meta_loss
            meta_gradient = meta.meta_gradient

        def labeled(features, logits):
            return loss(phi, features, logits, virtual=False)

        result, labels = self.join(forward, values, x, batch, labeled)
        logs, slots = self.report(
            kind, loss, phi, labels, batch, classes, meta_loss, meta_gradient
        )
        return result._replace(
            logs={**logs, **result.logs}, slots={**result.slots, **slots}
        )

    def _meta_inputs(self, x, batch):
        if "meta" in batch:
            return batch["meta"]["x"]
        unlabeled = self.meta_from == "unlabeled"
        return views_of(batch["unlabeled"]["x"])[0] if unlabeled else x


@joins("fixmatch")
class FixMatchCLIDMU(SemiSupervisedCLIDMU, FixMatch):
    """FixMatch, its labels weighed by CLID-MU: `CLIDMU(…, inner="fixmatch")`."""

    combines = (CLIDMU, FixMatch)


@joins("flexmatch")
class FlexMatchCLIDMU(SemiSupervisedCLIDMU, FlexMatch):
    """FlexMatch, its labels weighed by CLID-MU: `CLIDMU(…, inner="flexmatch")`."""

    combines = (CLIDMU, FlexMatch)


@joins("uda")
class UDACLIDMU(SemiSupervisedCLIDMU, UDA):
    """UDA, its labels weighed by CLID-MU: `CLIDMU(…, inner="uda")`."""

    combines = (CLIDMU, UDA)

    def fit(self, *args, **kwargs):
        """As `SemiSupervised.fit`."""
        if self.annealing != "none":
            raise ValueError(
                f"annealing={self.annealing!r} leaves labels out that CLID-MU is to "
                "weigh: leave it out, or train UDA without CLID-MU."
            )
        return super().fit(*args, **kwargs)
