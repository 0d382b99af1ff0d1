"""Prepared TFDS data sets; nothing is ever downloaded."""

import re

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from clidmu_tf.data.sources import Source, Split
from clidmu_tf.errors import UserError

TEST_SPLITS = ("test", "validation")


def from_tfds(
    name, data_dir=None, label_key="label", clean_label_key="", image_size=0, limit=0
):
    """Reads a prepared TFDS data set of images into memory.

    Args:
        name: Name, with config if need be: `"cifar10_n"`, `"food101/…"`.
        data_dir: TFDS's folder; `None` for its default.
        label_key: Column of the labels to train on.
        clean_label_key: Column of the true labels, or `""`.
        image_size: Side to resize to; needed where images differ in size.
        limit: Keep the first so many training examples; 0 for all.

    Raises:
        UserError: It is not there, or has no such column.
    """
    builder = _prepared(name, data_dir)
    features = builder.info.features
    image_key = next((k for k, f in features.items() if _is_image(f)), None)
    columns = [
        k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)
    ]
    if image_key is None:
        raise UserError(
            f"--dataset={name} has no image column; it has {list(features)}."
        )
    for flag, key in (("label_key", label_key), ("clean_label_key", clean_label_key)):
        if key and key not in columns:
            raise UserError(
                f"--{flag}={key} is no label column of {name}, which has: "
                f"{', '.join(columns)}."
            )
    channels = features[image_key].shape[-1] or 3
    shape = features[image_key].shape
    shape = (image_size, image_size, channels) if image_size else shape
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
    read = _Reader(builder, image_key, shape)
    try:
        test = _test_split(builder, clean_label_key or label_key)
        train = read("train", label_key, clean_label_key, limit)
        test = read(test, clean_label_key or label_key, clean_label_key, 0)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--dataset={name} cannot be read from {builder.data_path} "
            f"({str(error).splitlines()[0]}): prepare it again."
        ) from error
    return Source(name, train, test, names, tuple(shape))


def _test_split(builder, label_key):
    """The split to report on: the first of the usual ones that has labels."""
    splits = builder.info.splits
    found = [split for split in TEST_SPLITS if split in splits]
    if "train" not in splits or not found:
        raise UserError(
            f"--dataset={builder.name} needs a train and a test or validation split; "
            f"it has {', '.join(splits)}."
        )
    for split in found:
        # Test splits of competitions come with -1 for a label.
        example = next(iter(builder.as_dataset(split=f"{split}[:1]")))
        if example[label_key] >= 0:
            return split
    raise UserError(
        f"--dataset={builder.name} has no labels to test on in {' and '.join(found)}."
    )


class _Reader:
    def __init__(self, builder, image_key, shape):
        self.builder, self.image_key, self.shape = builder, image_key, shape

    def __call__(self, split, label_key, clean_key, limit):
        count = self.builder.info.splits[split].num_examples
        part = f"{split}[:{limit}]" if 0 < limit < count else split
        # With its id, TFDS hands out examples in its own, fixed order.
        config = tfds.ReadConfig(
            add_tfds_id=True, interleave_cycle_length=1, try_autocache=False
        )
        data = self.builder.as_dataset(
            split=part, shuffle_files=False, read_config=config
        )
        keys = dict.fromkeys([label_key, *([clean_key] if clean_key else [])])

        def pick(example):
            image = example[self.image_key]
            if tuple(image.shape) != tuple(self.shape):
                image = tf.image.resize(image, self.shape[:2])
                image = tf.cast(tf.round(image), tf.uint8)
            found = example.get("id", example["tfds_id"])
            return image, [example[key] for key in keys], found

        data = data.map(pick, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        parts = list(data.batch(1000).prefetch(2).as_numpy_iterator())
        images, labels, ids = (np.concatenate(p) for p in zip(*parts, strict=True))
        columns = dict(zip(keys, labels.T.astype("int64"), strict=True))
        clean = columns[clean_key] if clean_key else None
        ids = np.array([i.decode() if isinstance(i, bytes) else str(i) for i in ids])
        return Split(images, columns[label_key], clean, ids)


def _prepared(name, data_dir):
    if not re.fullmatch(r"\w+(/[\w.\-]+)*(:[\d.*]+)?", name):
        raise UserError(f"--dataset={name!r} is no name of a data set.")
    place = data_dir or "the default data_dir"
    option = f" --data_dir {data_dir}" if data_dir else ""
    try:
        # Local files alone: without this TFDS asks a bucket in the network first.
        builder = tfds.core.load.read_only_builder.builder_from_files(
            name, data_dir=data_dir
        )
        return builder
    except (tfds.core.DatasetNotFoundError, ValueError, OSError):
        pass
    if name.split("/")[0].split(":")[0] in tfds.list_builders(
        with_community_datasets=False
    ):
        raise UserError(
            f"--dataset={name} is not prepared in {place}: run `tfds build {name}"
            f"{option}` on a machine with network access, or point --data_dir at the "
            "folder that holds it."
        )
    raise UserError(
        f"--dataset={name} is unknown: use digits, folder, or the name of a prepared "
        "TFDS data set such as cifar10."
    )


def _is_image(feature):
    return isinstance(feature, tfds.features.Image)
