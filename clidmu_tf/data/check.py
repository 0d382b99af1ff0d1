"""Which image files can be read: each is decoded once before any is trained on."""

import functools
import logging
import os

import numpy as np
import tensorflow as tf

from clidmu_tf.data.decode import TooManyPixels, read_pixels, room_for
from clidmu_tf.data.threads import in_threads
from clidmu_tf.errors import UserError, listed

logger = logging.getLogger(__name__)

CHANNELS = 3


def readable(paths, on_bad_image, max_pixels):
    """Says which files are images; the others are refused, or logged.

    Args:
        paths: The files.
        on_bad_image: `"refuse"` or `"skip"`.
        max_pixels: Files of more pixels are bad ones, and not decoded.

    Returns:
        `(n,)` booleans.

    Raises:
        UserError: Some are none, and are not to be skipped.
    """
    good = decodable(paths, max_pixels)
    bad = [path for path, is_good in zip(paths, good, strict=True) if not is_good]
    if not bad:
        return good
    named = listed([*map(printable, bad)])
    complaint = (
        f"cannot be decoded, have more than --max_pixels={max_pixels}, or have a name "
        "that is not UTF-8"
    )
    if on_bad_image == "refuse":
        raise UserError(
            f"{len(bad)} of the files {complaint}: {named}; mend or remove them, or "
            "leave them out with --on_bad_image=skip."
        )
    logger.warning("Left out %d files that %s: %s", len(bad), complaint, named)
    return good


def decodable(paths, max_pixels):
    """Which files are images of no more pixels than that and have a proper name.

    Args:
        paths: The files.
        max_pixels: The most pixels.

    Returns:
        `(n,)` booleans.
    """

    def check(path):
        return is_utf8(path) and _is_image(lambda: tf.io.read_file(path), max_pixels)

    return np.array([*in_threads(check, map(str, paths))], bool)


def damaged(split):
    """Returns the names of examples whose images can't be read, of those in files.

    Args:
        split: A `Split` that was whole when it was loaded.
    """
    if split.in_memory:
        return []
    if split.paths is not None:
        return split.paths[~decodable(split.paths, split.max_pixels)].tolist()

    def check(index):
        read = functools.partial(split.inputs.image, index)
        return _is_image(read, split.max_pixels)

    good = np.array([*in_threads(check, range(len(split)))], bool)
    return split.ids[~good].tolist()


def _is_image(read, max_pixels):
    try:
        contents = read()
        with room_for(contents, max_pixels):
            _decode(contents)
    except (tf.errors.OpError, OSError, TooManyPixels):
        return False
    return True


# As a graph, as in training, whose errors are all of one kind, Pillow's among them.
@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def _decode(contents):
    return tf.size(read_pixels(contents, CHANNELS))


def is_utf8(path):
    """Whether a path is text; Python keeps other bytes as lone surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in str(path))


def printable(path):
    """A path as a terminal can show it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
