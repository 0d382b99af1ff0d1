"""Rows of a CSV file: texts, columns of numbers and words, or paths of images."""

import dataclasses
import pathlib
import re

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from clidmu_tf.data.check import CHANNELS, readable
from clidmu_tf.data.decode import MAX_PIXELS
from clidmu_tf.data.folder import DEFAULT_SIZE
from clidmu_tf.data.identity import hold_out
from clidmu_tf.data.sources import Source, Split
from clidmu_tf.errors import UserError

WORDS = 20_000  # most frequent ones that a text is made of
LONGEST = 256  # words of a text that are read
VALUES = 100  # most frequent ones of a column of words
AT_ONCE = 10_000  # rows
TEST_FILES = ("test.csv", "val.csv", "validation.csv")
STRING, NUMBER = "string", "float32"


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns of a file hold what.

    Attributes:
        label: The given labels.
        clean_label: The true labels; `""` where they are unknown.
        text: A text, or `""`.
        features: Numbers and words.
        image: Paths of images, from the file's folder on, or `""`.
    """

    label: str
    clean_label: str = ""
    text: str = ""
    features: tuple[str, ...] = ()
    image: str = ""

    @property
    def inputs(self):
        """The columns that a network reads."""
        return (self.text,) if self.text else self.features or (self.image,)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What makes tensors of rows, as it was fitted to training rows.

    Attributes:
        model: A Keras model from one `(n, 1)` tensor a column to the network's inputs.
        columns: Of each column by name, in order, `"string"` or `"float32"`.
        vocabulary_size: Of texts, the number of different word indices; else 0.
    """

    model: keras.Model
    columns: dict[str, str]
    vocabulary_size: int = 0

    @property
    def served(self):
        """Of each name that a SavedModel may have the column; in order."""
        found = {}
        for column in self.columns:
            name = re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_")
            if name in found or not name[:1].isalpha():
                name = f"column_{len(found) + 1}_{name}".rstrip("_")
            found[name] = column
        return found

    def raw(self, rows):
        """The columns of a DataFrame as arrays `(n,)`, by the names in `served`."""
        return {
            name: rows[column].to_numpy("float32")
            if self.columns[column] == NUMBER
            else np.array(_words(rows[column]), object)
            for name, column in self.served.items()
        }

    def __call__(self, rows):
        """The network's inputs, `(n, d)`, of the rows of a DataFrame."""
        columns = [*self.raw(rows).values()]
        parts = []
        for start in range(0, len(rows), AT_ONCE):
            part = [tf.constant(c[start : start + AT_ONCE, None]) for c in columns]
            parts.append(self.model(part if len(part) > 1 else part[0]).numpy())
        return np.concatenate(parts)


@keras.saving.register_keras_serializable("clidmu_tf")
class FillMissing(keras.layers.Layer):
    """Puts the mean of a column where a number is missing (NaN).

    Args:
        means: One number a column.
    """

    def __init__(self, means, **kwargs):
        super().__init__(**kwargs)
        self.means = [float(mean) for mean in means]

    def call(self, x):
        return keras.ops.where(keras.ops.isnan(x), keras.ops.array(self.means), x)

    def get_config(self):
        return {**super().get_config(), "means": self.means}


def table(
    path,
    columns,
    image_size=0,
    resize_size=0,
    holdout=0.1,
    on_bad_image="refuse",
    seed=0,
    max_pixels=MAX_PIXELS,
):
    """Reads a CSV file with a row an example, or a folder with `train.csv`, `test.csv`.

    Columns are parted by commas, semicolons or tabs, whichever its heading has most of.

    Args:
        path: The file or the folder.
        columns: The `Columns`.
        image_size: Side of images in pixels; 0 for 224.
        resize_size: Shorter side of the images that the square is cut from, or 0.
        holdout: Share held out to test on where there is no file for that, about that
            of each class, at least one row. To add or remove a row moves no other.
        on_bad_image: `"refuse"` or `"skip"` for files that are no images.
        seed: Decides what is held out.
        max_pixels: Image files of more pixels are bad ones, and not decoded.

    Raises:
        UserError: It can't be read so; the sentence says what is wrong.
    """
    given = [n for n in ("text", "features", "image") if getattr(columns, n)]
    files = [file for file in _files(path) if file is not None]
    tables = [_read(file, columns, given) for file in files]
    if columns.image:
        tables = [
            rows[readable(_paths(rows, columns, file), on_bad_image, max_pixels)]
            for rows, file in zip(tables, files, strict=True)
        ]
    names, splits = _with_indices(tables, columns)
    train, test = splits if len(splits) > 1 else _hold_out(splits[0], holdout, seed)
    if columns.image:
        side = image_size or DEFAULT_SIZE
        shape, preprocessing = (side, side, CHANNELS), None
        train, test = (
            dataclasses.replace(
                split,
                inputs=_paths(split.rows, columns, files[0]),
                rows=None,
                resize_size=resize_size,
                max_pixels=max_pixels,
            )
            for split in (train, test)
        )
    else:
        fitted = _of_text if columns.text else _of_features
        preprocessing = fitted(train.rows)
        train, test = (
            dataclasses.replace(split, inputs=preprocessing(split.rows))
            for split in (train, test)
        )
        shape = train.inputs.shape[1:]
    if columns.clean_label:
        test = dataclasses.replace(test, labels=test.clean_labels)
    return Source(
        "csv",
        train,
        test,
        names,
        shape,
        preprocessing=preprocessing,
        test_is_given=len(files) == 1 and not columns.clean_label,
        is_held_out=len(files) == 1,
    )


