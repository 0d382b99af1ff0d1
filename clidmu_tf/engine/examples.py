"""Examples that are known by their index: for memories, and for passes over all."""

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.data.pipeline import batches_of_indices
from clidmu_tf.engine.network import count

INPUTS, INDEX = "inputs", "example_index"


def with_index(x, index):
    """Inputs that know which examples they are, as `fit` takes them in a dataset.

    Args:
        x: Inputs of the classifier, `(n, …)`, or several such in a list or dict.
        index: `(n,)` int64, from 0, the same for an example in every epoch.

    Returns:
        A dict; batches of `(with_index(x, index), y)` are what a method that
        remembers its examples needs of a `tf.data.Dataset`.

    Example:

    ```python
    from clidmu_tf.engine.examples import with_index

    x, y = np.random.rand(8, 4), np.arange(8) % 2
    dataset = tf.data.Dataset.from_tensor_slices((x, y, np.arange(8)))
    dataset = dataset.map(lambda x, y, i: (with_index(x, i), y)).batch(4)
    ```
    """
    return {INPUTS: x, INDEX: index}


def split_index(x):
    """The inverse of `with_index`: inputs and index, `None` where there is none."""
    if isinstance(x, dict) and set(x) == {INPUTS, INDEX}:
        return x[INPUTS], x[INDEX]
    return x, None


class ArrayExamples:
    """Training examples in arrays, to be read in order or in part.

    Args:
        x: Inputs, `(n, …)`, or several such in a list, tuple or dict.
        y: Labels.
        seed: Decides the order of `batches`.
    """

    def __init__(self, x, y, seed=0):
        self.x = keras.tree.map_structure(
            np.asarray, keras.tree.lists_to_tuples(x), none_is_leaf=False
        )
        self.y, self.seed = np.asarray(y), seed

    def __len__(self):
        return count(self.y)

    def in_order(self, batch_size):
        """All examples once, by rising index: batches of `(inputs, labels)`."""
        dataset = tf.data.Dataset.from_tensor_slices((self.x, self.y))
        return dataset.batch(batch_size)

    def labels(self):
        """The labels of all examples, by rising index."""
        return self.y

    def batches(self, indices, batch_size, start_step=0):
        """Endless batches of some of the examples, in an order from the seed alone.

        Args:
            indices: `(k,)`, which examples.
            batch_size: Examples a batch, `k` at most.
            start_step: Batches to leave out.
        """
        indices = tf.constant(indices, tf.int64)
        arrays = keras.tree.map_structure(tf.constant, (self.x, self.y))
        order = batches_of_indices(
            len(indices), min(batch_size, len(indices)), self.seed, start_step
        )
        return order.map(
            lambda rows: keras.tree.map_structure(
                lambda array: tf.gather(array, tf.gather(indices, rows)), arrays
            )
        )
