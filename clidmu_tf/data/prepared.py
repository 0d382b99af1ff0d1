"""What TFDS has prepared, read from its files: they are data, and may be damaged."""

import json
import pathlib
import re

import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.utils import error_utils

from clidmu_tf.errors import UserError

# TFDS imports whatever class a features.json names; only its own are taken here.
FEATURES = "tensorflow_datasets.core.features."
# What names a class there, in the form of now and in that before TFDS 4.4.
KEYS = ("pythonClassName", "python_class_name", "type")


def find(name, data_dir=None):
    """Returns the folder of a prepared data set, or `None` where there is none.

    Args:
        name: Name, with config and version if need be: `"webvision/mini:1.0.0"`.
        data_dir: TFDS's folder; `None` for its default.

    Raises:
        UserError: There are several, or what is there cannot be read.
    """
    # Not in public: what is opens what it finds, or asks a bucket in the network first.
    try:
        with error_utils.record_error_context():
            return read_only_builder._find_builder_dir(name, data_dir=data_dir)
    except Exception as error:  # of many kinds
        raise UserError(
            f"--dataset={name} cannot be looked for in --data_dir={data_dir or ''} "
            f"({_reason(error)}): mend that, or name another."
        ) from error


def open_builder(folder):
    """Returns the TFDS builder of a folder of prepared data.

    Raises:
        UserError: A file is damaged, or names classes that are not TFDS's own.
    """
    try:
        features = json.loads(pathlib.Path(folder, "features.json").read_bytes())
        foreign = [n for n in _class_names(features) if not n.startswith(FEATURES)]
        if not foreign:
            return tfds.builder_from_directory(folder)
    except Exception as error:  # of many kinds, for files that are damaged
        raise damaged(folder, error) from error
    raise UserError(
        f"{folder} has features of the class {foreign[0]!r}, which is none of TFDS's "
        "own and so is not imported: prepare it again with those."
    )


def damaged(folder, error):
    """The UserError that says so of a folder of prepared data."""
    return UserError(
        f"The data set in {folder} cannot be read ({_reason(error)}): remove that "
        "folder and prepare it again."
    )


def _reason(error):
    said = re.sub(r"{{.*?}} | \[Op:.*", "", str(error)).strip()  # by graphs, of nodes
    return (said or type(error).__name__).splitlines()[0].rstrip(".")


def _class_names(value):
    """Yields the names of all classes that a features.json tells TFDS to import."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(part, dict | list):
            yield from _class_names(part)
        elif key in KEYS and "." in str(part):
            yield part
