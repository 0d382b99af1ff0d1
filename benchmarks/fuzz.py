"""Mutated files through what reads them: nothing may crash, or be believed and wrong.

    python -m benchmarks.fuzz                           # all, a few minutes
    python -m benchmarks.fuzz images --mutations=100    # a try

What is mutated, and how, follows from the seed and the mutation's number alone. A crash
of a decoder ends this program; a traceback is counted and printed.
"""

import argparse
import collections
import io
import os
import pathlib
import struct
import tempfile
import zlib

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

from benchmarks import fuzz_runs, report
from benchmarks.mutations import mutate, told
from clidmu_tf import data
from clidmu_tf.data.builders import files
from clidmu_tf.data.check import decodable
from clidmu_tf.data.decode import MAX_PIXELS, decode, limited, read_pixels
from clidmu_tf.errors import UserError

SHAPE = (24, 24, 3)
KINDS = {
    "jpeg": {"quality": 90},
    "png": {},
    "gif": {},
    "bmp": {},
    "webp": {"quality": 90},
    "tiff": {"compression": "tiff_lzw"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", choices=[[], *SUBJECTS])  # []: all
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = []
    for name in given.subjects or SUBJECTS:
        rows += SUBJECTS[name](given.mutations, given.seed)
    columns = ["file", "mutations", "refused", "believed", "tracebacks"]
    report.write("fuzz", pd.DataFrame(rows, columns=[*columns, "believed and wrong"]))


# --- images


def images(count, seed):
    """A row of each kind of image file."""
    shares = np.bincount(np.arange(count) % len(KINDS), minlength=len(KINDS))
    rows = []
    for kind, share in zip(KINDS, shares, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            found = images_of(kind, int(share), seed, pathlib.Path(folder))
        believed = found["believed"] + found["wrong"]
        bad = (found["traceback"], found["wrong"])
        rows.append((kind, share, found["refused"], believed, *bad))
    return rows


def images_of(kind, count, seed, root):
    """Counts what became of mutated files of a kind that lie in a folder of classes."""
    original = image(kind)
    for name in ("mutated", "other"):  # some are good, or there would be no classes
        (root / name).mkdir()
        for i in range(2):
            (root / name / f"good{i}.{kind}").write_bytes(original)
    paths = [root / "mutated" / f"{i}.{kind}" for i in range(count)]
    for i, path in enumerate(paths):
        mutated = mutate(original, np.random.default_rng((seed, i)))
        path.write_bytes(mended(mutated) if kind == "png" and i % 2 else mutated)
    believed = decodable(paths, MAX_PIXELS)
    judged = [
        judge(path.read_bytes(), is_believed)
        for path, is_believed in zip(paths, believed, strict=True)
    ]
    expected = 4 + int(believed.sum())
    judged += tracebacks_of_loading(root, expected)
    judged += [word for path in paths for word in tracebacks_of_preparing(root, path)]
    return collections.Counter(judged)


def image(kind):
    """A small image file with something in it."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (5, 6, 3), "uint8")
    file = io.BytesIO()
    Image.fromarray(coarse).resize((36, 30)).save(file, kind, **KINDS[kind])
    return file.getvalue()


def mended(contents):
    """A PNG whose checksums fit what was done to it: they would give all of it away."""
    found, start = bytearray(contents), 8
    while start + 12 <= len(found):
        (length,) = struct.unpack_from(">I", found, start)
        end = start + 8 + length
        if end + 4 > len(found):
            break
        struct.pack_into(">I", found, end, zlib.crc32(found[start + 4 : end]))
        start = end + 4
    return bytes(found)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def read(contents):
    """What training and evaluation make of a file, and all of its pixels."""
    contents = limited(contents, MAX_PIXELS)
    window = decode(contents, SHAPE, resize_size=30, place=(0.9, 0.1))
    return decode(contents, SHAPE), window, read_pixels(contents, 3)


def judge(contents, is_believed):
    """What became of a mutated file: refused, believed, wrong or a traceback."""
    try:
        whole, window, pixels = (part.numpy() for part in read(contents))
    except tf.errors.OpError:
        return "wrong" if is_believed else "refused"  # believed once, but not again
    except Exception:
        return told()
    if not is_believed:
        return "wrong"
    in_range = all(part.min() >= 0 and part.max() <= 255 for part in (whole, window))
    is_right = in_range and has_pillows_size(pixels, contents)
    return "believed" if is_right else "wrong"


def has_pillows_size(pixels, contents):
    """Whether Pillow sees an image of the same size, as far as it sees one.

    Not the same pixels: of damaged coefficients each decoder makes its own.
    """
    try:
        with Image.open(io.BytesIO(contents)) as found:
            return found.size == pixels.shape[1::-1]
    except Exception:  # of whatever kind
        return True


def tracebacks_of_loading(root, expected):
    """Loads a folder as a run does; what ends otherwise than it should is told."""
    how = {"data_dir": root, "image_size": SHAPE[0]}
    try:
        source = data.load("folder", on_bad_image="skip", **how)
        for split in (source.train, source.test):
            for _ in data.evaluation_batches(split, batch_size=50, image_shape=SHAPE):
                pass
        assert len(source.train) + len(source.test) == expected
    except Exception:
        return [told()]
    try:
        data.load("folder", **how)
    except UserError:
        return []
    except Exception:
        return [told()]
    return ["wrong"]


def tracebacks_of_preparing(root, path):
    """Reads an image as a preparation does, which names what it can't decode."""
    try:
        name = str(path.relative_to(root))
        files.examine(files.Entry(name, 0), os.path.realpath(root), size=16)
    except Exception:
        return [told()]
    return []


SUBJECTS = {"images": images, **fuzz_runs.SUBJECTS}

if __name__ == "__main__":
    main()
