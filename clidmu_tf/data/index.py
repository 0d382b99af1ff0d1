"""Where each record of a split lies, and its labels and id, gathered once.

One pass over the files finds the lengths, labels and ids of all their records, and
checks their checksums. What it found is kept in the user's cache folder,
`XDG_CACHE_HOME` or `~/.cache`: data may be somebody else's, and read by many.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import uuid
import zipfile
import zlib

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.data import records
from clidmu_tf.errors import UserError

logger = logging.getLogger(__name__)

AROUND = records.HEADER + records.FOOTER
PROBES = 100_000  # records at most whose checksums are read to know data again
LONG_PASS = 2**30  # bytes; a pass over more than that shows how far it is

# What reading a file with wrong bytes in it may raise.
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class Index:
    """Where the records of a split lie, and what is known of them.

    Attributes:
        files: `(n,)` int32, the file of each record.
        offsets: `(n,)` int64, the byte at which each record starts.
        lengths: `(n,)` int64, the bytes of each record's data.
        labels: Name of the column → `(n,)` int32.
        ids: `(n,)` strings.
    """

    def __init__(self, counts, lengths, labels, ids):
        self.lengths, self.labels, self.ids = lengths, labels, ids
        self.files = np.repeat(np.arange(len(counts), dtype="int32"), counts)
        ends = np.cumsum(lengths + AROUND)
        # Each file begins where those before it end.
        before = np.concatenate([[0], ends])[np.cumsum(counts) - counts]
        self.offsets = ends - (lengths + AROUND) - before[self.files]


def load(paths, counts, label_keys, id_key, name):
    """Returns the `Index` of a split, from the file that keeps it if there is one.

    It is made anew when there is none, when it is damaged, or when the files are other
    ones: by their names, sizes and times, by the columns asked for, or by the checksums
    of their records, which tell other labels where a copy has kept size and time.

    Args:
        paths: The TFRecord files, in order.
        counts: How many records each should hold.
        label_keys: Names of the integer features to gather.
        id_key: Name of the feature that names an example, or `None`: then that is
            the file's name and the place in it, as in TFDS.
        name: Name of the split.

    Raises:
        UserError: A file does not hold as many records as it should.
        OSError: A file is gone.
        tf.errors.OpError: A file is damaged.
    """
    records.forget_open_files()
    counts, stats = np.array(counts), [os.stat(path) for path in paths]
    names = [os.path.basename(path) for path in paths]
    sizes, times = [s.st_size for s in stats], [s.st_mtime_ns for s in stats]
    key = json.dumps([names, sizes, times, counts.tolist(), sorted(label_keys), id_key])
    place = _place(paths[0], name)
    found = _read(place, key, paths, counts)
    if found is None:
        found = _scan(paths, counts, label_keys, id_key, name, sum(sizes))
        checksums = _checksums(paths, counts, found["lengths"])
        _write(place, key=np.array(key), checksums=checksums, **found)
    labels = {label_key: found[f"label_{label_key}"] for label_key in label_keys}
    if id_key:
        ids = _split(found["ids"], found["id_lengths"])
    else:
        ids = [
            f"{n}__{i}" for n, c in zip(names, counts, strict=True) for i in range(c)
        ]
    return Index(counts, found["lengths"], labels, np.array(ids, object))


def _scan(paths, counts, label_keys, id_key, name, size):
    """Reads every record once; returns the arrays that an index file holds."""
    features = {key: tf.io.FixedLenFeature([], tf.int64) for key in label_keys}
    if id_key:
        features[id_key] = tf.io.FixedLenFeature([], tf.string)

    def scan_file(file, path):
        def parse(examples):
            values = tf.io.parse_example(examples, features) if features else {}
            return file, tf.strings.length(examples), values

        return tf.data.TFRecordDataset(path, buffer_size=2**22).batch(64).map(parse)

    files = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), paths))
    files = files.interleave(
        scan_file, cycle_length=8, num_parallel_calls=8, deterministic=False
    )
    verbose = int(size > LONG_PASS)
    if verbose:
        print(f"Looking through the {size / 1e9:.0f} GB of {name}, once:")
    progress = keras.utils.Progbar(counts.sum(), unit_name="record", verbose=verbose)
    parts = [[] for _ in paths]
    # Batches come from all files in any order, those of one file in theirs.
    for file, lengths, values in files.as_numpy_iterator():
        parts[file].append((lengths, values))
        progress.add(len(lengths))
    for path, part, count in zip(paths, parts, counts, strict=True):
        seen = sum(len(lengths) for lengths, _ in part)
        if seen != count:
            raise UserError(
                f"{path} holds {seen} records and should hold {count}: prepare the "
                "data set again."
            )
    batches = [batch for part in parts for batch in part]
    found = {"lengths": np.concatenate([b[0] for b in batches]).astype("int64")}
    for key in label_keys:
        values = np.concatenate([b[1][key] for b in batches])
        found[f"label_{key}"] = values.astype("int32")
    if id_key:
        ids = np.concatenate([b[1][id_key] for b in batches])
        found["ids"] = np.frombuffer(b"".join(ids), "uint8")
        found["id_lengths"] = np.array([len(i) for i in ids], "int32")
    return found


def _split(text, lengths):
    """Strings from their UTF-8 bytes, one after the other, and their lengths."""
    text, ends = text.tobytes(), np.cumsum(lengths)
    pairs = zip(ends - lengths, ends, strict=True)
    return [text[start:end].decode("utf-8", "replace") for start, end in pairs]


def _place(path, name):
    """Where the index of a split is kept."""
    folder = pathlib.Path(path).parent.resolve()
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return cache / "clidmu_tf" / digest / f"index_{name}.npz"


def _checksums(paths, counts, lengths):
    """The checksums of records' data, `(p,)` uint32, as the files hold them.

    They tell whether anything has changed, and nothing has to be read or decoded for
    them. Of a split of more than `PROBES` records they are those of every so many: to
    visit each of some millions would take as long as the pass that an index spares.
    """
    index = Index(counts, lengths, {}, None)
    some = slice(None, None, -(-len(lengths) // PROBES) or 1)
    return records.checksums(
        paths, index.files[some], index.offsets[some], lengths[some]
    )


def _read(place, key, paths, counts):
    """Returns the arrays of an index file, or `None` if it is of no use."""
    if not place.exists():
        return None
    try:
        with np.load(place) as file:
            found = dict(file)
        of_key, checksums = found.pop("key").item(), found.pop("checksums")
        if of_key == key and np.array_equal(
            checksums, _checksums(paths, counts, found["lengths"])
        ):
            return found
        logger.info("%s is that of other files: it is made anew.", place)
    except DAMAGED as error:
        logger.warning("%s is damaged (%s): it is made anew.", place, error)
    return None


def _write(place, **arrays):
    """Keeps an index where that is possible; several workers may do so at once."""
    part = place.with_name(f"{place.name}.{uuid.uuid4().hex}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # What a kill has left. A worker whose part goes leaves the index to this one.
        for left in place.parent.glob(f"{place.name}.*.part"):
            left.unlink(missing_ok=True)
        with open(part, "wb") as file:
            np.savez(file, **arrays)
        with contextlib.suppress(FileNotFoundError):
            os.replace(part, place)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        logger.warning(
            "The index of the data cannot be kept in %s (%s): the next run makes it "
            "anew.",
            place.parent,
            error,
        )
