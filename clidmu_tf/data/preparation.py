"""Makes a prepared TFDS data set of a folder that a person obtained."""

import collections
import dataclasses
import os
import pathlib
import re

import tensorflow as tf
import tensorflow_datasets as tfds

from clidmu_tf.data.builders import BUILDERS, builder_of
from clidmu_tf.data.decode import MAX_PIXELS
from clidmu_tf.data.prepared import damaged, find, open_builder
from clidmu_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a preparation came to.

    Attributes:
        name: Name of the data set, as `--dataset` takes it.
        path: Folder of the prepared data.
        report: File that names each entry that was left out: split, reason, id.
        counts: Of each split the number of images.
        published: Of each split the published number, as far as there is one.
        bad: How many entries were left out, by `(split, reason)`.
    """

    name: str
    path: pathlib.Path
    report: pathlib.Path
    counts: dict[str, int]
    published: dict[str, int]
    bad: collections.Counter


def prepare(name, manual_dir, data_dir=None, size=0, max_pixels=MAX_PIXELS):
    """Prepares a data set, or finds that it is; see `clidmu_tf.data.prepare`."""
    builder = _builder(name, data_dir, size, max_pixels)
    folder = pathlib.Path(builder.data_path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # TFDS would take it for a data set
    if folder.exists():
        _check_prepared(builder, name, size)
    else:
        _check_folder(builder, manual_dir)
        settings = tfds.download.DownloadConfig(
            manual_dir=manual_dir, try_download_gcs=False
        )
        try:
            builder.download_and_prepare(download_config=settings)
        except (OSError, tf.errors.OpError, RuntimeError) as error:
            # TFDS puts some into a RuntimeError; where there is none, it is a bug.
            cause = error.__cause__ if type(error) is RuntimeError else error
            if not isinstance(cause, OSError | tf.errors.OpError):
                raise
            raise UserError(
                f"--dataset={name} could not be prepared in {folder} "
                f"({str(cause).splitlines()[0]}): mend that and start again."
            ) from error
    counts = builder.counts()
    return Prepared(
        name,
        folder,
        builder.report,
        counts,
        {split: n for split, n in builder.published.items() if split in counts},
        builder.bad()[0],
    )


def _builder(name, data_dir, size, max_pixels):
    if re.split("[/:]", name)[0] not in BUILDERS:
        raise UserError(
            f"--task=prepare knows {', '.join(BUILDERS)}; received --dataset={name}: "
            "prepare TFDS's own data sets with TFDS, on a machine with network access, "
            "or use --dataset=folder."
        )
    builder, config = builder_of(name)
    try:
        return builder(
            data_dir=data_dir or None,
            config=config or None,
            prepare_size=size,
            max_pixels=max_pixels,
        )
    except Exception as error:  # of many kinds, where what is there is damaged
        folder = find(name, data_dir) or pathlib.Path(data_dir or "", builder.name)
        raise damaged(folder, error) from error


def _check_folder(builder, manual_dir):
    if not manual_dir or not os.path.isdir(manual_dir):
        raise UserError(
            f"--manual_dir={manual_dir or ''} is no folder: name the one that holds "
            f"{builder.name}. {builder.layout}"
        )
    builder.check(os.path.realpath(manual_dir))


def _check_prepared(builder, name, size):
    open_builder(builder.data_path)
    try:
        for split in builder.info.splits.values():
            for path in split.filepaths:
                os.stat(path)
        before = builder.info.metadata["prepare_size"]
        builder.warn()
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise damaged(builder.data_path, error) from error
    if size != before:
        raise UserError(
            f"--dataset={name} is prepared in {builder.data_path} with "
            f"--prepare_size={before}; received {size}: remove that folder, or name "
            "another --data_dir."
        )
