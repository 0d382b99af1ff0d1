"""What the lists of a data set name, read without ever leaving its folder."""

import os
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from clidmu_tf.data.decode import MAX_PIXELS, TooManyPixels, room_for

UNREADABLE = "cannot be read"
MISSING = "missing"
NO_IMAGE = "cannot be decoded"
NO_LABEL = "no label"
NOT_UNDERSTOOD = "line not understood"
OUTSIDE = "leads out of the folder"
TOO_LARGE = "too many pixels"
OUT_OF_RANGE = "label out of range"
TWICE = "listed twice"
JPEG_QUALITY = 95


class Entry(NamedTuple):
    """An image that a list names.

    Attributes:
        id: Its path, relative to the root.
        label: Its class; of no meaning where there is a problem.
        problem: Why it is left out, or `""`.
    """

    id: str
    label: int
    problem: str = ""


def locate(root, name):
    """The path of a file of the data set, or `None` where it leads out of the root.

    Args:
        root: The folder, without links in its path (`os.path.realpath`).
        name: A path relative to it, as a list has it: it may be absolute, climb by
            `..`, or be a link that leads elsewhere, and then is none of ours.
    """
    if ".." in pathlib.PurePosixPath(name).parts:
        return None
    path = os.path.realpath(os.path.join(root, name))
    return path if os.path.commonpath([root, path]) == root else None


def exists(root, name):
    """Whether a file or folder of the data set is there."""
    path = locate(root, name)
    return path is not None and os.path.exists(path)


def is_folder(root, name):
    """Whether a folder of the data set is there."""
    path = locate(root, name)
    return path is not None and os.path.isdir(path)


def lines(root, name):
    """Yields the lines of a list, but for empty ones, with any system's line ends."""
    # A name that is no UTF-8 won't be found, and so will be reported.
    with open(locate(root, name), encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            if line.strip():
                yield line.strip()


def files(root, folder):
    """The entries of a folder of the data set, sorted, but for hidden ones."""
    if not is_folder(root, folder):
        return []
    found = os.listdir(os.fsencode(locate(root, folder)))
    names = sorted(name.decode(errors="replace") for name in found)
    return [f"{folder}/{name}" for name in names if not name.startswith(".")]


def labelled(root, list_name, num_classes, kept_classes, prefix=""):
    """Yields the entries of a list of lines `path label`.

    Args:
        root: The folder.
        list_name: The list, relative to it.
        num_classes: Labels from here on are out of range.
        kept_classes: Labels from here on are no part of this subset.
        prefix: What the paths of the list lack.
    """
    for line in lines(root, list_name):
        name, label = split_label(line)
        if label is None:
            yield Entry(line, -1, NOT_UNDERSTOOD)
            continue
        # As pathlib writes it, so that a/b and a//b are one; a path from / stays one.
        name = str(pathlib.PurePosixPath(prefix, name))
        if not 0 <= label < num_classes:
            yield Entry(name, label, OUT_OF_RANGE)
        elif label < kept_classes:
            yield Entry(name, label)


def split_label(line):
    """Cuts a line `path label` into both; the label is `None` where there is none."""
    try:
        name, label = line.rsplit(maxsplit=1)
        return name, int(label)
    except ValueError:
        return line, None


def once(make_entries):
    """Yields entries, each but the first of an id marked as listed twice.

    Args:
        make_entries: Called twice, so that instead of all ids only their hashes, eight
            bytes each, have to be kept.
    """
    found = np.fromiter((hash(entry.id) for entry in make_entries()), np.int64)
    found.sort()
    repeated = set(found[1:][found[1:] == found[:-1]].tolist())
    seen = set()
    for entry in make_entries():
        if not entry.problem and hash(entry.id) in repeated:
            if entry.id in seen:
                entry = entry._replace(problem=TWICE)
            seen.add(entry.id)
        yield entry


def examine(entry, root, size=0, max_pixels=MAX_PIXELS):
    """Reads an image and decodes it once.

    Args:
        entry: An `Entry`.
        root: The folder that its id is relative to.
        size: Longer shorter sides are brought to this many pixels; 0 leaves the file's
            bytes as they are.
        max_pixels: Images of more pixels are not decoded.

    Returns:
        The entry and the bytes to store; where these are empty, the entry says why.
    """
    if entry.problem:
        return entry, b""
    try:
        path = locate(root, entry.id)
        if path is None:
            return entry._replace(problem=OUTSIDE), b""
        if not os.path.isfile(path):
            return entry._replace(problem=MISSING), b""
        data = pathlib.Path(path).read_bytes()
        with room_for(data, max_pixels):
            return entry, to_store(data, size)
    except PermissionError:
        return entry._replace(problem=UNREADABLE), b""
    except TooManyPixels:
        return entry._replace(problem=TOO_LARGE), b""
    except tf.errors.OpError:
        return entry._replace(problem=NO_IMAGE), b""
    except ValueError:  # a null byte in the path
        return entry._replace(problem=NOT_UNDERSTOOD), b""


def to_store(data, size):
    """The bytes to store of an image file, which is decoded to see that it is one."""
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    height, width = image.shape[:2]
    if size and min(height, width) > size:
        scale = size / min(height, width)
        shape = (round(height * scale), round(width * scale))
        image = tf.image.resize(image, shape, antialias=True)
        image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return tf.io.encode_jpeg(image, quality=JPEG_QUALITY).numpy()
    # TFDS would decode a GIF into frames, where all others are one image.
    return tf.io.encode_png(image).numpy() if data.startswith(b"GIF") else data


def example(entry, image):
    """Key and features of a good entry."""
    return entry.id, {"id": entry.id, "image": image, "label": entry.label}


def report_line(split, entry):
    """What the report says of a bad entry."""
    # Whatever a list holds, a terminal may show it.
    strange = "\N{REPLACEMENT CHARACTER}"
    name = "".join(c if c.isprintable() else strange for c in entry.id)
    return f"{split}\t{entry.problem}\t{name}"
