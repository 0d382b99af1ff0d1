"""Images in folders, one a class."""

import collections
import dataclasses
import logging
import os
import pathlib

import numpy as np
import tensorflow as tf

from clidmu_tf.data.decode import read_pixels
from clidmu_tf.data.identity import hold_out
from clidmu_tf.data.sources import Source, Split
from clidmu_tf.errors import UserError

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
KINDS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
TEST_FOLDERS = ("test", "val", "validation")
DEFAULT_SIZE = 224
CHANNELS = 3


def folder(
    root, image_size=0, resize_size=0, holdout=0.1, on_bad_image="refuse", seed=0
):
    """Reads a folder with one sub-folder a class, or `train/` and `test/` of such.

    Images may be JPEG, PNG, WebP, GIF (first frame), BMP or TIFF, grey or colour, of
    any size; they are brought to a square and to three channels when they are read.
    `val/` or `validation/` serve for `test/`. Folders of these names that hold images
    themselves are classes.

    Args:
        root: The folder.
        image_size: Side of the square in pixels; 0 for 224.
        resize_size: Shorter side of the images that the square is cut from; 0 where
            it is the whole image.
        holdout: Share held out to test on where there is no `test/` folder, about that
            of each class, at least one image. To add or remove an image moves no other.
        on_bad_image: `"refuse"` or `"skip"` for files that are no images.
        seed: Decides what is held out.

    Raises:
        UserError: The folder holds no such images; the sentence says what is wrong.
    """
    if not root or not os.path.isdir(root):
        raise UserError(
            f"--data_dir={root or ''} is no folder: name one that has a sub-folder for "
            "each class."
        )
    root = pathlib.Path(root)
    size = image_size or DEFAULT_SIZE
    train_root = root / "train" if _sub_folders(root / "train") else root
    test_roots = [root / t for t in TEST_FOLDERS if _sub_folders(root / t)]
    names = _class_names(train_root)
    ignored = collections.Counter()
    everything = _read(train_root, names, on_bad_image, ignored)
    if train_root != root and test_roots:
        strangers = sorted(set(_sub_folders(test_roots[0])) - set(names))
        if strangers:
            raise UserError(
                f"{test_roots[0]} has classes that {train_root} has not: "
                f"{', '.join(strangers)}; remove them or add them to train."
            )
        train = everything
        test = _read(test_roots[0], names, on_bad_image, ignored, is_test=True)
        is_given = False
    else:
        train, test = _hold_out(everything, holdout, seed)
        is_given = True
    train, test = (
        dataclasses.replace(split, resize_size=resize_size) for split in (train, test)
    )
    return Source(
        *("folder", train, test, names, (size, size, CHANNELS)),
        test_is_given=is_given,
        ignored=dict(ignored),
    )


def _class_names(root):
    names = _sub_folders(root)
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
    for name in names:
        if not _is_utf8(name):
            raise UserError(
                f"The class folder {_printable(root / name)} has a name that is not "
                "UTF-8: rename it."
            )
    return names


def _sub_folders(root):
    if not root.is_dir():
        return ()
    return tuple(sorted(p.name for p in root.iterdir() if _is_shown(p) and p.is_dir()))


def _read(root, names, on_bad_image, ignored, is_test=False):
    paths, labels = [], []
    for label, name in enumerate(names):
        found = _images(root / name, ignored)
        paths += found
        labels += [label] * len(found)
    labels = np.array(labels, "int64")
    good = decodable(paths)
    if not good.all():
        report_bad(
            [p for p, ok in zip(paths, good, strict=True) if not ok], on_bad_image
        )
    counts = np.bincount(labels[good], minlength=len(names))
    if not counts.all() and not (is_test and counts.any()):
        raise UserError(
            f"The class folder {root / names[np.argmin(counts)]} holds no image "
            f"({KINDS}): fill it or remove it."
        )
    kept = [paths[i] for i in np.flatnonzero(good)]
    return Split(
        np.array([str(p) for p in kept], object),
        labels[good],
        None,
        np.array([p.relative_to(root).as_posix() for p in kept], object),
    )


def _images(root, ignored):
    """The image files of a class, hidden ones and links that lead out left alone.

    What has no suffix of an image is counted in `ignored`, by its own.
    """
    files = sorted(
        path
        for path in root.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    suffixes = [path.suffix.lower() for path in files]
    ignored.update(s or "without a suffix" for s in suffixes if s not in SUFFIXES)
    shown = [path for path in files if path.suffix.lower() in SUFFIXES]
    around = root.parent.resolve()
    inside = [path for path in shown if path.resolve().is_relative_to(around)]
    if len(inside) < len(shown):
        logger.warning(
            "Left out %d links in %s that lead out of %s.",
            len(shown) - len(inside),
            root,
            around,
        )
    return inside


def _is_shown(path):
    return not path.name.startswith(".")


def _is_utf8(path):
    # Python keeps bytes that are no UTF-8 as lone surrogates.
    return not any("\ud800" <= c <= "\udfff" for c in str(path))


def _printable(path):
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def decodable(paths):
    """Which files are images with a proper name, by decoding each once, in parallel."""
    good = np.zeros(len(paths), bool)
    named = [i for i, path in enumerate(paths) if _is_utf8(path)]

    def check(index, path):
        return tf.size(read_pixels(tf.io.read_file(path), CHANNELS)), index

    texts = tf.constant([str(paths[i]) for i in named], tf.string)
    named = tf.constant(named, tf.int64)
    found = tf.data.Dataset.from_tensor_slices((named, texts))
    found = found.map(check, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    for _, index in found.ignore_errors(log_warning=False).as_numpy_iterator():
        good[index] = True
    return good


def report_bad(bad, on_bad_image):
    """Refuses files that are no images, or says that they are left out."""
    named = ", ".join(map(_printable, bad[:3])) + (", …" if len(bad) > 3 else "")
    complaint = "cannot be decoded, or have a name that is not UTF-8"
    if on_bad_image == "refuse":
        raise UserError(
            f"{len(bad)} of the files {complaint}: {named}; mend or remove them, or "
            "leave them out with --on_bad_image=skip."
        )
    logger.warning("Left out %d files that %s: %s", len(bad), complaint, named)


def _hold_out(split, holdout, seed):
    rarest = np.bincount(split.labels).min()
    if rarest < 2:
        raise UserError(
            f"--holdout={holdout} leaves too little of a class with {rarest} images: "
            "add images, or put test images into a folder test/ beside train/."
        )
    train, test = hold_out(split.names, split.labels, holdout, seed)
    return split.take(train), split.take(test)
