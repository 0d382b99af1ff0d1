"""Wrong labels made on purpose: those of the nearest examples in the batch."""

import tensorflow as tf

NEIGHBORS = 10


def nearest_in_batch(features: tf.Tensor, count: int = NEIGHBORS) -> tf.Tensor:
    """The nearest other examples of each, by squared distance, nearest first.

    Args:
        features: `(n, d)`, n above `count`.
        count: How many neighbours.

    Returns:
        `(n, count)`, int32: the indices of the neighbours, never the example itself.

    Raises:
        ValueError: The batch holds `count` examples or fewer.
    """
    num_examples = features.shape[0]
    if num_examples is not None and num_examples <= count:
        raise ValueError(
            f"features must be those of {count + 1} examples or more, so that each has "
            f"{count} neighbours; received {num_examples}."
        )
    # Distances do not change with the origin, but their rounding errors do.
    centred = features - tf.reduce_mean(features, axis=0)
    length = tf.reduce_sum(centred**2, axis=-1)
    products = tf.matmul(centred, centred, transpose_b=True)
    distance = length[:, None] + length[None, :] - 2 * products
    itself = tf.fill(tf.shape(length), tf.constant(float("inf"), features.dtype))
    distance = tf.linalg.set_diag(distance, itself)
    return tf.math.top_k(-distance, count).indices


def synthetic_labels(
    labels: tf.Tensor,
    neighbors: tf.Tensor,
    permutations: tf.Tensor,
    draws: tf.Tensor,
) -> tf.Tensor:
    """Sets of labels in which some examples have a neighbour's.

    Like the noise of the data, this noise mistakes an example for a similar one. In
    set m, example i = permutations[m, j] gets the given label of its neighbour
    neighbors[i, draws[m, j]], for each j of `draws`; the others keep their own.

    Args:
        labels: `(n,)` class indices, or `(n, num_classes)` targets.
        neighbors: `(n, count)`, from `nearest_in_batch`.
        permutations: `(num_sets, n)`, integer: an order of the examples for each set.
        draws: `(num_sets, num_perturbed)`, integers from 0 to `count` − 1: which
            neighbour gives its label to the first examples of that order.

    Returns:
        `(num_sets, n)` or `(num_sets, n, num_classes)`, of the dtype of `labels`.

    Example:

    ```python
    from clidmu_tf.core.neighbors import nearest_in_batch, synthetic_labels

    features = tf.constant([[0.0], [0.1], [5.0], [5.3]])
    neighbors = nearest_in_batch(features, count=1)
    order, draws = tf.constant([[2, 0, 1, 3]]), tf.constant([[0]])
    labels = synthetic_labels(tf.constant([0, 0, 1, 2]), neighbors, order, draws)
    assert labels.numpy().tolist() == [[0, 0, 2, 2]]
    ```

    Reference:
        Li et al., "Learning to Learn from Noisy Labeled Data", CVPR 2019,
        arXiv:1812.05214, section 3.2.
    """
    num_sets, num_perturbed = tf.shape(draws)[0], tf.shape(draws)[1]
    chosen = permutations[:, :num_perturbed]
    donors = tf.gather(
        tf.gather(neighbors, chosen), tf.cast(draws, "int32"), batch_dims=2
    )
    own = tf.tile(tf.range(tf.shape(labels)[0])[None], [num_sets, 1])
    sets = tf.tile(tf.range(num_sets)[:, None], [1, num_perturbed])
    places = tf.stack([sets, tf.cast(chosen, "int32")], axis=-1)
    giver = tf.tensor_scatter_nd_update(own, places, tf.cast(donors, "int32"))
    return tf.gather(labels, giver)
