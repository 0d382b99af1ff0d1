"""Learning to be hard to mislead: the meta-gradient of MLNT.

In the notation of the paper, with θ the network's weights, y'_m one of M synthetic
label sets, α the virtual learning rate, and q the teacher's predictions:

    virtual step     θ'_m = θ − α ∇ CE(θ; y'_m)
    consistency      J(θ) = 1/M Σ_m KL(q ‖ p_θ'_m) / num_classes
    meta gradient    ∇J = 1/M Σ_m (v_m − α H_m v_m),   v_m = ∇ KL(θ'_m) / num_classes
                                                      H_m = ∇² CE(θ; y'_m)

The last line is the chain rule through the virtual step, of second order. A gradient
tape around the first two says the same; spelled out, the gradient falls into three
pieces, each a sum over examples. So replicas compute a piece of their part of the
batch each, add up, and go on to the next.

Reference:
    Li et al., "Learning to Learn from Noisy Labeled Data", CVPR 2019,
    arXiv:1812.05214, section 3 and algorithm 1.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from clidmu_tf.core.losses import cross_entropy

Tensors = Sequence[tf.Tensor]
# (theta, state, x) → (features, logits, new_state), pure.
Apply = Callable[[Tensors, Tensors, Any], tuple[tf.Tensor, tf.Tensor, Tensors]]
Function = Callable[..., Any]


class ConsistencyGradient(NamedTuple):
    """What the virtual steps say about θ, all of it summed over the replicas.

    Attributes:
        gradient: ∇_θ of `loss`, tensors as θ.
        loss: ramp · J, a scalar.
        synthetic_losses: `(M,)`, the cross-entropy with each synthetic label set.
        consistencies: `(M,)`, the divergence from the teacher after each step.
    """

    gradient: list[tf.Tensor]
    loss: tf.Tensor
    synthetic_losses: tf.Tensor
    consistencies: tf.Tensor


def consistency_gradient(
    apply: Apply,
    *,
    theta: Tensors,
    state: Tensors,
    x: Any,
    label_sets: tf.Tensor,
    teacher: tf.Tensor,
    learning_rate: float | tf.Tensor,
    ramp: float | tf.Tensor = 1.0,
    total: Callable[[list[tf.Tensor]], Tensors] = list,
    piece: Callable[[Function], Function] = lambda function: function,
    sets_at_once: int | None = None,
) -> ConsistencyGradient:
    """∇_θ of ramp · mean_m consistency(θ − α ∇ CE(θ; y'_m)), of second order.

    Every pass is one in training mode from the same state, so BatchNorm sees the
    batch and dropout drops the same units; the new states are thrown away.

    Args:
        apply: The network, `(theta, state, x) → (features, logits, new_state)`.
        theta: Its trainable values.
        state: Its non-trainable values.
        x: Inputs of the batch, or of this replica's part of it.
        label_sets: `(M, n, num_classes)`, the synthetic labels of these inputs.
        teacher: `(n, num_classes)`, predicted probabilities; constant.
        learning_rate: α of the virtual step, plain gradient descent.
        ramp: How much the consistency counts.
        total: A list of tensors → their sums over the replicas, called four times
            between the pieces; without replicas, what comes as it is.
        piece: Compiles the pieces, say `tf.function`; one that is called several
            times is then traced once.
        sets_at_once: Label sets that share a forward pass; `None` for all, which is
            fastest. Memory, and the time to compile, grow with it.

    Returns:
        A `ConsistencyGradient`.
    """
    (num_examples,) = total([tf.cast(tf.shape(teacher)[0], teacher.dtype)])
    batch = (state, x, num_examples)
    by_labels = piece(functools.partial(label_gradients, apply))
    by_teacher = piece(functools.partial(divergence_gradient, apply))
    by_curvature = piece(functools.partial(curvature_product, apply))
    num_sets = label_sets.shape[0]
    at_once = sets_at_once or num_sets
    groups = [slice(i, i + at_once) for i in range(0, num_sets, at_once)]

    found = [by_labels(theta, *batch, label_sets[group]) for group in groups]
    losses, pulls = zip(*_added(total, found), strict=True)
    moved = [_moved(theta, pull, learning_rate) for group in pulls for pull in group]

    # A loop here, and over the gradients of the label sets. `tf.vectorized_map` over
    # both took 0.0 times as long on a small conv net (32 examples, 10 sets, one CPU
    # core), 0.0 times with XLA, which cannot compile it at all for depthwise or
    # transposed convolutions.
    found = [by_teacher(values, *batch, teacher) for values in moved]
    consistencies, slopes = zip(*_added(total, found), strict=True)

    bend = _added(
        total,
        _sums(
            by_curvature(theta, *batch, label_sets[group], slopes[group])
            for group in groups
        ),
    )
    ramp = tf.cast(ramp, teacher.dtype)
    gradient = [
        tf.cast(ramp / num_sets, value.dtype) * value
        for value in _moved(_sums(slopes), bend, learning_rate)
    ]
    loss = ramp * tf.reduce_mean(consistencies)
    return ConsistencyGradient(
        gradient, loss, tf.concat(losses, axis=0), tf.stack(consistencies)
    )


def label_gradients(
    apply: Apply,
    theta: Tensors,
    state: Tensors,
    x: Any,
    num_examples: tf.Tensor,
    label_sets: tf.Tensor,
) -> tuple[tf.Tensor, list[list[tf.Tensor]]]:
    """∇ CE(θ; y'_m) for each set, by one forward pass: these examples' share.

    Args:
        apply, theta, state, x: As for `consistency_gradient`.
        num_examples: Examples of all replicas, a floating scalar.
        label_sets: `(num_sets, n, num_classes)`.

    Returns:
        The cross-entropies, `(num_sets,)`, and as many gradients, tensors as θ.
    """
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(theta)
        _, logits, _ = apply(theta, state, x)
        losses = [
            tf.reduce_sum(cross_entropy(logits, labels)) / num_examples
            for labels in tf.unstack(label_sets)
        ]
    return tf.stack(losses), [_gradient(tape, loss, theta) for loss in losses]


def divergence_gradient(
    apply: Apply,
    moved: Tensors,
    state: Tensors,
    x: Any,
    num_examples: tf.Tensor,
    teacher: tf.Tensor,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """KL(q ‖ p_θ'_m) / num_classes and v_m: these examples' share.

    Args:
        apply, state, x, num_examples: As for `label_gradients`.
        moved: θ'_m, the trainable values after a virtual step.
        teacher: `(n, num_classes)`, probabilities.

    Returns:
        A scalar, and its gradient by `moved`.
    """
    with tf.GradientTape() as tape:
        tape.watch(moved)
        _, logits, _ = apply(moved, state, x)
        share = tf.reduce_sum(divergence(teacher, logits)) / num_examples
    return share, _gradient(tape, share, moved)


def curvature_product(
    apply: Apply,
    theta: Tensors,
    state: Tensors,
    x: Any,
    num_examples: tf.Tensor,
    label_sets: tf.Tensor,
    directions: Sequence[Tensors],
) -> list[tf.Tensor]:
    """Σ_m H_m v_m = ∇_θ Σ_m ⟨∇ CE(θ; y'_m), v_m⟩: these examples' share.

    Args:
        apply, theta, state, x, num_examples, label_sets: As for `label_gradients`.
        directions: v_m for each set, tensors as θ; those of all replicas.

    Returns:
        Tensors as θ.
    """
    with tf.GradientTape() as tape:
        tape.watch(theta)
        _, pulls = label_gradients(apply, theta, state, x, num_examples, label_sets)
    return _gradient(tape, tf.nest.flatten(pulls), theta, tf.nest.flatten(directions))


def divergence(teacher: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """KL(teacher ‖ softmax(logits)) of each example, divided by the classes.

    The division is the authors': they average over all elements.

    Args:
        teacher: `(n, num_classes)`, probabilities; zeros count nothing.
        logits: `(n, num_classes)`.

    Returns:
        `(n,)`, zero or above.
    """
    teacher = tf.stop_gradient(teacher)
    log_probabilities = tf.nn.log_softmax(logits, axis=-1)
    return tf.reduce_mean(
        tf.math.xlogy(teacher, teacher) - teacher * log_probabilities, axis=-1
    )


def _moved(values: Tensors, slopes: Tensors, rate: float | tf.Tensor) -> Any:
    return [
        value - tf.cast(rate, value.dtype) * slope
        for value, slope in zip(values, slopes, strict=True)
    ]


def _sums(lists: Iterable[Tensors]) -> Any:
    return [tf.add_n(tensors) for tensors in zip(*lists, strict=True)]


def _added(total: Callable[[list[tf.Tensor]], Tensors], nested: Any) -> Any:
    return tf.nest.pack_sequence_as(nested, list(total(tf.nest.flatten(nested))))


def _gradient(
    tape: tf.GradientTape, target: Any, theta: Tensors, weights: Any = None
) -> list[tf.Tensor]:
    gradient = tape.gradient(
        target,
        theta,
        output_gradients=weights,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    # An Embedding's gradient names its rows; sums over sets and replicas need all.
    return [tf.convert_to_tensor(slope) for slope in gradient]
