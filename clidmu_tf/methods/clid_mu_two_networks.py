"""CLID-MU with two networks: it weighs the labels of co-teaching and DivideMix."""

import functools
from typing import Annotated

import tensorflow as tf

from clidmu_tf.core.divide import divided_losses
from clidmu_tf.core.meta_gradient import meta_step, real_gradient
from clidmu_tf.engine.method import StepResult
from clidmu_tf.engine.network import values_of
from clidmu_tf.engine.settings import Setting
from clidmu_tf.methods.clid_mu import CLIDMU
from clidmu_tf.methods.clid_mu_inner import PartWeighting, WithInner, joins
from clidmu_tf.methods.co_teaching import CoTeaching
from clidmu_tf.methods.dividemix import DivideMix
from clidmu_tf.methods.reweighting import CLASS_SLOTS
from clidmu_tf.nets.weight_nets import another


class TwoNetworksCLIDMU(WithInner):
    """A weight net for each of two networks, both moved by one meta update a step."""

    def build_method(self):
        self.weight_net.build_for(self.network.num_features, self.network.num_classes)
        self.peer_weight_net = another(self.weight_net)
        self.peer_weight_net.build_for(
            self.network.num_features, self.network.num_classes
        )
        super().build_method()
        for name in CLASS_SLOTS:
            slot = self.slots[name]
            self.add_slot(f"peer_{name}", slot.shape, float(slot.numpy()[0]))

    def parts(self):
        return {**super().parts(), "peer_weight_net": self.peer_weight_net}

    @property
    def weight_variables(self):
        """The variables of φ of each network."""
        nets = self.weight_net, self.peer_weight_net
        return [net.trainable_variables for net in nets]

    @property
    def meta_variables(self):
        return [v for variables in self.weight_variables for v in variables]

    def values(self):
        found = super().values()
        return [
            {**own, "phi": values_of(variables)}
            for own, variables in zip(found, self.weight_variables, strict=True)
        ]

    def meta_update(self, values, gradients):
        """Moves both weight nets, by one step; returns the values with both new φ."""
        phi = iter(self._update_weight_net([g for of in gradients for g in of]))
        return [{**own, "phi": [next(phi) for _ in own["phi"]]} for own in values]

    def meta_gradient(self, forward, loss, objective, values, x, meta_x):
        """The meta loss of one network, and its gradient by φ."""
        meta = meta_step(
            forward,
            loss,
            objective,
            lambda gradient: values["phi"],
            theta=values["theta"],
            phi=values["phi"],
            state=values["state"],
            x=x,
            meta_x=meta_x,
            **self.virtual_start(values),
            virtual=self._virtual,
        )
        return meta.meta_loss, meta.meta_gradient

    def classes_of(self, i, values):
        """What is known of each class by network i."""
        return [values["slots"][_slot(i, name)] for name in CLASS_SLOTS]

    def reported(self, i, result, kind, loss, values, here, batch, meta):
        """A result, with what a step logs, and leaves known of each class."""
        classes = self.classes_of(i, values)
        logs, slots = self.report(
            kind, loss, values["phi"], here, batch, classes, *meta
        )
        slots = {_slot(i, name): value for name, value in slots.items()}
        return result._replace(logs={**logs, **result.logs}, slots=slots)


def _without_weights(result):
    """The result of a step that weighs nothing."""
    logs = {"meta_loss": 0.0, "mean_weight": 1.0, "meta_grad_norm": 0.0}
    logs = {name: tf.constant(value) for name, value in logs.items()}
    return result._replace(logs={**result.logs, **logs})


def _slot(i, name):
    return f"peer_{name}" if i else name


@joins("co_teaching")
class CoTeachingCLIDMU(TwoNetworksCLIDMU, CoTeaching):
    """Co-teaching whose chosen labels are weighed: `CLIDMU(…, inner="co_teaching")`."""

    combines = (CLIDMU, CoTeaching)

    weighting_type = PartWeighting
    step = CoTeaching.step

    def learn(self, kind, forward, values, x, batch, heres, kept):
        if kind == "warmup":
            results = CoTeaching.learn(
                self, kind, forward, values, x, batch, heres, kept
            )
            return [_without_weights(result) for result in results]
        batches = [{**batch, "kept": chosen} for chosen in kept]
        losses = [
            self.weighting.loss(own, self.classes_of(i, values[i]))
            for i, own in enumerate(batches)
        ]
        metas = [(tf.constant(0.0), [])] * 2
        if kind == "meta":
            meta = batch.get("meta", {"x": x})
            objective = self.meta_objective_of(meta.get("targets"))
            metas = [
                self.meta_gradient(forward, loss, objective, own, x, meta["x"])
                for loss, own in zip(losses, values, strict=True)
            ]
            values = self.meta_update(values, [gradient for _, gradient in metas])
        results = []
        for i, here in enumerate(heres):
            gradient = real_gradient(losses[i], values[i]["phi"], here)
            result = StepResult(gradient, here.state, here.logits, {})
            results.append(
                self.reported(
                    *(i, result, kind, losses[i], values[i], here, batches[i]), metas[i]
                )
            )
        return results


