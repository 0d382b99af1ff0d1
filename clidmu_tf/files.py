"""Files that are there whole or not at all, and that say so when they are damaged."""

import contextlib
import json
import logging
import os
import pathlib
import socket
import struct
import zipfile
import zlib

import numpy as np

from clidmu_tf.errors import UserError

logger = logging.getLogger(__name__)

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
        with contextlib.suppress(OSError):  # of a disk that is read alone
            part.unlink(missing_ok=True)
        raise UserError(
            f"Could not write {path} ({error.strerror}): make room, or choose another "
            "place; what was saved before is intact."
        ) from error


def write_text(path, text):
    """Writes a text atomically, in UTF-8; names that are none keep their bytes."""
    content = text.encode("utf-8", "surrogateescape")
    write_atomically(path, lambda file: file.write(content))


def write_json(path, record):
    """Writes a dict as JSON, atomically."""
    write_text(path, json.dumps(record, indent=2) + "\n")


def read_json(path, **kinds):
    """Returns the dict that `write_json` wrote.

    Args:
        path: The file.
        **kinds: What must be in it, by name, and of which type.

    Raises:
        UserError: The file holds no such dict.
    """
    try:
        found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        wrong = [n for n, kind in kinds.items() if not isinstance(found[n], kind)]
        if wrong:
            raise ValueError(f"{wrong[0]} is {found[wrong[0]]!r}")
        return found
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}): bring it back from "
            "a copy, or remove the folder that it is of and make that anew."
        ) from error


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


@contextlib.contextmanager
def locked(path):
    """Holds a file for this process, until the block or the process ends.

    The lock is the system's, not the file's being there, so that none outlives its
    holder, and no clock is asked. On a network file system it holds between machines
    as far as that lends locks.

    Args:
        path: The file, which names its holder and stays, empty, when it is let go.

    Raises:
        UserError: Another process holds it.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            import fcntl  # which Windows has not

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{path} is held by {holder}, which works in that folder: wait until "
                "it ends, or choose another folder."
            ) from None
        except (ImportError, OSError) as error:
            logger.warning(
                "%s: no lock is to be had here (%s); see to it that no other run uses "
                "this folder.",
                *(path, error),
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
