"""Prepared TFDS data sets; nothing is ever downloaded."""

import dataclasses
import functools
import os
import re

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from clidmu_tf.data import index as indices
from clidmu_tf.data import prepared
from clidmu_tf.data.builders import BUILDERS, builder_of
from clidmu_tf.data.decode import MAX_PIXELS
from clidmu_tf.data.pipeline import evaluation_batches
from clidmu_tf.data.records import Records
from clidmu_tf.data.sources import Source, Split
from clidmu_tf.errors import UserError

TEST_SPLITS = ("test", "validation")
MEMORY = 2**30  # bytes; images that come to more stay in their files


def from_tfds(
    name,
    data_dir=None,
    label_key="label",
    clean_label_key="",
    train_split="train",
    test_split="",
    image_size=0,
    resize_size=0,
    max_pixels=MAX_PIXELS,
    limit=0,
):
    """Reads a prepared TFDS data set of images.

    Images that come to less than 1 GiB and need no window cut are held in memory;
    others are read from the prepared files, at random places, when they are needed.

    Args:
        name: Name, with config if need be: `"cifar10_n"`, `"webvision/mini"`.
        data_dir: TFDS's folder; `None` for its default.
        label_key: Column of the labels to train on.
        clean_label_key: Column of the true labels, or `""`.
        train_split: Split to train on.
        test_split: Split to report on; `""` for the first of the usual ones.
        image_size: Side to resize to; needed where images differ in size.
        resize_size: Shorter side of the images that a window is cut from; 0 for none.
        max_pixels: The most pixels that an image is decoded of.
        limit: Keep the first so many training examples; 0 for all.

    Raises:
        UserError: It is not there, or has no such column.
    """
    builder = _prepared(name, data_dir)
    features = builder.info.features
    image_key = _image_key(name, features)
    columns = _label_columns(name, features, label_key, clean_label_key)
    shape = features[image_key].shape
    if image_size:
        shape = (image_size, image_size, shape[-1] or 3)
    if None in shape:
        raise UserError(
            f"--dataset={name} has images of many sizes: give --image_size."
        )
    # Where the two have other names for the classes, "0" and "airplane" as in
    # cifar10_n, those of the true labels say more.
    names = tuple(features[clean_label_key or label_key].names)
    if features[label_key].num_classes != len(names):
        raise UserError(
            f"--clean_label_key={clean_label_key} has other classes than "
            f"--label_key={label_key}: choose columns of the same classes."
        )
    decoded = {"resize_size": resize_size, "max_pixels": max_pixels}
    read = functools.partial(_read, builder, image_key, columns, tuple(shape), decoded)
    try:
        _check_splits(builder, train_split, test_split)
        train = read(train_split, label_key, clean_label_key, limit)
        test_name = test_split or _test_split(builder, clean_label_key or label_key)
        test = read(test_name, clean_label_key or label_key, clean_label_key, 0)
    except (tf.errors.OpError, OSError) as error:
        raise prepared.damaged(builder.data_path, error) from error
    return Source(name, train, test, names, tuple(shape))


def _image_key(name, features):
    """The first image column."""
    keys = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    if not keys:
        raise UserError(
            f"--dataset={name} has no image column; it has {list(features)}."
        )
    dtype = np.dtype(features[keys[0]].np_dtype).name
    if dtype not in ("uint8", "uint16"):
        raise UserError(
            f"--dataset={name} has {dtype} images, and 8 or 16 bits a channel "
            "are needed: prepare it with such."
        )
    return keys[0]


def _label_columns(name, features, label_key, clean_label_key):
    """All columns of class labels; refuses keys that are none of them."""
    columns = [
        k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)
    ]
    for flag, key in (("label_key", label_key), ("clean_label_key", clean_label_key)):
        if key and key not in columns:
            others = f"no such column, only {', '.join(features)}"
            raise UserError(
                f"--{flag}={key} is no column of class labels of {name}, which has "
                f"{', '.join(columns) or others}."
            )
    return columns


def _check_splits(builder, train_split, test_split):
    """Refuses splits that are not there, and a data set without the usual ones."""
    splits = builder.info.splits
    for flag, split in (("train_split", train_split), ("test_split", test_split)):
        if split and split not in splits:
            raise UserError(
                f"--{flag}={split} is no split of --dataset={builder.name}, which has "
                f"{', '.join(splits)}."
            )
    if not (test_split or set(TEST_SPLITS) & set(splits)):
        raise UserError(
            f"--dataset={builder.name} has no test or validation split, only "
            f"{', '.join(splits)}: name one with --test_split."
        )


def _test_split(builder, label_key):
    """The split to report on: the first of the usual ones that has labels."""
    found = [split for split in TEST_SPLITS if split in builder.info.splits]
    for split in found:
        # Test splits of competitions come with -1 for a label.
        example = next(iter(builder.as_dataset(split=f"{split}[:1]")))
        if example[label_key] >= 0:
            return split
    raise UserError(
        f"--dataset={builder.name} has no labels to test on in {' and '.join(found)}."
    )


def _read(builder, image_key, columns, shape, decoded, name, label, clean, limit):
    """Returns a split, its images in memory or as `Records`."""
    info, features = builder.info.splits[name], builder.info.features
    paths = [os.fspath(path) for path in info.filepaths]
    has_id = "id" in features and isinstance(features["id"], tfds.features.Text)
    id_key = "id" if has_id else None
    index = indices.load(paths, info.shard_lengths, columns, id_key, name)
    split = Split(
        Records(paths, image_key, index.files, index.offsets, index.lengths),
        index.labels[label].astype("int64"),
        index.labels[clean].astype("int64") if clean else None,
        index.ids,
        **decoded,
    )
    if 0 < limit < len(split):
        split = split.take(np.arange(limit))
    if split.resize_size or len(split) * np.prod(shape) > MEMORY:
        return split
    images = np.empty((len(split), *shape), "uint8")
    batches = evaluation_batches(split, batch_size=500, image_shape=shape)
    for i, (x, _) in enumerate(batches.as_numpy_iterator()):
        images[500 * i : 500 * (i + 1)] = x
    return dataclasses.replace(split, inputs=images)


def _prepared(name, data_dir):
    if not re.fullmatch(r"\w+(/[\w.\-]+)*(:[\d.*]+)?", name):
        raise UserError(f"--dataset={name!r} is no name of a data set.")
    base = re.split("[/:]", name)[0]
    if base in BUILDERS:
        builder_of(name)
    place = data_dir or "the default data_dir"
    option = f" --data_dir {data_dir}" if data_dir else ""
    folder = prepared.find(name, data_dir)
    if folder is not None:
        builder = prepared.open_builder(folder)
        if builder.info.file_format != tfds.core.file_adapters.FileFormat.TFRECORD:
            raise UserError(
                f"--dataset={name} is stored as {builder.info.file_format.value}, and "
                "tfrecord is what can be read: prepare it as that."
            )
        return builder
    if base in BUILDERS:
        option = f" --data_dir={data_dir}" if data_dir else ""
        raise UserError(
            f"--dataset={name} is not prepared in {place}: run `python train.py "
            f"--task=prepare --dataset={name}{option} --manual_dir=FOLDER`, FOLDER "
            "being where you put the data that you obtained."
        )
    if base in tfds.list_builders(with_community_datasets=False):
        raise UserError(
            f"--dataset={name} is not prepared in {place}: run `tfds build {name}"
            f"{option}` on a machine with network access, or point --data_dir at the "
            "folder that holds it."
        )
    raise UserError(
        f"--dataset={name} is unknown: use digits, folder, csv, or the name of a "
        "prepared TFDS data set such as cifar10."
    )
