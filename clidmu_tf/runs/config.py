"""Every setting of a run, once: type, default, help and what it may be."""

import dataclasses
import pathlib
from typing import Any

from clidmu_tf.data import noise
from clidmu_tf.errors import UserError
from clidmu_tf.methods import JOINED, METHODS, flags_of, method_of
from clidmu_tf.tuning.search import OBJECTIVES, TUNERS
from clidmu_tf.tuning.space import BATCH_SIZE, META_BATCH_SIZE, WARMUP

TASKS = ("prepare", "train", "tune", "evaluate", "audit", "export")
# What only a method with a weight net makes use of, besides settings of its own.
OF_WEIGHT_NETS = (
    *("meta_batch_size", "meta_optimizer", "meta_learning_rate", "meta_weight_decay"),
)
# What only a method that learns from unlabelled examples makes use of.
OF_UNLABELED = ("strong_augment",)


def setting(default, help, choices=None, least=None, most=None):
    """A field of `Config` that knows its help and its range."""
    metadata = {"help": help, "choices": choices, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The settings of any run; `Config` adds those of the methods."""

    task: str = setting("train", "What to do.", TASKS)
    workdir: str = setting("runs/digits", "Folder of the run; made if need be.")
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
        "", "To prepare: folder of the data set as it was obtained."
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

    noise: str = setting("none", "Label noise to add.", tuple(noise.NOISES))
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

    method: str = setting("clid_mu", "How to train.", tuple(METHODS))
    backbone: str = setting(
        "auto",
        "A network of clidmu_tf.nets.backbones, or of keras.applications; auto: "
        "digits_cnn of images, embedding_bag of texts, mlp of other columns.",
    )
    init_weights: str = setting("", "File (.keras, .weights.h5) of initial weights.")
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
    )
    snapshots: int = setting(5, "Epochs of the snapshot ensemble.", least=1)

    tuner: str = setting("random", "How --task=tune searches.", TUNERS)
    trials: int = setting(
        30, "Trials of a search; hyperband makes as many as --epochs asks for.", least=1
    )
    objective: str = setting(
        "noisy_accuracy",
        "What a search goes by, after a trial's last epoch: accuracy on held-out "
        "noisy labels, CLID of their inputs at the reference temperature, or accuracy "
        "on the test split (an oracle: for reports).",
        tuple(OBJECTIVES),
    )
    tune_space: str = setting(
        "temperature,batch_size",
        "Comma-separated settings to search, around the values that they have here: "
        "batch_size, learning_rate, and what the method has to search.",
    )


def _method_fields():
    """A field for every flag of a method; `None` stands for the method's default."""
    fields = {}
    for method in (*METHODS, *JOINED):
        for flag, (_, declared) in flags_of(method).items():
            if method in JOINED and flag in fields:
                continue
            help_text = f"{declared.setting.help} (--method={method})"
            if flag in fields:  # several methods share it
                help_text = fields[flag][2].metadata["help"][:-1] + f", {method})"
            field = setting(None, help_text, declared.setting.choices or None)
            fields[flag] = (flag, declared.type, field)
    return list(fields.values())


OfMethods: Any = dataclasses.make_dataclass(
    "OfMethods", _method_fields(), bases=(RunSettings,), frozen=True
)


@dataclasses.dataclass(frozen=True)
class Config(OfMethods):
    """The settings of a run; each is a flag of `train.py`."""

    def __post_init__(self):
        if self.method in METHODS:
            for name in dict.fromkeys([self.method, self.full_method]):
                for flag, (_, declared) in flags_of(name).items():
                    if getattr(self, flag) is None:
                        object.__setattr__(self, flag, declared.default)
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                _check(field, getattr(self, field.name))
        for flag, (_, declared) in flags_of(self.full_method).items():
            try:
                declared.check(f"--{flag}", getattr(self, flag))
            except ValueError as error:
                raise UserError(str(error)) from None
        least = self.method_class.least_batch
        if self.batch_size < least:
            raise UserError(
                f"--method={self.method} needs {least} examples a batch, or more; "
                f"received --batch_size={self.batch_size}."
            )
        if (self.noise == "none") != (self.noise_rate == 0):
            raise UserError(
                f"--noise={self.noise} and --noise_rate={self.noise_rate} do not go "
                "together: give a noise and a rate above 0, or neither."
            )
        if self.lr_schedule != "constant" and self.lr_min > self.learning_rate:
            raise UserError(
                f"--lr_min={self.lr_min} is above --learning_rate={self.learning_rate}"
                ", which --lr_schedule lowers: lower --lr_min."
            )

    @property
    def full_method(self):
        """The name of the method, joined with that of its inner one if it has one."""
        joined = f"{self.method}+{getattr(self, 'inner', None)}"
        return joined if joined in JOINED else self.method

    @property
    def method_class(self):
        """The class of the method."""
        return method_of(self.full_method)

    def flags(self):
        """Returns the settings as lines of a flagfile."""
        return [
            f"--{field.name}={_text(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        ]

    def differences(self, other, but=()):
        """Returns `--name=value` of each setting that differs from another's."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in but]
        return [
            f"--{name}={_text(getattr(other, name))}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]

    def given(self, but=()):
        """Returns `--name=value` of each setting that is not at its default."""
        inner = self.inner if self.full_method in JOINED else None
        plain = Config(method=self.method, inner=inner)
        named = ("method", "inner") if inner else ("method",)
        return plain.differences(self, (*but, *named))

    def unused(self):
        """Returns those of the given settings that the method makes no use of."""
        others = {flag for m in (*METHODS, *JOINED) for flag in flags_of(m)}
        if not self.method_class.takes_meta_optimizer:
            others |= {*OF_WEIGHT_NETS}
        if not self.method_class.takes_unlabeled_data:
            others |= {*OF_UNLABELED}
        others -= {*flags_of(self.full_method)}
        used = {field.name for field in dataclasses.fields(self)} - others
        return self.given(but=used)

    @property
    def may_go_on(self):
        """Whether a run of fewer epochs is the beginning of this one."""
        return self.lr_schedule == "constant" or self.lr_period > 0

    def searchable(self):
        """Returns what may be searched, and how: `tuning.space` says."""
        found = {"batch_size": BATCH_SIZE, "learning_rate": 10}
        if self.method_class.takes_meta_optimizer:
            found |= {"meta_learning_rate": 10, "meta_batch_size": META_BATCH_SIZE}
        for flag, (_, declared) in flags_of(self.full_method).items():
            how = WARMUP if declared.setting.in_epochs else declared.setting.search
            if how is not None:
                found[flag] = how
        return found

    def method_settings(self, steps):
        """Returns what the method's constructor is given.

        Args:
            steps: Steps of an epoch, for what flags count in epochs.
        """
        return {
            name: getattr(self, flag) * steps
            if declared.setting.in_epochs
            else getattr(self, flag)
            for flag, (name, declared) in flags_of(self.full_method).items()
        }

    def replace(self, **changes):
        """Returns a copy with some settings changed."""
        return dataclasses.replace(self, **changes)


def read(path):
    """Returns the Config that a run wrote into its workdir.

    Raises:
        UserError: The file does not hold one.
    """
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    values = {}
    try:
        for line in pathlib.Path(path).read_text().splitlines():
            if line.startswith("--"):
                name, value = line[2:].split("=", 1)
                kind = types[name]
                values[name] = value == "true" if kind is bool else kind(value)
        return Config(**values)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no config.cfg of a run of this version ({error}): mend it, or "
            "choose another --workdir."
        ) from error


def _check(field, value):
    limits = field.metadata
    if limits["choices"] and value not in limits["choices"]:
        raise UserError(
            f"--{field.name} must be one of {', '.join(limits['choices'])}; received "
            f"{value!r}."
        )
    low, high = limits["least"], limits["most"]
    if (low is not None and not value >= low) or (high is not None and value > high):
        bounds = f"{low} or more" if high is None else f"from {low} to {high}"
        raise UserError(f"--{field.name} must be {bounds}; received {value}.")


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)