@joins("dividemix")
class DivideMixCLIDMU(TwoNetworksCLIDMU, DivideMix):
    """DivideMix whose mixed rows are weighed: `CLIDMU(…, inner="dividemix")`."""

    combines = (CLIDMU, DivideMix)
    extra_logs = (*CLIDMU.extra_logs, *DivideMix.extra_logs)

    def __init__(
        self,
        classifier,
        *args,
        hard_class: Annotated[
            bool,
            Setting(
                "VRI is told the likeliest class of a mixed row, not its mixture.",
                flag="hard_class",
            ),
        ] = False,
        **kwargs,
    ):
        super().__init__(classifier, *args, hard_class=hard_class, **kwargs)

    step = DivideMix.step

    def step_kind(self, step):
        if self.epoch < self.warmup_epochs:
            return "warmup"
        kind = CLIDMU.step_kind(self, step)
        return "train" if kind == "warmup" else kind  # DivideMix, and no weights yet

    def draws(self, batch, kind):
        found = DivideMix.draws(self, batch, kind)
        if kind == "warmup" or not self.weighting.masks:
            return found
        rows, classes = tf.unstack(tf.shape(batch["targets"]))
        seed = tf.cast(self.generator.next(), "int32")
        noise = tf.random.stateless_normal([2, 2, 2 * rows, classes], seed)
        return {**found, "noise": noise}

    def _warm_up(self, forward, values, x, batch):
        return _without_weights(DivideMix._warm_up(self, forward, values, x, batch))

    def learn(self, kind, forward, values, mixed, x, batch):
        if kind == "train":
            results = DivideMix.learn(self, kind, forward, values, mixed, x, batch)
            return [_without_weights(result) for result in results]
        if self.weighting.masks:
            mixed = [m._replace(noise=batch["noise"][i]) for i, m in enumerate(mixed)]
        known = [self.classes_of(i, own) for i, own in enumerate(values)]
        metas = [(tf.constant(0.0), [])] * 2
        if kind == "meta":
            meta = batch.get("meta", {"x": x})
            judge = self.once(functools.partial(self._judge, forward))
            metas = [judge(*of, meta) for of in zip(values, mixed, known, strict=True)]
            values = self.meta_update(values, [gradient for _, gradient in metas])
        learn = self.once(functools.partial(self._learn_weighed, forward))
        found = [learn(*of) for of in zip(values, mixed, known, strict=True)]
        return [
            self.reported(
                *(i, result, kind, self._loss(values[i], mixed[i], known[i])),
                *(values[i], here, {"targets": mixed[i].targets}, metas[i]),
            )
            for i, (result, here) in enumerate(found)
        ]

    def _judge(self, forward, values, mixed, known, meta):
        loss = self._loss(values, mixed, known)
        objective = self.meta_objective_of(meta.get("targets"))
        forward = self.in_order(forward, mixed)
        return self.meta_gradient(forward, loss, objective, values, mixed.x, meta["x"])

    def _learn_weighed(self, forward, values, mixed, known):
        forward = self.in_order(forward, mixed)
        here = forward(values["theta"], values["state"], mixed.x)
        loss = self._loss(values, mixed, known)
        result = self.result(loss, values["phi"], here, mixed)
        # Of a forward pass, only tensors leave a compiled piece.
        return result, here._replace(pullback=None, gradient=None)

    def _loss(self, values, mixed, known):
        """L of the mixed rows: `(phi, features, logits, virtual) → scalar`."""
        targets, is_labeled = mixed.targets, mixed.is_labeled
        own = {"sample_weight": mixed.sample_weight}

        def training_loss(phi, features, logits, virtual):
            if not self.weighting.masks:
                given = {"targets": targets}
                weights = self.weighting.raw_weights(phi, features, logits, given)
                weights = self.weighting.balanced(weights, targets, known)
                weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights))
                lx, lu = divided_losses(logits, targets, is_labeled, weights, **own)
                return self.whole_loss(values, mixed, lx, lu, logits)
            said = targets
            if self.hard_class:
                likeliest = tf.argmax(targets, axis=-1)
                said = tf.one_hot(likeliest, self.num_classes, dtype=targets.dtype)
            noise = mixed.noise[0 if virtual else 1]
            mask, kl = self.weighting.mask(phi, features, said, noise)
            lx, lu = divided_losses(mask * logits, targets, is_labeled, **own)
            loss = self.whole_loss(values, mixed, lx, lu, logits)
            return loss + self.weight_net.kl_weight * kl if virtual else loss

        return training_loss
