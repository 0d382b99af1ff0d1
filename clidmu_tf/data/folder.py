"""Images in folders, one a class."""

import collections
import dataclasses
import functools
import logging
import os
import pathlib

import numpy as np

from clidmu_tf.data.check import CHANNELS, is_utf8, printable, readable
from clidmu_tf.data.decode import MAX_PIXELS
from clidmu_tf.data.identity import hold_out
from clidmu_tf.data.layout import files_in, is_image, layout_of, sub_folders
from clidmu_tf.data.sources import Source, Split
from clidmu_tf.errors import UserError

logger = logging.getLogger(__name__)

KINDS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
DEFAULT_SIZE = 224


def folder(
    root,
    image_size=0,
    resize_size=0,
    holdout=0.1,
    on_bad_image="refuse",
    seed=0,
    max_pixels=MAX_PIXELS,
):
    """Reads a folder with one sub-folder a class, or `train/` and `test/` of such.

    Images may be JPEG, PNG, WebP, GIF (first frame), BMP or TIFF, grey or colour, of
    any size; they are brought to a square and to three channels when they are read.
    `training/` serves for `train/`, and for `test/` do `testing/` and, where there is
    neither, `val/`, `valid/` or `validation/`, in any case. Folders of these names that
    hold images themselves are classes among others.

    Args:
        root: The folder.
        image_size: Side of the square in pixels; 0 for 224.
        resize_size: Shorter side of the images that the square is cut from; 0 where
            it is the whole image.
        holdout: Share held out to test on where there is no `test/` folder, about that
            of each class, at least one image. To add or remove an image moves no other.
        on_bad_image: `"refuse"` or `"skip"` for files that are no images.
        seed: Decides what is held out.
        max_pixels: Files of more pixels are bad ones, and not decoded.

    Raises:
        UserError: The folder holds no such images; the sentence says what is wrong.
    """
    if not root or not os.path.isdir(root):
        raise UserError(
            f"--data_dir={root or ''} is no folder: name one that has a sub-folder for "
            "each class."
        )
    size = image_size or DEFAULT_SIZE
    check = functools.partial(
        readable, on_bad_image=on_bad_image, max_pixels=max_pixels
    )
    try:
        layout = layout_of(pathlib.Path(root))
        names = _class_names(layout.train)
        ignored = collections.Counter()
        train = _read(layout.train, names, check, ignored)
        if layout.test is None:
            train, test = _hold_out(train, holdout, seed)
        else:
            test = _read_test(layout, names, check, ignored)
    except OSError as error:
        path = printable(error.filename)
        raise UserError(
            f"{path} cannot be read ({error.strerror}): mend that, or take it out of "
            f"--data_dir={root}."
        ) from error
    train, test = (
        dataclasses.replace(split, resize_size=resize_size, max_pixels=max_pixels)
        for split in (train, test)
    )
    return Source(
        *("folder", train, test, names, (size, size, CHANNELS)),
        test_is_given=layout.test is None,
        is_held_out=layout.test is None,
        ignored=dict(ignored),
        reading=str(layout),
    )


def _class_names(root):
    names = tuple(path.name for path in sub_folders(root))
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
        if not is_utf8(name):
            raise UserError(
                f"The class folder {printable(root / name)} has a name that is not "
                "UTF-8: rename it."
            )
    return names


def _read_test(layout, names, check, ignored):
    strangers = sorted({p.name for p in sub_folders(layout.test)} - set(names))
    if strangers:
        raise UserError(
            f"{layout.test} has classes that {layout.train} has not: "
            f"{', '.join(strangers)}; remove them or add them to train."
        )
    return _read(layout.test, names, check, ignored, is_test=True)


def _read(root, names, check, ignored, is_test=False):
    paths, labels = [], []
    for label, name in enumerate(names):
        # Not every class has to be tested.
        found = _images(root / name, ignored) if (root / name).is_dir() else []
        paths += found
        labels += [label] * len(found)
    labels = np.array(labels, "int64")
    good = check(paths)
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
    files = sorted(files_in(root))
    others = [path.suffix.lower() for path in files if not is_image(path)]
    ignored.update(suffix or "without a suffix" for suffix in others)
    shown = [path for path in files if is_image(path)]
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


def _hold_out(split, holdout, seed):
    rarest = np.bincount(split.labels).min()
    if rarest < 2:
        raise UserError(
            f"--holdout={holdout} leaves too little of a class with {rarest} images: "
            "add images, or put test images into a folder test/ beside train/."
        )
    train, test = hold_out(split.names, split.labels, holdout, seed)
    return split.take(train), split.take(test)
