"""Where examples come from, and the batches that are made of them."""

import dataclasses
import os
import typing

import numpy as np

from clidmu_tf.data.check import damaged
from clidmu_tf.data.decode import MAX_PIXELS
from clidmu_tf.data.folder import folder
from clidmu_tf.data.identity import Fingerprint
from clidmu_tf.data.pipeline import evaluation_batches, training_batches
from clidmu_tf.data.sources import Source, Split, digits
from clidmu_tf.errors import UserError

if typing.TYPE_CHECKING:  # it comes with TFDS
    from clidmu_tf.data.preparation import Prepared

__all__ = [
    "Fingerprint",
    "Source",
    "Split",
    "damaged",
    "evaluation_batches",
    "load",
    "prepare",
    "training_batches",
]


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    label_key: str = "label",
    clean_label_key: str = "",
    train_split: str = "train",
    test_split: str = "",
    image_size: int = 0,
    resize_size: int = 0,
    holdout: float = 0.1,
    on_bad_image: str = "refuse",
    max_pixels: int = MAX_PIXELS,
    train_examples: int = 0,
    label_column: str = "label",
    clean_label_column: str = "",
    text_column: str = "",
    feature_columns: str = "",
    image_column: str = "",
    seed: int = 0,
) -> Source:
    """Loads a data set by name.

    Args:
        name: `"digits"`, `"folder"`, `"csv"`, or the name of a prepared TFDS data set.
        data_dir: The folder of class folders, the CSV file (or a folder with
            `train.csv` and `test.csv`), or TFDS's data folder.
        label_key: Of TFDS, the column of the labels to train on.
        clean_label_key: Of TFDS, the column of the true labels, or `""`.
        train_split: Of TFDS, the split to train on.
        test_split: Of TFDS, the split to report on; `""` for test, or else validation.
        image_size: Side of the images that the network sees, in pixels; 0 leaves those
            of a TFDS data set as they are, and makes those of a folder 224. Digits
            stay 8.
        resize_size: Shorter side that images are resized to before a window of
            `image_size` is cut from them, at random to train on, else in the middle;
            0 cuts none and resizes the whole image, whatever its proportions.
        holdout: Of a folder without `test/`, or a CSV file alone, the share to hold
            out, 0 to 0.9; at least one example of each class.
        on_bad_image: Of a folder, `"refuse"` or `"skip"`.
        max_pixels: Images in files that have more pixels are not decoded, but bad.
        train_examples: Keep so many training examples: the first ones, or a random
            part of a folder, which comes class by class, or of a CSV file; 0 for all.
        label_column: Of a CSV file, the column of the labels to train on.
        clean_label_column: Of a CSV file, the column of the true labels, or `""`.
        text_column: Of a CSV file, the column of texts, or
        feature_columns: columns of numbers and words, separated by commas, or
        image_column: the column of paths of images, from the file's folder on.
        seed: Decides what is held out, and which random part.

    Returns:
        A `Source`.

    Raises:
        UserError: It can't be loaded; the sentence says the way out.

    Example:

    ```python
    from clidmu_tf import data

    source = data.load("digits")
    batches = data.evaluation_batches(
        source.test, batch_size=10, image_shape=source.image_shape
    )
    x, y = next(iter(batches))
    ```
    """
    _check(name, image_size, resize_size, holdout, on_bad_image, max_pixels)
    if name in ("digits", "folder", "csv"):
        _refuse_of_tfds(
            name,
            ("train_split", train_split, "train"),
            ("test_split", test_split, ""),
            ("label_key", label_key, "label"),
            ("clean_label_key", clean_label_key, ""),
        )
    elif train_split == test_split:
        raise UserError(
            f"train_split and test_split are both {test_split!r}, so that a run would "
            "be tested on what it has seen: name two splits."
        )
    if name == "digits":
        source = digits()
    elif name == "folder":
        source = folder(
            *(data_dir, image_size, resize_size, holdout, on_bad_image, seed),
            max_pixels,
        )
    elif name == "csv":
        from clidmu_tf.data.table import Columns, table

        names = (word.strip() for word in feature_columns.split(","))
        columns = Columns(
            label_column,
            clean_label_column,
            text_column,
            tuple(filter(None, names)),
            image_column,
        )
        source = table(
            *(data_dir, columns, image_size, resize_size, holdout, on_bad_image, seed),
            max_pixels,
        )
    else:
        # TFDS takes seconds to import; digits and folders need not wait for it.
        from clidmu_tf.data.tfds_source import from_tfds

        return from_tfds(
            name,
            data_dir,
            label_key,
            clean_label_key,
            train_split,
            test_split,
            image_size,
            resize_size,
            max_pixels,
            train_examples,
        )
    if not train_examples:
        return source
    chosen = np.arange(len(source.train))
    if name in ("folder", "csv"):
        np.random.default_rng(seed).shuffle(chosen)
    kept = source.train.take(np.sort(chosen[:train_examples]))
    return dataclasses.replace(source, train=kept)


