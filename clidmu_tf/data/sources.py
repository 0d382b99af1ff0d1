"""What a data set is here, and how to load one by name."""

import dataclasses
import typing

import numpy as np

from clidmu_tf.data.decode import MAX_PIXELS
from clidmu_tf.data.records import Records

if typing.TYPE_CHECKING:  # for runs on images need not wait for pandas
    import pandas

    from clidmu_tf.data.table import Preprocessing

DIGITS_TEST = 500
DIGITS_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled examples.

    Attributes:
        inputs: `(n, height, width, channels)` uint8 images, `(n, d)` numbers, or `n`
            image files, which are decoded when they are read: paths, or `Records`.
        labels: `(n,)` int64, the given labels, right or wrong.
        clean_labels: `(n,)` int64 where the truth is known, else `None`.
        ids: `(n,)` strings that name the examples.
        rows: `n` rows of a table, a DataFrame, that the inputs were made of; `None`
            of images.
        resize_size: Of image files, the shorter side in pixels that they are resized
            to before a window is cut from them; 0 where none is cut.
        max_pixels: Of image files, the most pixels that one is decoded of.
        contents: `(n,)` strings that tell rows of a table apart, whose ids are but
            their places; `None` where ids do.
    """

    inputs: np.ndarray | Records
    labels: np.ndarray
    clean_labels: np.ndarray | None
    ids: np.ndarray
    resize_size: int = 0
    max_pixels: int = MAX_PIXELS
    rows: "pandas.DataFrame | None" = None
    contents: np.ndarray | None = None

    def __len__(self):
        return len(self.labels)

    @property
    def in_memory(self):
        """Whether the inputs are here, not in files."""
        return not isinstance(self.inputs, Records) and self.inputs.ndim > 1

    @property
    def paths(self):
        """The paths of the image files, or `None` where they have none of their own."""
        is_image_files = not isinstance(self.inputs, Records) and not self.in_memory
        return self.inputs if is_image_files else None

    @property
    def names(self):
        """What tells the examples apart, wherever they stand: `(n,)` strings."""
        return self.ids if self.contents is None else self.contents

    def take(self, indices):
        """Returns the examples at these positions."""

        def some(values):
            return None if values is None else values[indices]

        return dataclasses.replace(
            self,
            inputs=self.inputs[indices],
            labels=self.labels[indices],
            clean_labels=some(self.clean_labels),
            ids=self.ids[indices],
            rows=None if self.rows is None else self.rows.iloc[indices],
            contents=some(self.contents),
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: what to train on, what to report on, and what the classes are.

    Attributes:
        name: Name of the data set.
        train: Examples to train on.
        test: Examples to report on, of whatever split the data set has for it.
        class_names: Names of the classes, in the order of the labels.
        image_shape: `(height, width, channels)` that the network sees.
        holdout: Examples kept from training to compare runs on, or `None`.
        preprocessing: Of a table, what makes inputs of its rows, else `None`.
        test_is_given: Whether the labels to report on are given ones, as wrong as
            those to train on, since nobody knows the truth.
        is_held_out: Whether the examples to report on were drawn from those that there
            were to train on.
        ignored: Of what is not read, how many files there are by kind.
        reading: Of a folder, a sentence that says how it was understood.
        unlabeled: Examples to train on without their labels, or `None`.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple
    image_shape: tuple
    holdout: Split | None = None
    preprocessing: "Preprocessing | None" = None
    test_is_given: bool = False
    is_held_out: bool = False
    ignored: dict = dataclasses.field(default_factory=dict)
    reading: str = ""
    unlabeled: Split | None = None


def digits():
    """Scikit-learn's 8×8 digits, 1,297 to train on and 500 to test on."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype("uint8")[..., None]
    everything = Split(
        images,
        bunch.target.astype("int64"),
        bunch.target.astype("int64"),
        np.array([f"digits_{i}" for i in range(len(images))]),
    )
    train, test = split_by_class(everything.labels, DIGITS_TEST, DIGITS_SPLIT_SEED)
    names = tuple(str(name) for name in bunch.target_names)
    return Source(
        "digits", everything.take(train), everything.take(test), names, (8, 8, 1)
    )


def split_by_class(labels, test_size, seed):
    """Returns positions to train on and to test on, each class in its share.

    Args:
        labels: `(n,)`.
        test_size: How many, or which share, to test on.
        seed: Decides which.
    """
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(labels)), test_size=test_size, stratify=labels, random_state=seed
    )
    return np.sort(train), np.sort(test)
