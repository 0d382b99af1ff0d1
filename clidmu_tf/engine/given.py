"""What people hand over: inputs and labels in any form, arguments by their position."""

import contextlib
import functools
import inspect
import logging

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.core.labels import as_labels, check_labels, names_of, to_indices
from clidmu_tf.engine.network import count

logger = logging.getLogger(__name__)

ROWS = 10_000  # checked at a time
MANY = 100_000  # batches, after which a word is said that they may have no end


def positions_of(keras_method):
    """Lets a method take by position, behind x and y, what Keras's own takes there.

    Args:
        keras_method: The method of `keras.Model` that it stands in for.
    """
    names = [*inspect.signature(keras_method).parameters][3:]

    def decorate(method):
        @functools.wraps(method)
        def call(self, x=None, y=None, *args, **kwargs):
            if len(args) > len(names):
                raise TypeError(
                    f"{method.__name__}() takes {len(names) + 2} arguments by position "
                    f"at most, as in Keras; received {len(args) + 2}."
                )
            return method(self, x, y, **dict(zip(names, args, strict=False)), **kwargs)

        return call

    return decorate


# What `keras.Model.compile` takes and a method does not, and why.
NOT_COMPILED = {
    "loss": "a method of this package brings its own",
    "loss_weights": "there is one loss",
    "steps_per_execution": "every step is checked and counted by itself",
    "auto_scale_loss": "no loss is scaled: use bfloat16 in place of float16",
}


def refuse_keras_arguments(arguments):
    """Raises a ValueError that says of arguments of `compile` what to leave out."""
    defaults = inspect.signature(keras.Model.compile).parameters
    for name, value in arguments.items():
        if name in NOT_COMPILED and value == defaults[name].default:
            continue
        reason = NOT_COMPILED.get(name, "there is no such argument")
        raise ValueError(f"compile() takes no {name}, {reason}: leave out {value!r}.")


def refuse_loss(value, name):
    """Raises a ValueError where a loss stands by position in the place of another.

    Args:
        value: What was given.
        name: What it would be.
    """
    is_loss = isinstance(value, keras.losses.Loss) or (
        callable(value) and getattr(value, "__module__", "").startswith("keras.src.los")
    )
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            is_loss = keras.losses.get(value) is not None
    if is_loss:
        refuse_keras_arguments({"loss": value})
    if name != "metrics" and isinstance(value, list | tuple):
        raise ValueError(
            f"compile() takes metrics by name: write metrics={value!r}; it would be "
            f"{name} where it stands."
        )


def as_arrays(x):
    """Inputs as arrays: one, or a tuple or dict of several.

    Args:
        x: An array, a tensor, a table, a list of rows or of texts; or a list, tuple or
            dict of several inputs. Datasets are returned as they are.
    """
    if x is None or is_batches(x):
        return x
    if isinstance(x, dict):
        return {name: as_arrays(value) for name, value in x.items()}
    if isinstance(x, list | tuple) and len(x) and _has_shape(x[0]):
        return tuple(as_arrays(value) for value in x)
    tensors = tf.Tensor | tf.RaggedTensor | tf.SparseTensor
    return x if isinstance(x, tensors) else _as_array(np.asarray(x))


def _as_array(x):
    """Numbers as an array; texts as the tensor that Keras reads them from."""
    if x.dtype.kind == "O":
        values = x.reshape(-1).tolist()
        others = [i for i, v in enumerate(values) if not isinstance(v, str | bytes)]
        if len(others) == len(values):
            return x.astype("float32")
        if others:
            row, value = others[0] // (x.size // len(x)), values[others[0]]
            raise ValueError(
                "x must hold numbers alone, or texts alone; received both: "
                f"{value!r} at index {row}."
            )
    return tf.constant(x) if x.dtype.kind in "OSU" else x


def _has_shape(x):
    return getattr(x, "shape", ()) != ()


def is_batches(x):
    """Whether these are batches, of inputs and labels, rather than inputs."""
    kinds = (
        tf.data.Dataset,
        tf.distribute.DistributedDataset,
        keras.utils.PyDataset,
    )
    return isinstance(x, kinds) or hasattr(x, "__next__")


def each_batch(batches):
    """The batches one by one, once, of whatever `is_batches` takes for such."""
    if isinstance(batches, keras.utils.PyDataset):
        return map(batches.__getitem__, range(batches.num_batches))
    return iter(batches)


def refuse_endless(batches):
    """Raises a ValueError where batches that are all to be read have no end."""
    is_dataset = isinstance(batches, tf.data.Dataset)
    if is_dataset and batches.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "batches must come to an end; received a dataset that repeats for ever: "
            "leave out repeat(), or take a part, as by dataset.take(100)."
        )


def check_inputs(x, first_row=0):
    """Raises a ValueError that names the first row with a value that is no number.

    Args:
        x: What `as_arrays` returned.
        first_row: What to call the first of them.
    """
    for array in keras.tree.flatten(x):
        is_dense = isinstance(array, np.ndarray | tf.Tensor)
        if not is_dense or not tf.as_dtype(array.dtype).is_floating:
            continue
        for start in range(0, len(array), ROWS):
            part = np.asarray(array[start : start + ROWS])
            bad = ~np.isfinite(part.reshape(len(part), -1)).all(axis=1)
            if bad.any():
                first = int(np.argmax(bad))
                values = part[first].reshape(-1)
                value = values[~np.isfinite(values)][0]
                raise ValueError(
                    f"x must be finite; received {value} at index "
                    f"{first_row + start + first}: fill in what is missing, or leave "
                    "the row out."
                )


def check_lengths(x, y):
    """Raises a ValueError where inputs and labels are not of the same examples."""
    arrays = keras.tree.flatten((x, y))
    sizes = {array.shape[0] for array in arrays if array is not None}
    if y is None or len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "x and y must hold the same examples, one or more; received "
            f"{'no y' if y is None else f'lengths {sorted(sizes)}'}."
        )


def names_known(class_names, y, num_classes):
    """The names of the classes: those given, or those in labels; or `None`."""
    if class_names is not None:
        return [*map(str, class_names)]
    return None if y is None else names_of(as_labels(y), num_classes)


def checked_batches(x, y, *, batch_size, num_classes, class_names=None):
    """Batches of inputs and class indices, each looked at before it is handed on.

    Args:
        x: Inputs in any form, or batches `(inputs, labels)` in a fixed order.
        y: Labels in any form, with inputs.
        batch_size: Examples at a time; batches bring their own.
        num_classes: Number of classes.
        class_names: Their names, if they are known.

    Yields:
        `(x, y)`, tensors or nests of them.

    Raises:
        ValueError: Something is not as it must be; the sentence names the first row.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more; received {batch_size}.")
    row = 0
    if not is_batches(x):
        x = as_arrays(x)
        y = None if y is None else as_labels(y)
        check_lengths(x, y)
        # All of them, before the first is worked on.
        check_labels(to_indices(y, class_names), num_classes)
        check_inputs(x)
        x = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
    refuse_endless(x)
    for number, batch in enumerate(each_batch(x), 1):
        if number == MANY:
            logger.warning(
                "Read %s batches so far, to the last: of batches without an end take "
                "a part, as by dataset.take(100).",
                f"{MANY:,}",
            )
        inputs, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if labels is None:
            raise ValueError("batches must hold inputs and labels; these have no y.")
        inputs, labels = as_arrays(inputs), as_labels(labels)
        labels = to_indices(labels, class_names)
        check_labels(labels, num_classes, row)
        check_inputs(inputs, row)
        row += count(labels)
        yield keras.tree.map_structure(tf.convert_to_tensor, (inputs, labels))
