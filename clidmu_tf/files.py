"""Files that are there whole or not at all, and that say so when they are damaged."""

import json
import os
import pathlib
import struct
import zipfile
import zlib

import numpy as np

from clidmu_tf.errors import UserError

# What reading a file with wrong bytes in it may raise.
DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


def write_atomically(path, write):
    """Calls `write(file)`; the file is at `path` either whole or as it was.

    Args:
        path: The file to write.
        write: Takes a binary file open for writing.

    Raises:
        UserError: It could not be written; what was there is still there.
    """
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"Could not write {path} ({error.strerror}): make room or choose another "
            "--workdir; what was saved before is intact."
        ) from error


def write_text(path, text):
    """Writes a text atomically, in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path, record):
    """Writes a dict as JSON, atomically."""
    write_text(path, json.dumps(record, indent=2) + "\n")


def write_arrays(path, **arrays):
    """Writes named arrays atomically."""
    names = np.array(list(arrays))
    write_atomically(path, lambda file: np.savez(file, names=names, **arrays))


def read_arrays(path):
    """Returns the named arrays of a file, every byte of which was checked.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {str(name): file[str(name)] for name in file["names"]}
    except DAMAGED as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it to go on without it."
        ) from error
