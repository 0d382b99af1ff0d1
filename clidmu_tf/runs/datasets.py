"""What a Config describes as data: the source, the batches, the meta batches."""

import dataclasses

import numpy as np

from clidmu_tf import data
from clidmu_tf.core.labels import check_labels
from clidmu_tf.data import augment, noise
from clidmu_tf.engine.examples import with_index
from clidmu_tf.errors import UserError
from clidmu_tf.methods import METHODS
from clidmu_tf.runs import strategies

# Added to the seed for batches that go beside the labelled ones, not with them.
META_SEED = 10**6


def load_source(config):
    """Loads the data set that a Config names."""
    return data.load(
        config.dataset,
        data_dir=config.data_dir or None,
        label_key=config.label_key,
        clean_label_key=config.clean_label_key,
        train_split=config.train_split,
        test_split=config.test_split,
        image_size=config.image_size,
        resize_size=config.resize_size,
        holdout=config.holdout,
        on_bad_image=config.on_bad_image,
        train_examples=config.train_examples,
        seed=config.seed,
    )


def noisy_source(config):
    """Loads the data, adds the noise and cuts the holdout asked for; checks them."""
    source = hold_out(config, add_noise(config, checked_source(config)))
    if len(source.train) < config.batch_size:
        raise UserError(
            f"--batch_size={config.batch_size} is larger than the training data, "
            f"{len(source.train)} examples: lower it."
        )
    return source


def checked_source(config):
    """Loads the data and checks the labels."""
    source = load_source(config)
    count = len(source.class_names)
    for name, split in (("training", source.train), ("test", source.test)):
        try:
            check_labels(split.labels, count)
        except ValueError as error:
            raise UserError(f"The {name} data of {config.dataset}: {error}") from None
    return source


def add_noise(config, source):
    """Changes training labels as the Config asks for."""
    if config.noise == "none":
        return source
    train_split, count = source.train, len(source.class_names)
    cifar = count if config.dataset.startswith("cifar10") else 0
    if config.noise == "hierarchical" and cifar != 100:
        raise UserError(
            "--noise=hierarchical needs the superclasses of CIFAR-100; received "
            f"--dataset={config.dataset}."
        )
    if config.noise == "instance" and not train_split.in_memory:
        raise UserError(
            "--noise=instance needs the images in memory, and those of "
            f"--dataset={config.dataset} are read from files: choose another noise."
        )
    labels = noise.apply(
        config.noise,
        train_split.labels,
        config.noise_rate,
        config.seed,
        num_classes=count,
        inputs=train_split.inputs,
        mapping=noise.CIFAR10_PAIRS if cifar == 10 else None,
        groups=noise.CIFAR100_SUPERCLASSES if cifar == 100 else None,
    )
    known = train_split.clean_labels
    noisy = dataclasses.replace(
        train_split,
        labels=labels,
        clean_labels=train_split.labels if known is None else known,
    )
    return dataclasses.replace(source, train=noisy)


def hold_out(config, source):
    """Moves a random part of the training data, noise and all, to the holdout.

    It depends on the seed alone, so that runs with one seed compare on one holdout.
    """
    if not config.noisy_holdout:
        return source
    count = len(source.train)
    order = np.random.default_rng((config.seed, count)).permutation(count)
    first = max(1, round(config.noisy_holdout * count))
    return dataclasses.replace(
        source,
        train=source.train.take(np.sort(order[first:])),
        holdout=source.train.take(np.sort(order[:first])),
    )


def batches(
    config, source, strategy, start_step, batch_size, split=None, seed=0, indexed=False
):
    """Training batches from a step on, cut over the strategy's replicas."""

    def make(num_shards, shard_index, replicas):
        return data.training_batches(
            split or source.train,
            batch_size=batch_size,
            seed=config.seed + seed,
            image_shape=source.image_shape,
            **augmentation(config),
            start_step=start_step,
            num_shards=num_shards,
            shard_index=shard_index,
            replicas_per_shard=replicas,
            with_index=with_index if indexed else None,
        )

    return strategies.distribute(strategy, make, batch_size)