def _files(path):
    if not path or not pathlib.Path(path).exists():
        raise UserError(
            f"--data_dir={path or ''} is not there: name a CSV file, or a folder with "
            "train.csv and test.csv."
        )
    path = pathlib.Path(path)
    if path.is_file():
        return path, None
    tests = [path / name for name in TEST_FILES if (path / name).is_file()]
    if not (path / "train.csv").is_file():
        raise UserError(f"--data_dir={path} holds no train.csv: name the file itself.")
    return path / "train.csv", tests[0] if tests else None


def _read(path, columns, given):
    try:
        with open(path, encoding="utf-8-sig") as file:
            heading = file.readline()
        rows = pd.read_csv(path, sep=max(",;\t", key=heading.count))
    except (OSError, ValueError) as error:  # pandas's own are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be read as CSV ({reason}).") from error
    has = f"{path} has the columns {', '.join(map(str, rows.columns))}"
    if len(given) != 1:
        raise UserError(
            "--dataset=csv takes one of --text_column, --feature_columns (separated by "
            f"commas) and --image_column; received {' and '.join(given) or 'none'}: "
            f"{has}."
        )
    labels = [columns.label, columns.clean_label]
    for name in [*labels, *columns.inputs]:
        if name and name not in rows:
            raise UserError(f"There is no column {name!r}: {has}.")
        if name in labels and name in columns.inputs:
            raise UserError(f"The column {name!r} is that of the labels: {has}.")
    if not len(rows):
        raise UserError(f"{path} has no rows: fill it, or name another.")
    for name in filter(None, labels):
        missing = np.flatnonzero(rows[name].isna())
        if len(missing):
            raise UserError(
                f"{path} has {len(missing)} rows without a label in {name!r}, the "
                f"first in row {missing[0] + 1}: fill them in, or leave them out."
            )
    return rows


def _paths(rows, columns, file):
    """Whole paths of the images that rows name, from the file's folder on."""
    return np.array([str(file.parent / str(n)) for n in rows[columns.image]], object)


def _with_indices(tables, columns):
    """Names of the classes, and a split of each table, whose inputs are still rows."""
    known = [c for c in (columns.label, columns.clean_label) if c]
    values = {value for rows in tables for c in known for value in rows[c].unique()}
    try:
        names = sorted(values)  # numbers by size
    except TypeError:
        names = sorted(values, key=str)
    if len(names) < 2:
        raise UserError(
            f"The column {columns.label!r} has one class alone, {names[0]!r}: two or "
            "more are needed."
        )
    place = {value: i for i, value in enumerate(names)}
    splits = []
    for rows in tables:
        labels = [rows[c].map(place).to_numpy("int64") for c in known]
        splits.append(
            Split(
                np.arange(len(rows)),
                labels[0],
                labels[1] if len(labels) > 1 else None,
                rows.index.astype(str).to_numpy(object),
                rows=rows[[*columns.inputs]],
                contents=_contents(rows[[*columns.inputs]]),
            )
        )
    return tuple(str(name) for name in names), splits


def _contents(rows):
    """What rows hold, as a text each: a number may be written in any way."""
    columns = [
        rows[name].astype("float64") if rows[name].dtype.kind in "iuf" else rows[name]
        for name in rows
    ]
    return np.array([repr(row) for row in zip(*columns, strict=True)], object)


def _hold_out(split, holdout, seed):
    counts = np.bincount(split.labels)
    rarest = counts[counts > 0].min()
    if rarest < 2:
        raise UserError(
            f"--holdout={holdout} leaves too little of a class with {rarest} rows: add "
            "rows, or name a folder with train.csv and test.csv."
        )
    train, test = hold_out(split.names, split.labels, holdout, seed)
    return split.take(train), split.take(test)


def _of_text(rows):
    (name,) = rows.columns
    texts = _words(rows[name])
    words = texts.str.split().str.len()
    length = int(np.clip(np.quantile(words, 0.95), 4, LONGEST))
    layer = keras.layers.TextVectorization(WORDS, output_sequence_length=length)
    layer.adapt(texts.tolist())
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, layer(inputs))
    return Preprocessing(model, {name: STRING}, len(layer.get_vocabulary()))


def _of_features(rows):
    layers = keras.layers
    columns = {
        name: NUMBER if rows[name].dtype.kind in "iuf" else STRING for name in rows
    }
    inputs = [keras.Input((1,), dtype=kind) for kind in columns.values()]
    numbers, parts = [], []
    for (name, kind), tensor in zip(columns.items(), inputs, strict=True):
        if kind == NUMBER:
            numbers.append(tensor)
            continue
        values = _words(rows[name]).value_counts(sort=True).index[:VALUES].tolist()
        # The empty word is that of what is missing, of which Keras wants none named.
        values = [value for value in values if value]
        lookup = layers.StringLookup(vocabulary=values, output_mode="one_hot")
        parts.append(lookup(tensor))
    if numbers:
        found = rows[[n for n, kind in columns.items() if kind == NUMBER]]
        found = found.to_numpy("float32")
        if np.isinf(found).any():
            raise UserError("A column of numbers holds infinity: leave that row out.")
        empty = np.isnan(found).all(axis=0)
        means = np.where(empty, 0, np.nanmean(np.where(empty, 0, found), axis=0))
        spread = np.nanvar(np.where(empty, 0, found), axis=0)
        together = layers.Concatenate()(numbers) if len(numbers) > 1 else numbers[0]
        filled = FillMissing(means)(together)
        parts.append(layers.Normalization(mean=means, variance=spread)(filled))
    output = layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], output)
    return Preprocessing(model, columns)


def _words(column):
    """The values of a column as texts; of what is missing the empty one."""
    return column.fillna("").astype(str)
