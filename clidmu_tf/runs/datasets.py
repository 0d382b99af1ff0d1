"""The data of a run: a source with its noise and holdout, and its batches."""

import contextlib
import dataclasses
import logging
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from clidmu_tf import data
from clidmu_tf.core.labels import check_labels
from clidmu_tf.data import Source, Split, augment, noise
from clidmu_tf.engine.examples import with_index, with_views
from clidmu_tf.errors import UserError
from clidmu_tf.runs import strategies

logger = logging.getLogger(__name__)

# Added to the seed for batches that go beside the labelled ones, not with them.
META_SEED = 10**6
MOST_CLASSES = 10
MOST_NAMED = 3  # images in a sentence
COLUMNS = 100  # of a terminal
# What TensorFlow raises for files that are gone or damaged, if not for them alone.
OF_FILES = (
    *(tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnknownError),
    *(tf.errors.PermissionDeniedError, tf.errors.DataLossError),
)
OF_IMAGES = ("augment", "image_size", "resize_size")
UNLABELED_SEED = 2 * 10**6


# --- the source


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
        named = ", ".join(found[:MOST_NAMED]) + (
            ", …" if len(found) > MOST_NAMED else ""
        )
        raise UserError(
            "Images that were whole when the run began can't be read any more "
            f"({len(found)}: {named}): bring them back as they were, and the same "
            "command goes on."
        ) from error


def wrong_share(split: Split) -> float | None:
    """The share of labels that are wrong, or `None` where the truth is unknown."""
    if split.clean_labels is None:
        return None
    return float(np.mean(split.labels != split.clean_labels))


# --- its batches


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads the examples of a source in order.

    Attributes:
        source: The source.
        batch_size: Examples at a time.
    """

    source: Source
    batch_size: int

    def in_order(self, split: Split, batch_size: int | None = None) -> tf.data.Dataset:
        """Every example of a split once: batches of `(x, y)`, x float32 in 0..255."""
        return data.evaluation_batches(
            split,
            batch_size=batch_size or self.batch_size,
            image_shape=self.source.image_shape,
        )

    def pixels_in_order(
        self, split: Split, batch_size: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `in_order`, with x as the uint8 images that they are, exactly."""
        for x, y in self.in_order(split, batch_size).as_numpy_iterator():
            yield np.round(x).astype("uint8"), y

    def raw_in_order(self, split: Split) -> Iterator[tuple[Any, np.ndarray]]:
        """As an exported model takes them: images, or the columns of rows."""
        preprocessing = self.source.preprocessing
        if preprocessing is None:
            yield from self.pixels_in_order(split)
            return
        for start in range(0, len(split), self.batch_size):
            part = split.take(slice(start, start + self.batch_size))
            yield preprocessing.raw(part.rows), part.labels

    def inputs(self, split: Split) -> np.ndarray:
        """All inputs of a split; images as uint8: floats would take four times as much
        room."""
        if split.in_memory:
            return np.asarray(split.inputs)
        return np.concatenate([x for x, _ in self.pixels_in_order(split, 100)])

    def examples(self, positions: np.ndarray) -> Iterator[Any]:
        """Training examples as a page shows them: images, texts, or rows by column."""
        split = self.source.train.take(positions)
        if split.rows is None:
            for x, _ in self.in_order(split, 100).as_numpy_iterator():
                yield from x
        elif split.rows.shape[1] == 1:
            yield from map(str, split.rows.iloc[:, 0])
        else:
            yield from split.rows.to_dict("records")


