"""The source of a run: checked, with its noise and holdout, and told to a person."""

import contextlib
import dataclasses
import logging
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from clidmu_tf import data
from clidmu_tf.core.labels import check_labels
from clidmu_tf.data import Source, Split, noise
from clidmu_tf.errors import UserError, listed

logger = logging.getLogger(__name__)

MOST_CLASSES = 10
COLUMNS = 100  # of a terminal
# What TensorFlow raises for files that are gone or damaged, if not for them alone.
OF_FILES = (
    *(tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnknownError),
    *(tf.errors.PermissionDeniedError, tf.errors.DataLossError),
)
OF_IMAGES = ("augment", "image_size", "resize_size")


def checked(source: Source, dataset: str) -> Source:
    """Returns the source, whose labels are labels, and their names a line each.

    Args:
        source: A source as it was loaded.
        dataset: What --dataset calls it.

    Raises:
        UserError: They are not.
    """
    for name in source.class_names:
        if name.splitlines() != [name]:
            raise UserError(
                f"The class {name!r} of {dataset} is not one line, as labels.txt of an "
                "export has it: rename it."
            )
    count = len(source.class_names)
    for name, split in (("training", source.train), ("test", source.test)):
        try:
            check_labels(split.labels, count)
        except ValueError as error:
            raise UserError(f"The {name} data of {dataset}: {error}") from None
    return source


def refuse_of_images(**settings: Any) -> None:
    """Raises a UserError that names settings which are of no use for rows."""
    given = [f"--{name}={value}" for name, value in settings.items() if value]
    if given:
        raise UserError(
            f"{' '.join(given)}: of use for images alone, and these data are rows; "
            "leave it out."
        )


def add_noise(
    source: Source, dataset: str, kind: str, rate: float, seed: int
) -> Source:
    """Redraws training labels at this rate; what they were is their truth.

    Args:
        source: A source.
        dataset: What --dataset calls it.
        kind: One of `data.noise.NOISES`.
        rate: Probability that a label is redrawn.
        seed: Decides which, and what they become.
    """
    if kind == "none":
        return source
    split, count = source.train, len(source.class_names)
    cifar = count if dataset.startswith("cifar10") else 0
    if kind == "hierarchical" and cifar != 100:
        raise UserError(
            "--noise=hierarchical needs the superclasses of CIFAR-100; received "
            f"--dataset={dataset}."
        )
    if kind == "instance" and not split.in_memory:
        raise UserError(
            "--noise=instance needs the images in memory, and those of "
            f"--dataset={dataset} are read from files: choose another noise."
        )
    inputs: Any = split.inputs  # in memory, where it is read
    labels = noise.apply(
        kind,
        split.labels,
        rate,
        seed,
        num_classes=count,
        inputs=inputs,
        mapping=noise.CIFAR10_PAIRS if cifar == 10 else None,
        groups=noise.CIFAR100_SUPERCLASSES if cifar == 100 else None,
    )
    known = split.labels if split.clean_labels is None else split.clean_labels
    noisy = dataclasses.replace(split, labels=labels, clean_labels=known)
    return dataclasses.replace(source, train=noisy)


def hold_out(source: Source, share: float, seed: int) -> Source:
    """Moves a random part of the training data, noise and all, to the holdout.

    It depends on the seed alone, so that runs with one seed compare on one holdout.

    Args:
        source: A source.
        share: How much of its training data; 0 for none.
        seed: Decides which examples.
    """
    if not share:
        return source
    count = len(source.train)
    order = np.random.default_rng((seed, count)).permutation(count)
    first = max(1, round(share * count))
    return dataclasses.replace(
        source,
        train=source.train.take(np.sort(order[first:])),
        holdout=source.train.take(np.sort(order[:first])),
    )


def draw_labels(source: Source, count: int, seed: int) -> Source:
    """Keeps so many labels, noise and all; the other examples are unlabelled from now.

    As many of each given class are drawn; where a class has fewer than its share, it
    gives all it has, and the others make up for it.

    Args:
        source: A source.
        count: How many; 0 for all, and no unlabelled examples.
        seed: Decides which.

    Raises:
        UserError: There are fewer.
    """
    if not count:
        return source
    split, num_classes = source.train, len(source.class_names)
    if count >= len(split):
        raise UserError(
            f"--num_labels={count} leaves no example without a label, of "
            f"{len(split)} training examples: lower it."
        )
    order = np.random.default_rng((seed, count)).permutation(len(split))
    # The how-manieth of its class each example is, in that order.
    rank = np.zeros(len(split), "int64")
    for label in range(num_classes):
        of_class = order[split.labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
        if not len(of_class):
            name = source.class_names[label]
            logger.warning(
                "No example is labelled %s: the network can't learn it.", name
            )
    chosen = order[np.argsort(rank[order], kind="stable")]
    return dataclasses.replace(
        source,
        train=split.take(np.sort(chosen[:count])),
        unlabeled=split.take(np.sort(chosen[count:])),
    )


def with_clean_labels(split: Split, method: str) -> Split:
    """Returns a split with the true labels in place of the given ones.

    Args:
        split: A split.
        method: What --method calls the method that wants them.

    Raises:
        UserError: The truth is unknown.
    """
    if split.clean_labels is None:
        raise UserError(
            f"--method={method} with a supervised meta objective needs true "
            "labels: give --clean_label_key, or take --method=clid_mu and "
            "--meta_objective=clid."
        )
    return dataclasses.replace(split, labels=split.clean_labels)


def account(source: Source) -> str:
    """What was read, for a person to see whether it is what was meant."""
    counts = np.bincount(source.train.labels, minlength=len(source.class_names))
    some = [f"{n}: {c:,}" for n, c in zip(source.class_names, counts, strict=True)]
    classes = ", ".join(some[:MOST_CLASSES])
    if len(some) > MOST_CLASSES:
        classes += f", …; from {counts.min():,} to {counts.max():,}"
    held_out = "held out, with given labels" if source.test_is_given else "to test on"
    lines = [
        f"Read {len(source.train):,} examples to train on and {len(source.test):,} "
        f"{held_out}, of {len(some)} classes ({classes})."
    ]
    if source.reading:
        lines.insert(0, source.reading)
    if source.ignored:
        kinds = sorted(source.ignored.items())
        ignored = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
        lines.append(f"Ignored, as no images: {ignored}.")
    return "\n".join(textwrap.fill(line, COLUMNS) for line in lines)


@contextlib.contextmanager
def naming_damage(source: Source) -> Iterator[None]:
    """Names the images that a run could not read, though they were whole once.

    Args:
        source: What it reads.

    Raises:
        UserError: There are such.
    """
    try:
        yield
    except OF_FILES as error:
        logger.info("Something could not be read: looking for it in all of the data.")
        parts = (source.train, source.test, source.holdout, source.unlabeled)
        found = [name for part in parts if part for name in data.damaged(part)]
        if not found:
            raise
        raise UserError(
            "Images that were whole when the run began can't be read any more "
            f"({len(found)}: {listed(found)}): bring them back as they were, and the "
            "same command goes on."
        ) from error


def wrong_share(split: Split) -> float | None:
    """The share of labels that are wrong, or `None` where the truth is unknown."""
    if split.clean_labels is None:
        return None
    return float(np.mean(split.labels != split.clean_labels))
