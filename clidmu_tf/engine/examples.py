"""Examples known by their index, in one view or several; and passes over all."""

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.data import augment as augmentations
from clidmu_tf.data.pipeline import (
    META_SEED,
    VIEW_SEED,
    batches_of_indices,
    seeds_of,
)
from clidmu_tf.engine.network import count

INPUTS, INDEX, VIEW = "inputs", "example_index", "view_"


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


def with_views(*views):
    """Several views of the same inputs, as batches hold them.

    Args:
        *views: Inputs of the classifier, the same examples under different
            augmentations.

    Returns:
        A dict.
    """
    return {f"{VIEW}{i}": view for i, view in enumerate(views)}


def views_of(x):
    """The inverse of `with_views`: the views, or the inputs as the only one."""
    names = [f"{VIEW}{i}" for i in range(len(x))] if isinstance(x, dict) else []
    if names and set(x) == set(names):
        return [x[name] for name in names]
    return [x]


def batches_of_views(x, others, views, batch_size, seed, start_step=0):
    """Endless batches of arrays, shuffled and augmented by seed and position alone.

    Args:
        x: Inputs, `(n, …)`, or several such in a list, tuple or dict.
        others: A tuple of arrays that go with them, labels say.
        views: An augmentation for each view, `None` for the inputs as they are.
        batch_size: Examples a batch; what does not fill one is left out.
        seed: Decides order and augmentation.
        start_step: Batches to leave out.

    Returns:
        A `tf.data.Dataset` of tuples: inputs that know their index, and the others.
    """
    examples = count(x)
    steps = examples // batch_size
    check_range(x, views)
    arrays = keras.tree.lists_to_tuples((x, tuple(others)))
    arrays = keras.tree.map_structure(tf.constant, arrays)
    views = [augmentation_of(view) for view in views]
    order = batches_of_indices(examples, batch_size, seed, start_step)

    def load(step, index):
        inputs, rest = keras.tree.map_structure(lambda a: tf.gather(a, index), arrays)
        number = step // steps * examples + index
        seen = [
            inputs
            if view is None
            else view(
                tf.cast(inputs, tf.float32),
                seeds_of(seed + 1 + i * VIEW_SEED, number),
            )
            for i, view in enumerate(views)
        ]
        seen = with_views(*seen) if len(seen) > 1 else seen[0]
        return (with_index(seen, index), *rest)

    return order.enumerate(start_step).map(load, tf.data.AUTOTUNE, deterministic=True)


def augmentation_of(spec):
    """An augmentation from words, such as `"flip,crop"`, or as it is."""
    return augmentations.build(spec) if isinstance(spec, str) else spec


def check_range(x, views):
    """Refuses images whose pixels an augmentation would round away."""
    if not any(isinstance(view, str) and "randaugment" in view for view in views):
        return
    values = np.asarray(keras.tree.flatten(x)[0])
    if values.dtype.kind != "u" and (values.min() < 0 or values.max() <= 1):
        raise ValueError(
            "randaugment takes pixels from 0 to 255; received values from "
            f"{values.min():g} to {values.max():g}: give the images as they are, and "
            "let the classifier begin with keras.layers.Rescaling(1 / 255)."
        )


class ArrayExamples:
    """Training examples in arrays, to be read in order or in part.

    Args:
        x: Inputs, `(n, …)`, or several such in a list, tuple or dict.
        y: Labels.
        seed: Decides the order of `batches`.
    """

    def __init__(self, x, y, seed=0):
        self.y, self.seed = np.asarray(y), seed
        # As tensors, once: a dataset of arrays would copy them in every epoch.
        self._arrays = keras.tree.map_structure(
            tf.constant, (keras.tree.lists_to_tuples(x), self.y), none_is_leaf=False
        )

    def __len__(self):
        return count(self.y)

    def in_order(self, batch_size):
        """All examples once, by rising index: batches of `(inputs, labels)`."""
        dataset = tf.data.Dataset.from_tensor_slices(self._arrays)
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
        # Another order than that of the batches that are learnt from.
        order = batches_of_indices(
            *(len(indices), min(batch_size, len(indices))),
            *(self.seed + META_SEED, start_step),
        )
        return order.map(
            lambda rows: keras.tree.map_structure(
                lambda array: tf.gather(array, tf.gather(indices, rows)), self._arrays
            )
        )


def batch_size_of(x, kwargs):
    """The batch size that `fit` goes by."""
    if isinstance(x, tf.data.Dataset):
        shape = keras.tree.flatten(x.element_spec)[0].shape
        return (shape[0] if shape.rank else None) or 32  # one that is not batched: 32
    return kwargs.get("batch_size") or 32


def split_off_validation(x, y, kwargs):
    """Splits off what Keras would, so that an index counts training examples alone."""
    share = kwargs.pop("validation_split", 0.0)
    if not share:
        return x, y, kwargs
    last = int(count(y) * (1 - share))
    arrays = (x, y, kwargs.pop("sample_weight", None))
    train, held_out = (
        keras.tree.map_structure(
            lambda array, rows=rows: None if array is None else array[rows], arrays
        )
        for rows in (slice(last), slice(last, None))
    )
    kwargs["sample_weight"] = train[2]
    kwargs["validation_data"] = held_out if held_out[2] is not None else held_out[:2]
    return train[0], train[1], kwargs
