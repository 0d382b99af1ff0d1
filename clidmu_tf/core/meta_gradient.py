"""The heart: one meta step as a pure function of tensors.

In the notation of the paper, with θ the classifier's weights, φ the weight
net's, η the learning rate, and J the Jacobian of the logits by θ:

    virtual step     θ̂(φ) = θ − η ∇_θ L_w(θ; φ)
    meta gradient    ∇_φ CLID(f_θ̂(x_M), z_θ̂(x_M))
    real gradient    ∇_θ L_w(θ; φ_new), the weights held constant

`plain_meta_gradient` says just that. `meta_step` is what runs: the same
gradient, by tests to the last digits, from one forward pass less. The loss
reads θ through the logits alone (the weight nets' inputs are detached), so
both gradients by θ are Jᵀu with u = ∂L_w/∂z, and one pass serves the virtual
step and the real one. Everything here takes and returns lists of tensors,
never variables, so that XLA can compile it and every `tf.distribute` strategy
can run it.

Reference:
    Hu et al., KDD 2025, arXiv:2507.11807, section 4 and algorithm 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Tensors = list[tf.Tensor]
# (φ, features, logits, whether it is for the virtual step) → a scalar
TrainingLoss = Callable[..., tf.Tensor]
MetaObjective = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def plain_meta_gradient(
    apply: Callable[..., Any],
    training_loss: TrainingLoss,
    meta_objective: MetaObjective,
    theta: Tensors,
    phi: Tensors,
    x: Any,
    meta_x: Any,
    learning_rate: float,
) -> Tensors:
    """∇_φ of the meta objective, as the formulas say it; `meta_step` equals it."""
    with tf.GradientTape() as outer:
        outer.watch(phi)
        with tf.GradientTape() as inner:
            inner.watch(theta)
            loss = training_loss(phi, *apply(theta, x), True)
        gradient = inner.gradient(loss, theta)
        moved = [w - learning_rate * g for w, g in zip(theta, gradient, strict=True)]
        meta_loss = meta_objective(*apply(moved, meta_x))
    meta_gradient: Tensors = outer.gradient(meta_loss, phi)
    return meta_gradient


class Forward(NamedTuple):
    """A forward pass in training mode and the way back through it.

    Attributes:
        features: `(n, d)`, no gradient flows through them.
        logits: `(n, num_classes)`, differentiable by θ.
        state: The classifier's new non-trainable values.
        pullback: u `(n, num_classes)` → Jᵀu, tensors as θ; differentiable by u.
        gradient: As `pullback`, but only this replica's share of it; the sum of
            the shares over the replicas is the gradient.
    """

    features: tf.Tensor
    logits: tf.Tensor
    state: Tensors
    pullback: Callable[[tf.Tensor], Tensors]
    gradient: Callable[[tf.Tensor], Tensors]


class MetaStep(NamedTuple):
    """What a meta step comes to.

    Attributes:
        gradient: ∇_θ L_w(θ; φ_new), this replica's share.
        state: The classifier's new non-trainable values.
        here: The `Forward` of the labelled batch.
        meta_loss: The meta objective after the virtual step.
        meta_gradient: ∇_φ of it.
        phi: φ_new.
    """

    gradient: Tensors
    state: Tensors
    here: Forward
    meta_loss: tf.Tensor
    meta_gradient: Tensors
    phi: Tensors


def local_forward(apply: Callable[..., Any]) -> Callable[..., Forward]:
    """Forward passes on one device, by nested gradient tapes.

    Args:
        apply: `(theta, state, x) → (features, logits, new_state)`, pure.

    Returns:
        A function `(theta, state, x) → Forward`.
    """

    def forward(theta: Tensors, state: Tensors, x: Any) -> Forward:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(theta)
            features, logits, state = apply(theta, state, x)

        def pullback(u: tf.Tensor) -> Tensors:
            gradient: Tensors = tape.gradient(
                logits,
                theta,
                output_gradients=u,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return gradient

        features = tf.stop_gradient(features)
        return Forward(features, logits, state, pullback, pullback)

    return forward


def meta_step(
    forward: Callable[..., Forward],
    training_loss: TrainingLoss,
    meta_objective: MetaObjective,
    update_weight_net: Callable[[Tensors], Tensors],
    *,
    theta: Tensors,
    phi: Tensors,
    state: Tensors,
    x: Any,
    meta_x: Any,
    learning_rate: float,
    virtual: list[bool] | None = None,
    start: Tensors | None = None,
) -> MetaStep:
    """One meta update, and the gradient of the real update that follows it.

    Args:
        forward: `(theta, state, x) → Forward`.
        training_loss: `(phi, features, logits, virtual) → scalar`, L_w.
        meta_objective: `(features, logits) → scalar`, of the meta batch.
        update_weight_net: ∇_φ → φ_new, a step of the meta optimizer: the one effect
            of a step, since Keras has no stateless optimizers on TensorFlow. Whoever
            needs a pure step hands in a pure update.
        theta: The classifier's trainable values.
        phi: The weight net's trainable values.
        state: The classifier's non-trainable values.
        x: Inputs of the labelled batch.
        meta_x: Inputs of the meta batch.
        learning_rate: η of the virtual step, plain SGD.
        virtual: Which of θ the virtual step moves, booleans; `None` for all.
        start: Where the virtual step sets out from, such as `with_momentum` says;
            `None` for θ.

    Returns:
        A `MetaStep`.
    """
    here = forward(theta, state, x)
    with tf.GradientTape() as tape:
        tape.watch(phi)
        u = loss_gradient(training_loss, phi, here, virtual=True)
        slopes = here.pullback(u)
        moved = virtual_step(start or theta, slopes, learning_rate, virtual)
        there = forward(moved, here.state, meta_x)
        meta_loss = meta_objective(there.features, there.logits)
    meta_gradient = tape.gradient(
        meta_loss, phi, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    phi = update_weight_net(meta_gradient)
    gradient = real_gradient(training_loss, phi, here)
    state = carry_state(here.state, there.state)
    return MetaStep(gradient, state, here, meta_loss, meta_gradient, phi)


def loss_gradient(
    training_loss: TrainingLoss, phi: Tensors | None, outputs: Forward, virtual: bool
) -> tf.Tensor:
    """u = ∂L_w/∂z, a function of φ that an outer tape can differentiate."""
    features = tf.stop_gradient(outputs.features)
    logits = tf.stop_gradient(outputs.logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = training_loss(phi, features, logits, virtual)
    # A loss that gathers rows has a gradient that names them.
    return tf.convert_to_tensor(tape.gradient(loss, logits))


def virtual_step(
    theta: Tensors,
    gradient: Tensors,
    learning_rate: float,
    moves: list[bool] | None = None,
) -> Tensors:
    """θ̂ = θ − η ∇_θ L_w; without momentum or weight decay."""
    moves = moves or [True] * len(theta)
    return [
        value - tf.cast(learning_rate, value.dtype) * slope if move else value
        for value, slope, move in zip(theta, gradient, moves, strict=True)
    ]


def with_momentum(
    theta: Tensors,
    velocity: Tensors,
    learning_rate: float | tf.Tensor,
    momentum: float,
    weight_decay: float | Sequence[float] = 0.0,
    nesterov: bool = False,
) -> tuple[Tensors, float | tf.Tensor]:
    """The virtual step of SGD with momentum, as a plain one from another start.

    The update is affine in the gradient, so that what momentum and decay add to it
    depends on no weight net.

    Args:
        theta: θ.
        velocity: The optimizer's, as Keras keeps it: what it last added to θ.
        learning_rate: η.
        momentum: How much of the velocity stays.
        weight_decay: Of θ in the gradient; one number, or one for each of θ.
        nesterov: Whether the momentum looks ahead.

    Returns:
        `start` and `learning_rate` of `meta_step`.
    """
    if isinstance(weight_decay, float | int):
        weight_decay = [weight_decay] * len(theta)
    reach = 1 + momentum if nesterov else 1.0
    keep = momentum**2 if nesterov else momentum
    rate = reach * learning_rate
    start = [
        value * (1 - tf.cast(rate, value.dtype) * decay) + keep * moved
        for value, moved, decay in zip(theta, velocity, weight_decay, strict=True)
    ]
    return start, rate


def real_gradient(
    training_loss: TrainingLoss, phi: Tensors | None, outputs: Forward
) -> Tensors:
    """∇_θ L_w(θ; φ), the weights held constant: this replica's share."""
    return outputs.gradient(loss_gradient(training_loss, phi, outputs, virtual=False))


def carry_state(labelled: Tensors, meta: Tensors) -> Tensors:
    """What the step leaves behind: statistics of θ's own pass, advanced seeds.

    The moving averages of the virtual pass are thrown away. Seeds (integers)
    come from the later pass, so that no dropout mask is drawn twice.
    """
    return [
        after if after.dtype.is_integer else before
        for before, after in zip(labelled, meta, strict=True)
    ]