def _refuse_of_tfds(name, *settings):
    for setting, value, default in settings:
        if value != default:
            raise UserError(
                f"{setting}={value!r} is of a TFDS data set, and {name} is none: leave "
                f"it at {default!r}."
            )


def _check(name, image_size, resize_size, holdout, on_bad_image, max_pixels):
    if max_pixels < 1:
        raise UserError(f"max_pixels must be 1 or more; received {max_pixels}.")
    if on_bad_image not in ("refuse", "skip"):
        raise UserError(
            f"on_bad_image must be 'refuse' or 'skip'; received {on_bad_image!r}."
        )
    if not 0 <= holdout <= 0.9:
        raise UserError(f"holdout must be from 0 to 0.9; received {holdout}.")
    if name == "digits" and image_size not in (0, 8):
        raise UserError(
            f"image_size={image_size} is not that of digits, which stay 8 pixels wide: "
            "leave it at 0."
        )
    if resize_size and name == "digits":
        raise UserError(
            f"resize_size={resize_size} cuts a window from larger images, and digits "
            "are 8 pixels wide: leave it at 0."
        )
    if resize_size and not 0 < image_size <= resize_size:
        raise UserError(
            f"resize_size={resize_size} needs an image_size of at most that, the side "
            f"of the window that is cut; received image_size={image_size}."
        )


def prepare(
    name: str,
    *,
    manual_dir: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    size: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> "Prepared":
    """Prepares a data set that a person obtained, without any network.

    Every image is decoded once. Good ones are stored with the bytes they have, in an
    order that follows from their ids alone; bad ones are left out, and a file beside
    the data names them. A preparation that was cut off starts anew.

    Args:
        name: `"webvision/mini"`, `"webvision/google"`, `"webvision/full"`,
            `"clothing1m/full"`, `"clothing1m/balanced"`, `"animal10n"` or `"food101n"`.
        manual_dir: The folder that holds it, in its published layout.
        data_dir: TFDS's data folder; `None` for its default.
        size: Bring larger images to this shorter side, in pixels, as JPEG of quality
            95; 0 keeps each file's bytes.
        max_pixels: Images of more pixels are not decoded, but left out.

    Returns:
        A `Prepared` with `name`, `path`, `report`, `counts`, `published` and `bad`.

    Raises:
        UserError: It can't be prepared; the sentence says the way out.

    Example:

    ```python
    import pathlib
    from clidmu_tf import data

    for folder in ("training", "testing"):
        path = pathlib.Path("animals", folder)
        path.mkdir(parents=True)
        keras.utils.save_img(path / "0_1.jpg", np.zeros((64, 64, 3)))
    prepared = data.prepare("animal10n", manual_dir="animals", data_dir="tfds")
    prepared.counts  # {"train": 1, "test": 1}
    ```
    """
    from clidmu_tf.data import preparation

    return preparation.prepare(name, manual_dir, data_dir, size, max_pixels)