class SplitExamples:
    """The training data of a run, to be read in order or in part.

    What `engine.examples.ArrayExamples` is to arrays; see there.
    """

    def __init__(self, config, source, strategy):
        self.config, self.source, self.strategy = config, source, strategy

    def __len__(self):
        return len(self.source.train)

    def in_order(self, batch_size):
        return data.evaluation_batches(
            self.source.train,
            batch_size=batch_size,
            image_shape=self.source.image_shape,
        )

    def labels(self):
        return self.source.train.labels

    def batches(self, indices, batch_size, start_step=0):
        split = self.source.train.take(indices)
        size = min(batch_size, len(split))
        return batches(
            *(self.config, self.source, self.strategy, start_step, size, split),
            seed=META_SEED,
        )


def augmentation(config):
    """How `training_batches` augments; windows cut by --resize_size are the crops."""
    words = [word.strip() for word in config.augment.split(",") if word.strip()]
    of_window = ("crop", "flip") if config.resize_size else ()
    rest = ",".join(word for word in words if word not in of_window)
    return {"augment": augment.build(rest), "mirror": "flip" in words}


def meta_arguments(config, source, strategy, start_step):
    """The meta data that a method's `fit` takes, from the same seed and step."""
    method = METHODS[config.method]
    if method.reads_examples:  # it makes its meta batches itself
        return {"meta_batch_size": config.meta_batch_size or config.batch_size}
    supervised = method.wants_clean_labels(config.method_settings(1))
    if not method.takes_meta_optimizer or not (config.meta_batch_size or supervised):
        return {}
    split = meta_split(config, source)
    if supervised:
        if split.clean_labels is None:
            raise UserError(
                f"--method={config.method} with a supervised meta objective needs true "
                "labels: give --clean_label_key, or take --method=clid_mu and "
                "--meta_objective=clid."
            )
        split = dataclasses.replace(split, labels=split.clean_labels)
    if config.meta_batch_size > len(split):
        raise UserError(
            f"--meta_batch_size={config.meta_batch_size} is larger than the "
            f"{len(split)} training examples that meta batches are drawn from: lower "
            "it, or raise --meta_examples."
        )
    size = config.meta_batch_size or min(config.batch_size, len(split))
    dataset = batches(config, source, strategy, start_step, size, split, META_SEED)
    if not supervised:
        dataset = dataset.map(lambda x, y: x)
    return {"meta_data": dataset}


def meta_split(config, source):
    """A random part of the training data, the same in all of a run."""
    count = min(config.meta_examples, len(source.train))
    chosen = np.random.default_rng(config.seed).permutation(len(source.train))[:count]
    return source.train.take(np.sort(chosen))


def snapshot_inputs(config, source):
    """The inputs that CLID is measured on after each epoch, as uint8.

    They stay in memory, where floats would take four times the room.
    """
    split = meta_split(config, source)
    found = data.evaluation_batches(
        split, batch_size=100, image_shape=source.image_shape
    )
    return np.concatenate([as_pixels(x) for x, _ in found.as_numpy_iterator()])


def as_pixels(x):
    """The uint8 images that whole values in 0..255 are, exactly."""
    return np.round(x).astype("uint8")


def raw_test(source, config):
    found = data.evaluation_batches(
        source.test, batch_size=config.batch_size, image_shape=source.image_shape
    )
    for x, y in found.as_numpy_iterator():
        yield as_pixels(x), y


def steps_per_epoch(config, source):
    """Steps of an epoch: what was asked for, or all whole batches."""
    return config.steps_per_epoch or len(source.train) // config.batch_size


def wrong_share(split):
    """The share of labels that are wrong, or `None` where the truth is unknown."""
    if split.clean_labels is None:
        return None
    return float(np.mean(split.labels != split.clean_labels))
