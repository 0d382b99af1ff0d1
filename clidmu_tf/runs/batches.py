"""The batches of a run: how its source is read, in order or to train on it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from clidmu_tf import data
from clidmu_tf.data import Source, Split, augment
from clidmu_tf.data.pipeline import META_SEED, UNLABELED_SEED
from clidmu_tf.engine.examples import with_index, with_views
from clidmu_tf.errors import UserError
from clidmu_tf.runs import strategies


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
