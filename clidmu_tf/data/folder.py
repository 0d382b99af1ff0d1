"""Images in folders, one a class."""

import logging
import pathlib

import numpy as np
import tensorflow as tf

from clidmu_tf.data.sources import Source, Split, split_by_class
from clidmu_tf.errors import UserError

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png")
TEST_FOLDERS = ("test", "val", "validation")
DEFAULT_SIZE = 224


def folder(root, image_size=0, holdout=0.1, on_bad_image="refuse", seed=0):
    """Reads a folder with one sub-folder a class, or `train/` and `test/` of such.

    Images may be JPEG or PNG, grey or colour, of any size; they are resized to a
    square and to three channels when they are read.

    Args:
        root: The folder.
        image_size: Side of the square in pixels; 0 for 224.
        holdout: Share held out to test on where there is no `test/` folder.
        on_bad_image: `"refuse"` or `"skip"` for files that are no images.
        seed: Decides what is held out.

    Raises:
        UserError: The folder holds no such images; the sentence says what is wrong.
    """
    root = pathlib.Path(root or "")
    if not root.name or not root.is_dir():
        raise UserError(f"--data_dir={root} is no folder: name one of class folders.")
    size = image_size or DEFAULT_SIZE
    test_root = next((root / t for t in TEST_FOLDERS if (root / t).is_dir()), None)
    if (root / "train").is_dir() and test_root:
        names = _class_names(root / "train")
        train = _read(root / "train", names, on_bad_image)
        test = _read(test_root, names, on_bad_image)
    else:
        names = _class_names(root)
        train, test = _hold_out(_read(root, names, on_bad_image), holdout, seed)
    return Source("folder", train, test, names, (size, size, 3))


def _class_names(root):
    names = tuple(sorted(p.name for p in root.iterdir() if _is_shown(p) and p.is_dir()))
    if not names:
        raise UserError(
            f"--data_dir={root} has no sub-folder: put each class's images into a "
            "folder of its own."
        )
    if len(names) < 2:
        raise UserError(
            f"--data_dir={root} has one class alone, {names[0]!r}: two or more are "
            "needed."
        )
    return names


def _read(root, names, on_bad_image):
    paths, labels = [], []
    real = root.resolve()
    for label, name in enumerate(names):
        found = sorted(p for p in (root / name).rglob("*") if _is_image(p, real))
        if not found:
            raise UserError(
                f"The class folder {root / name} holds no JPEG or PNG file: fill it or "
                "remove it."
            )
        paths += found
        labels += [label] * len(found)
    labels = np.array(labels, "int64")
    good = _decodable(paths)
    if not good.all():
        _report_bad([p for p, ok in zip(paths, good, strict=True) if not ok], on_bad_image)
    ids = np.array([p.relative_to(root).as_posix() for p in paths])
    everything = Split(np.array([str(p) for p in paths]), labels, None, ids)
    return everything.take(np.flatnonzero(good))


def _is_shown(path):
    return not path.name.startswith(".")


def _is_image(path, root):
    # A link may lead out of the folder; what lies outside is never read.
    is_file = _is_shown(path) and path.suffix.lower() in SUFFIXES and path.is_file()
    return is_file and path.resolve().is_relative_to(root)


def _decodable(paths):
    """Which files are images, by decoding each once, in parallel."""

    def check(path):
        try:
            image = tf.io.decode_image(tf.io.read_file(path), expand_animations=False)
            return image.shape[-1] in (1, 3, 4)
        except tf.errors.OpError:
            return False

    def wrapped(path):
        return tf.py_function(lambda p: check(p.numpy().decode()), [path], tf.bool)

    found = tf.data.Dataset.from_tensor_slices([str(p) for p in paths])
    found = found.map(wrapped, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return np.array(list(found.as_numpy_iterator()), bool)


def _report_bad(bad, on_bad_image):
    named = ", ".join(str(path) for path in bad[:3]) + (", …" if len(bad) > 3 else "")
    if on_bad_image == "refuse":
        raise UserError(
            f"{len(bad)} of the files cannot be decoded: {named}; mend or remove them, "
            "or leave them out with --on_bad_image=skip."
        )
    logger.warning("Left out %d files that cannot be decoded: %s", len(bad), named)


def _hold_out(split, holdout, seed):
    if not holdout:
        return split, split.take(np.array([], int))
    classes = len(np.unique(split.labels))
    count = max(round(holdout * len(split)), classes)
    rarest = np.bincount(split.labels).min()
    if rarest < 2 or len(split) - count < classes:
        raise UserError(
            f"--holdout={holdout} leaves too little of a class with {rarest} images: "
            "add images, or put test images into a folder test/ beside train/."
        )
    train, test = split_by_class(split.labels, count, seed)
    return split.take(train), split.take(test)
