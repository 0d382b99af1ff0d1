"""Images in TFRecord files, any of which can be read without those before it.

A TFRecord file is a chain: each record starts where the one before it ends. Whoever
knows where each starts can read them in any order, so a shuffle is a true permutation
with nothing held in memory, a run goes on in the middle at no cost, and each worker
reads its own part of each batch alone. The files stay as TFDS wrote them.
"""

import functools
import os
import struct

import numpy as np
import tensorflow as tf

HEADER = 12  # bytes before a record's data: its length, and that length's checksum
FOOTER = 4  # bytes behind it: the data's checksum
OPEN_FILES = 256


class Records:
    """Encoded images in TFRecord files; `len` and indices work as on an array.

    Args:
        paths: The files.
        image_key: Name of the image among a record's features.
        files: `(n,)` integers, the file of each record.
        offsets: `(n,)` integers, the byte at which each record starts.
        lengths: `(n,)` integers, the bytes of each record's data.
    """

    def __init__(self, paths, image_key, files, offsets, lengths):
        self.paths, self.image_key = tuple(paths), image_key
        self.files, self.offsets, self.lengths = files, offsets, lengths

    def __len__(self):
        return len(self.files)

    def __getitem__(self, indices):
        parts = (self.files, self.offsets, self.lengths)
        return Records(self.paths, self.image_key, *(part[indices] for part in parts))

    def read(self, indices):
        """Returns the serialised examples at these places, `(n,)` bytes objects.

        Raises:
            OSError: A file is gone, or no longer the one that was indexed.
        """
        found = np.empty(len(indices), object)
        for i, index in enumerate(indices):
            path, length = self.paths[self.files[index]], int(self.lengths[index])
            # The file object is held while it is read from, so that it stays open.
            file = _open(path)
            record = os.pread(file.fileno(), HEADER + length, self.offsets[index])
            if len(record) < HEADER + length or _length(record) != length:
                raise OSError(f"{path} has changed while it was in use.")
            found[i] = record[HEADER:]
        return found

    def images(self, indices):
        """The encoded images at these places, as a tensor of strings."""
        examples = tf.numpy_function(self.read, [indices], tf.string, stateful=False)
        return self._parsed(tf.ensure_shape(examples, indices.shape))

    def image(self, index):
        """The encoded image at one place, read now."""
        return self._parsed(tf.constant(self.read([index])))[0]

    def _parsed(self, examples):
        features = {self.image_key: tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_example(examples, features)[self.image_key]


def checksums(paths, files, offsets, lengths):
    """The checksums that TFRecord files hold of records' data, `(n,)` uint32.

    Args:
        paths: The files.
        files: As in `Records`.
        offsets: As in `Records`.
        lengths: As in `Records`.

    Raises:
        OSError: A file is gone, or ends before a record does.
    """
    found = np.empty(len(files), "uint32")
    for i, (file, start) in enumerate(zip(files, offsets + lengths, strict=True)):
        # Held, as in `read`.
        opened = _open(paths[file])
        footer = os.pread(opened.fileno(), FOOTER, start + HEADER)
        if len(footer) < FOOTER:
            raise OSError(f"{paths[file]} ends before its records do.")
        found[i] = int.from_bytes(footer, "little")
    return found


def forget_open_files():
    """Makes files be opened anew, since others may have taken their place."""
    _open.cache_clear()


@functools.lru_cache(OPEN_FILES)
def _open(path):
    return open(path, "rb", buffering=0)


def _length(record):
    return struct.unpack_from("<Q", record)[0]
