"""What the published methods with a weight net share: no correction, three settings."""

from clidmu_tf.methods.reweighting import (
    MetaInterval,
    Reweighting,
    VirtualScope,
    WarmupSteps,
)


class AsPublished(Reweighting):
    """`Reweighting` without class balance and prior penalty.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        warmup_steps: Steps of plain cross-entropy before the first meta step.
        meta_interval: A meta update every so many steps.
        virtual_scope: Which weights the virtual step moves: `"all"` (the papers),
            `"last_block"` or `"head"`.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of what the method draws.
    """

    # What a method fixes: the weight net, and what judges it.
    net: str
    objective: str

    def __init__(
        self,
        classifier,
        warmup_steps: WarmupSteps = 0,
        meta_interval: MetaInterval = 1,
        virtual_scope: VirtualScope = "all",
        feature_layer=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            classifier,
            weight_net=self.net,
            meta_objective=self.objective,
            class_balance=False,
            prior_penalty=0.0,
            warmup_steps=warmup_steps,
            meta_interval=meta_interval,
            virtual_scope=virtual_scope,
            feature_layer=feature_layer,
            seed=seed,
            **kwargs,
        )
