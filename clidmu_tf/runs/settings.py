"""The settings of any run, which are checked before TensorFlow is started."""

import dataclasses
import importlib
import math
import os
from collections.abc import Iterator
from typing import Any

from clidmu_tf.errors import UserError

TASKS = ("prepare", "train", "tune", "evaluate", "audit", "export")


@dataclasses.dataclass(frozen=True)
class NamesIn:
    """The names that a part of the package knows, which imports TensorFlow.

    Attributes:
        module: The part.
        attribute: What of it holds the names.
    """

    module: str
    attribute: str

    def __iter__(self) -> Iterator[str]:
        return iter(getattr(importlib.import_module(self.module), self.attribute))


def setting(default, help, choices=None, least=None, most=None, is_path=False):
    """A field of `Config` that knows its help and its range."""
    metadata = {"help": help, "choices": choices, "least": least, "most": most}
    metadata["is_path"] = is_path
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The settings of any run; `Config` adds those of the methods."""

    task: str = setting("train", "What to do.", TASKS)
    workdir: str = setting(
        "runs/digits", "Folder of the run; made if need be.", is_path=True
    )
    resume: bool = setting(True, "Go on where a run in --workdir stopped.")
    seed: int = setting(
        0,
        "The one seed: weights, order, noise, augmentation.",
        least=0,
        most=2**32 - 1,
    )

    dataset: str = setting(
        "digits", "digits, folder, csv, or the name of a prepared TFDS data set."
    )
    data_dir: str = setting(
        "",
        "Folder of the images; CSV file, or folder with train.csv and test.csv; or "
        "TFDS's data_dir.",
        is_path=True,
    )
    label_column: str = setting("label", "Of a CSV file: labels to train on.")
    clean_label_column: str = setting(
        "", "Of a CSV file: true labels, to report against; empty if unknown."
    )
    text_column: str = setting("", "Of a CSV file: texts.")
    feature_columns: str = setting(
        "", "Of a CSV file: numbers and words, columns separated by commas."
    )
    image_column: str = setting(
        "", "Of a CSV file: paths of images, from the file's folder on."
    )
    manual_dir: str = setting(
        "", "To prepare: folder of the data set as it was obtained.", is_path=True
    )
    prepare_size: int = setting(
        0,
        "To prepare: shorter side that larger images are brought to; 0: files are "
        "kept as they are.",
        least=0,
    )
    label_key: str = setting("label", "Column of the labels to train on.")
    clean_label_key: str = setting(
        "", "Column of the true labels, to report against; empty if unknown."
    )
    train_split: str = setting("train", "Split of a TFDS data set to train on.")
    test_split: str = setting(
        "", "Split of a TFDS data set to report on; empty: test, or else validation."
    )
    image_size: int = setting(
        0, "Side of the images that the network sees; 0: as they are.", least=0
    )
    resize_size: int = setting(
        0,
        "Shorter side that images are resized to before a window of --image_size is "
        "cut from them, at random to train on, else in the middle; 0: none is cut.",
        least=0,
    )
    holdout: float = setting(
        0.1,
        "Share of a folder without a test folder that is held out; at least one "
        "image a class.",
        least=0,
        most=0.9,
    )
    on_bad_image: str = setting(
        "refuse", "A file that is no image.", ("refuse", "skip")
    )
    max_pixels: int = setting(
        200_000_000,
        "An image file of more pixels is a bad one: it is not decoded.",
        least=1,
    )
    train_examples: int = setting(0, "Train on so many; 0: all.", least=0)
    augment: str = setting(
        "", "Comma-separated: flip, crop, randaugment (or randaugment:3:5)."
    )
    strong_augment: str = setting(
        "", "The same, of the strong view of unlabelled examples; empty: as --augment."
    )
    num_labels: int = setting(
        0,
        "Training examples that keep their label, noise and all, as many of each "
        "class; the others are unlabelled; 0: all keep it.",
        least=0,
    )

    noise: str = setting(
        "none", "Label noise to add.", NamesIn("clidmu_tf.data.noise", "NOISES")
    )
    noise_rate: float = setting(
        0.0, "Probability that a label is redrawn.", least=0, most=1
    )

    noisy_holdout: float = setting(
        0.0,
        "Share of the training labels, noise and all, that is held out: accuracy on "
        "it (noisy_accuracy) compares runs without a clean label. --task=tune takes "
        "0.2 where this is 0.",
        least=0,
        most=0.9,
    )

    method: str = setting(
        "clid_mu", "How to train.", NamesIn("clidmu_tf.methods", "METHODS")
    )
    backbone: str = setting(
        "auto",
        "A network of clidmu_tf.nets.backbones, or of keras.applications; auto: "
        "digits_cnn of images, embedding_bag of texts, mlp of other columns.",
    )
    init_weights: str = setting(
        "", "File (.keras, .weights.h5) of initial weights.", is_path=True
    )
    epochs: int = setting(60, "Passes over the data.", least=1)
    steps_per_epoch: int = setting(0, "Steps of an epoch; 0: all the data.", least=0)
    batch_size: int = setting(100, "Examples a step, over all replicas.", least=1)
    meta_batch_size: int = setting(
        0, "Examples of the meta batch; 0: the labelled batch's own inputs.", least=0
    )
    meta_examples: int = setting(
        1000, "Training examples that meta batches and CLID are drawn from.", least=2
    )

    optimizer: str = setting("sgd", "Classifier's optimizer.", ("sgd", "adam"))
    learning_rate: float = setting(0.02, "Classifier's learning rate.", least=0)
    momentum: float = setting(0.9, "Momentum of SGD.", least=0, most=1)
    weight_decay: float = setting(0.0, "Decoupled weight decay.", least=0)
    lr_schedule: str = setting(
        "constant",
        "How the learning rate falls.",
        ("constant", "cosine", "cosine_restarts"),
    )
    lr_period: int = setting(0, "Epochs of one cosine; 0: all of them.", least=0)
    lr_min: float = setting(0.0, "Learning rate at the cosine's end.", least=0)
    meta_optimizer: str = setting("adam", "Weight net's optimizer.", ("adam", "sgd"))
    meta_learning_rate: float = setting(1e-3, "Weight net's learning rate.", least=0)
    meta_weight_decay: float = setting(0.0, "Weight net's weight decay.", least=0)

    strategy: str = setting(
        "auto",
        "Devices: auto is mirrored with two or more GPUs, else none; multi_worker "
        "reads TF_CONFIG.",
        ("auto", "none", "mirrored", "multi_worker"),
    )
    batch_scope: str = setting(
        "global", "What CLID and the weights see of a batch.", ("global", "replica")
    )
    precision: str = setting("float32", "Arithmetic.", ("float32", "bfloat16"))
    jit: str = setting("auto", "XLA; auto: on a GPU.", ("auto", "on", "off"))
    checkpoint_every: int = setting(
        0, "Save every so many steps, besides after each epoch.", least=0
    )
    beside: str = setting(
        "",
        "Workdir of a finished run, whose last epoch is shown beside this one's.",
        is_path=True,
    )
    snapshots: int = setting(5, "Epochs of the snapshot ensemble.", least=1)

    tuner: str = setting(
        "random",
        "How --task=tune searches.",
        NamesIn("clidmu_tf.tuning.search", "TUNERS"),
    )
    trials: int = setting(
        30, "Trials of a search; hyperband makes as many as --epochs asks for.", least=1
    )
    objective: str = setting(
        "noisy_accuracy",
        "What a search goes by, after a trial's last epoch: accuracy on held-out "
        "noisy labels, CLID of their inputs at the reference temperature, or accuracy "
        "on the test split (an oracle: for reports).",
        NamesIn("clidmu_tf.tuning.search", "OBJECTIVES"),
    )
    tune_space: str = setting(
        "auto",
        "Comma-separated settings to search, around the values that they have here: "
        "batch_size, learning_rate, and what the method has to search. auto: "
        "temperature and batch_size, or learning_rate and batch_size where the method "
        "has no temperature.",
    )

    def __post_init__(self):
        for field in dataclasses.fields(RunSettings):
            value = getattr(self, field.name)
            if field.metadata["is_path"]:
                value = os.path.expanduser(value)
                object.__setattr__(self, field.name, value)
            if not isinstance(field.metadata["choices"], NamesIn):
                check(field, value)
        if self.lr_schedule != "constant" and self.lr_min > self.learning_rate:
            raise UserError(
                f"--lr_min={self.lr_min} is above --learning_rate={self.learning_rate}"
                ", which --lr_schedule lowers: lower --lr_min."
            )


def check(field: dataclasses.Field, value: Any) -> None:
    """Raises a UserError where this is no value of the setting."""
    limits = field.metadata
    if limits["choices"] and value not in limits["choices"]:
        raise UserError(
            f"--{field.name} must be one of {', '.join(limits['choices'])}; received "
            f"{value!r}."
        )
    if isinstance(value, str) and value.splitlines() not in ([], [value]):
        raise UserError(
            f"--{field.name} must be one line, as config.cfg keeps it; received "
            f"{value!r}: rename what it names."
        )
    low, high = limits["least"], limits["most"]
    if (low is not None and not value >= low) or (high is not None and value > high):
        bounds = f"{low} or more" if high is None else f"from {low} to {high}"
        raise UserError(f"--{field.name} must be {bounds}; received {value}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"--{field.name} must be finite; received {value}.")