@dataclasses.dataclass(frozen=True)
class TrainingData(Reader):
    """Reads a source to train on it, too: in an order that seed and step decide.

    Attributes:
        seed: Decides order, windows and augmentation.
        augment: As for `data.training_batches`.
        strong: The same, of the strong view of unlabelled examples.
        mirror: As for `data.training_batches`.
        strategy: The devices whose replicas batches are cut over; `None` for one.
    """

    seed: int
    augment: Callable | None = None
    strong: Callable | None = None
    mirror: bool = False
    strategy: tf.distribute.Strategy | None = None

    def batches(
        self, start_step: int = 0, indexed: bool = False, num_views: int = 1
    ) -> Any:
        """The labelled batches from a step on.

        Args:
            start_step: Batches to leave out.
            indexed: Whether they name their examples.
            num_views: Views of each example, all augmented alike.
        """
        views = [self.augment] * num_views if num_views > 1 else None
        return self._cut(
            *(self.source.train, self.batch_size, self.seed, start_step),
            with_index=named(indexed, num_views),
            views=views,
        )

    def batches_without_labels(self, batch_size: int, start_step: int = 0) -> Any:
        """Batches of the unlabelled examples, weak and strong view, and their index.

        Args:
            batch_size: Examples a batch.
            start_step: Batches to leave out.
        """
        return self._cut(
            *(self.source.unlabeled, batch_size, self.seed + UNLABELED_SEED),
            start_step,
            with_index=named(True, 2),
            views=[self.augment, self.strong],
            labelled=False,
        )

    def batches_beside(
        self, split: Split, batch_size: int, start_step: int, labelled: bool = True
    ) -> Any:
        """Batches of a part of the training data that go beside the labelled ones.

        Args:
            split: The part.
            batch_size: Examples a batch.
            start_step: Batches to leave out.
            labelled: Whether they are `(x, y)`, or x alone.
        """
        return self._cut(
            *(split, batch_size, self.seed + META_SEED, start_step), labelled=labelled
        )

    def sample(self, most: int, split: Split | None = None) -> Split:
        """A random part of the training data, or of a split, the same in all of a run.

        Args:
            most: Examples, at most.
            split: The split; `None` for the labelled training data.
        """
        split = self.source.train if split is None else split
        chosen = np.random.default_rng(self.seed).permutation(len(split))[:most]
        return split.take(np.sort(chosen))

    def _cut(
        self,
        split,
        batch_size,
        seed,
        start_step,
        with_index=None,
        labelled=True,
        views=None,
    ):
        def make(num_shards, shard_index, replicas):
            dataset = data.training_batches(
                split,
                batch_size=batch_size,
                seed=seed,
                image_shape=self.source.image_shape,
                augment=self.augment,
                views=views,
                mirror=self.mirror,
                start_step=start_step,
                num_shards=num_shards,
                shard_index=shard_index,
                replicas_per_shard=replicas,
                with_index=with_index,
            )
            return dataset if labelled else dataset.map(lambda x, y: x)

        return strategies.distribute(self.strategy, make, batch_size)


def named(indexed, num_views):
    """How batches name their examples and views; `None` where they do not."""
    if num_views > 1 and indexed:
        return lambda x, index: with_index(with_views(*x), index)
    if num_views > 1:
        return lambda x, index: with_views(*x)
    return with_index if indexed else None


class SplitExamples:
    """The training data of a run, to be read in order or in part.

    What `engine.examples.ArrayExamples` is to arrays; see there.
    """

    def __init__(self, training_data: TrainingData):
        self.data, self.split = training_data, training_data.source.train

    def __len__(self):
        return len(self.split)

    def in_order(self, batch_size):
        return self.data.in_order(self.split, batch_size)

    def labels(self):
        return self.split.labels

    def batches(self, indices, batch_size, start_step=0):
        split = self.split.take(indices)
        size = min(batch_size, len(split))
        return self.data.batches_beside(split, size, start_step)


def augmentation(
    words: str, is_window: bool, strong: str, image_shape: tuple
) -> dict[str, Any]:
    """How `TrainingData` augments.

    Args:
        words: Augmentations, separated by commas.
        is_window: Whether --resize_size has windows cut: those are the crops then,
            and mirrored as they are cut.
        strong: Those of the strong view; empty for the same.
        image_shape: That of the images.

    Raises:
        UserError: One is unknown, or the images are too small for it.
    """
    of_window = ("crop", "flip") if is_window else ()

    def named(words):
        return [word.strip() for word in words.split(",") if word.strip()]

    def build(words):
        rest = [word for word in named(words) if word.split(":")[0] not in of_window]
        if "crop" in rest and min(image_shape[:2]) <= augment.PADDING:
            raise UserError(
                f"--augment=crop moves an image by up to {augment.PADDING} pixels, and "
                f"these have {min(image_shape[:2])}: raise --image_size, or leave crop "
                "out."
            )
        return augment.build(",".join(rest))

    return {
        "augment": build(words),
        "strong": build(strong or words),
        "mirror": "flip" in named(words),
    }
