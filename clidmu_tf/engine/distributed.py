"""The forward pass of `meta_gradient` under a `tf.distribute` strategy.

XLA cannot compile a function that talks to other replicas. So the pieces
between the conversations are compiled, each a pure function of tensors, and
the conversations (gathers and all-reduces) lie between them.
"""

import keras
import tensorflow as tf

from clidmu_tf.core.meta_gradient import Forward


class Replicas:
    """Talk to the other replicas of the step, so that all see the global batch."""

    def gather(self, tensor):
        """`(b, …)` of each replica → `(replicas · b, …)`, in replica order."""
        return tf.distribute.get_replica_context().all_gather(tensor, axis=0)

    def rows(self, tensor):
        """Where `gather` puts this replica's rows of a tensor: start and end."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        count = tensor.shape[0]
        if count is not None:  # batches of one size, which replicas share equally
            return replica * count, (replica + 1) * count
        count = tf.shape(tensor)[0]
        end = tf.cumsum(self.gather(count[None]))[replica]
        return end - count, end

    def scatter(self, tensor, rows):
        """The inverse of `gather`: this replica's rows."""
        start, end = rows
        return tensor[start:end]

    def parts(self, sizes):
        """How to part rows that each replica has put together, after a `gather`.

        Args:
            sizes: How many rows each part has on this replica.

        Returns:
            A function of gathered rows: the parts of all replicas.
        """
        numbers = [tf.fill([size], i) for i, size in enumerate(sizes)]
        part_of = self.gather(tf.concat(numbers, axis=0))
        places = [tf.where(part_of == i)[:, 0] for i in range(len(sizes))]
        return lambda rows: [tf.gather(rows, place) for place in places]

    def sum(self, tensors):
        """The sum of each tensor over the replicas."""
        return _all_reduce(tf.distribute.ReduceOp.SUM, tensors)

    def share(self, gradient):
        """This replica's part of a gradient that will be summed."""
        return gradient


class Alone:
    """No talk: every replica sees its own part of the batch, for cheaper steps."""

    def gather(self, tensor):
        return tensor

    def rows(self, tensor):
        return None

    def scatter(self, tensor, rows):
        return tensor

    def parts(self, sizes):
        return lambda rows: tf.split(rows, sizes)

    def sum(self, tensors):
        return tensors

    def share(self, gradient):
        context = tf.distribute.get_replica_context()
        return [slope / context.num_replicas_in_sync for slope in gradient]


def mean_over_replicas(tensors):
    """Means of floating tensors; integers (seeds) are alike and pass through."""
    floats = [tensor for tensor in tensors if tensor.dtype.is_floating]
    means = iter(_all_reduce(tf.distribute.ReduceOp.MEAN, floats))
    return [next(means) if t.dtype.is_floating else t for t in tensors]


def distributed_forward(apply, replicas, jit_compile):
    """Forward passes whose outputs are those of all replicas.

    What a tape sees is one device with the global batch: `logits` are
    differentiable by θ, `pullback` by u, and both ways are spelled out here.

    Args:
        apply: `(theta, state, x) → (features, logits, new_state)`, pure.
        replicas: `Replicas()` or `Alone()`.
        jit_compile: Whether XLA compiles the pieces.

    Returns:
        A function `(theta, state, x) → Forward`.
    """

    def piece(function):
        return tf.function(function, jit_compile=True) if jit_compile else function

    outputs = piece(apply)
    vjp = piece(lambda theta, state, x, u: _vjp(apply, theta, state, x, u))
    jvp = piece(lambda theta, state, x, v: _jvp(apply, theta, state, x, v))

    def forward(theta, state, x):
        features, logits, new_state = outputs(theta, state, x)
        rows = replicas.rows(keras.tree.flatten(x)[0])

        def pull(u):
            return replicas.sum(vjp(theta, state, x, replicas.scatter(u, rows)))

        @tf.custom_gradient
        def pullback(u):
            return pull(u), lambda *v: replicas.gather(jvp(theta, state, x, list(v)))

        def gradient(u):
            return replicas.share(vjp(theta, state, x, replicas.scatter(u, rows)))

        @tf.custom_gradient
        def connect(logits, *unused_theta):
            return tf.identity(logits), lambda u: (None, *pull(u))

        features, logits = replicas.gather(features), replicas.gather(logits)
        logits = connect(tf.stop_gradient(logits), *theta)
        return Forward(
            tf.stop_gradient(features), logits, new_state, pullback, gradient
        )

    return forward


def _all_reduce(operation, tensors):
    if not tensors or not tf.distribute.has_strategy():
        return tensors
    # An identity has a device, which a function's argument may lack and a
    # multi-worker all-reduce needs.
    tensors = [tf.identity(tensor) for tensor in tensors]
    return tf.distribute.get_replica_context().all_reduce(operation, tensors)


def _vjp(apply, theta, state, x, u):
    with tf.GradientTape() as tape:
        tape.watch(theta)
        _, logits, _ = apply(theta, state, x)
    return tape.gradient(
        logits,
        theta,
        output_gradients=u,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def _jvp(apply, theta, state, x, v):
    with tf.autodiff.ForwardAccumulator(theta, v) as accumulator:
        _, logits, _ = apply(theta, state, x)
    return accumulator.jvp(logits, unconnected_gradients=tf.UnconnectedGradients.ZERO)
