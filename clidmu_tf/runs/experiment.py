"""The door of a run: a Config goes in, the objects that the run is made of come out."""

import dataclasses
import functools
import pathlib
import typing
from typing import Any

import keras
import tensorflow as tf

from clidmu_tf import data
from clidmu_tf.data import Source, Split
from clidmu_tf.engine.callbacks import SnapshotEnsemble
from clidmu_tf.engine.method import Method
from clidmu_tf.errors import UserError
from clidmu_tf.methods import flags_of
from clidmu_tf.runs import datasets, export, models, strategies
from clidmu_tf.runs.batches import SplitExamples, TrainingData, augmentation
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.workdir import Described

if typing.TYPE_CHECKING:  # it comes with pandas
    from clidmu_tf.data.table import Preprocessing


class Experiment:
    """What a run is made of: data, model, devices, each made once, when asked for.

    Args:
        config: The settings, which go no further than this class.
        strategy: The devices to train on; `None` for one.
        source: What to train on, in place of what the settings describe.
        described: What the model needs to know of the data, where they may be gone.
        preprocessing: With it, what makes inputs of the rows of a table.

    Attributes:
        strategy: The devices.
        method: What --method calls the method.
        epochs: Epochs to train for.
        checkpoint_every: Steps between checkpoints, besides those after each epoch.
        meta_examples: Most examples that CLID is measured on.
    """

    def __init__(
        self,
        config: Config,
        strategy: tf.distribute.Strategy | None = None,
        *,
        source: Source | None = None,
        described: Described | None = None,
        preprocessing: "Preprocessing | None" = None,
    ):
        self._config = config
        self.strategy = strategy
        self.method: str = config.full_method
        self.epochs: int = config.epochs
        self.checkpoint_every: int = config.checkpoint_every
        self.meta_examples: int = config.meta_examples
        if source is not None:
            self.source = source
        if described is not None:
            self.described, self.preprocessing = described, preprocessing

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name, for a page that tells runs apart by them."""
        values = dataclasses.asdict(self._config)
        but = ("task", "workdir", "resume")
        return {n: v for n, v in values.items() if n not in but and v is not None}

    # --- data

    @functools.cached_property
    def loaded(self) -> Source:
        """The data set as it was loaded: nothing checked, and no noise added."""
        config = self._config
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
            max_pixels=config.max_pixels,
            train_examples=config.train_examples,
            label_column=config.label_column,
            clean_label_column=config.clean_label_column,
            text_column=config.text_column,
            feature_columns=config.feature_columns,
            image_column=config.image_column,
            seed=config.seed,
        )

    @functools.cached_property
    def source(self) -> Source:
        """The data set that the run is about: checked, with noise and holdout."""
        config, name = self._config, self._config.dataset
        source = datasets.checked(self.loaded, name)
        if source.preprocessing is not None:
            of_images = {n: getattr(config, n) for n in datasets.OF_IMAGES}
            datasets.refuse_of_images(**of_images)
        source = datasets.add_noise(
            source, name, config.noise, config.noise_rate, config.seed
        )
        source = datasets.hold_out(source, config.noisy_holdout, config.seed)
        source = datasets.draw_labels(source, config.num_labels, config.seed)
        if len(source.train) < config.batch_size:
            raise UserError(
                f"--batch_size={config.batch_size} is larger than the training data, "
                f"{len(source.train)} examples: lower it."
            )
        return source

    @functools.cached_property
    def data(self) -> TrainingData:
        """The source, and how it is read."""
        config = self._config
        return TrainingData(
            self.source,
            config.batch_size,
            config.seed,
            **augmentation(
                config.augment,
                bool(config.resize_size),
                config.strong_augment,
                self.source.image_shape,
            ),
            strategy=self.strategy,
        )

    @functools.cached_property
    def meta_split(self) -> Split:
        """The training examples that meta batches and CLID are drawn from."""
        return self.data.sample(self.meta_examples)

    @functools.cached_property
    def described(self) -> Described:
        """What the model needs to know of the data."""
        source, count = self.source, len(self.source.train)
        steps = self._config.steps_per_epoch or count // self._config.batch_size
        words = source.preprocessing.vocabulary_size if source.preprocessing else 0
        unlabeled = len(source.unlabeled) if source.unlabeled is not None else 0
        return Described(
            *(source.class_names, source.image_shape, steps, count, words, unlabeled)
        )

    @functools.cached_property
    def preprocessing(self) -> "Preprocessing | None":
        """What makes inputs of the rows of a table; `None` of images."""
        return self.source.preprocessing

    def check_warmup(self) -> None:
        """Raises a UserError where a warm-up would leave nothing of the run."""
        config = self._config
        for flag, (_, declared) in flags_of(config.full_method).items():
            if declared.setting.in_epochs and getattr(config, flag) >= config.epochs:
                raise UserError(
                    f"--{flag}={getattr(config, flag)} takes up all of "
                    f"--epochs={config.epochs}: lower it, or train for longer."
                )

    @property
    def title(self) -> str:
        """What to call the data set before a reader."""
        if self._config.dataset in ("folder", "csv"):
            return pathlib.Path(self._config.data_dir).resolve().stem
        return self.source.name

    # --- model

    @functools.cached_property
    def model(self) -> Method:
        """The training model, compiled, with its first weights."""
        config, described = self._config, self.described
        # What the backbone's own seed does not decide: the method's own layers.
        keras.utils.set_random_seed(config.seed)
        with strategies.scope(self.strategy):
            classifier = models.build_classifier(
                config.backbone,
                described,
                config.seed,
                config.precision,
                config.init_weights,
            )
            settings = config.method_settings(described.steps)
            if config.method_class.num_networks > 1:
                settings["peer"] = models.build_classifier(
                    config.backbone,
                    described,
                    config.seed + 1,
                    config.precision,
                    config.init_weights,
                )
            model = config.method_class(classifier, seed=config.seed, **settings)
            return models.compile_model(
                model, described, self._optimizers(), config.jit, config.batch_scope
            )

    def _optimizers(self) -> dict[str, keras.Optimizer]:
        config, build = self._config, models.build_optimizer
        period = (config.lr_period or config.epochs) * self.described.steps
        rate = models.learning_rate(
            config.lr_schedule, config.learning_rate, config.lr_min, period
        )
        found = {
            "optimizer": build(
                config.optimizer, rate, config.weight_decay, config.momentum
            )
        }
        if config.method_class.takes_meta_optimizer:
            found["meta_optimizer"] = build(
                config.meta_optimizer,
                config.meta_learning_rate,
                config.meta_weight_decay,
            )
        return found

    # --- training

    def fit_arguments(self, start_step: int = 0) -> dict[str, Any]:
        """What the model's `fit` takes, but for epochs and callbacks.

        Args:
            start_step: Steps that are done: the data go on from there.
        """
        return {
            "x": self.data.batches(
                start_step, bool(self.model.memory()), self.model.num_views
            ),
            "shuffle": False,
            **self.unlabeled_arguments(start_step),
            "num_examples": len(self.source.train),
            "examples": SplitExamples(self.data),
            **self.meta_arguments(start_step),
        }

    def unlabeled_arguments(self, start_step: int = 0) -> dict[str, Any]:
        """Those of `fit_arguments` that are of the unlabelled data.

        Raises:
            UserError: There are none, and the method needs them.
        """
        if not self.model.takes_unlabeled_data:
            return {}
        split = self.source.unlabeled
        if split is None:
            raise UserError(
                f"--method={self.method} learns from examples without labels: give "
                "--num_labels, how many keep theirs."
            )
        size = min(self.model.unlabeled_ratio * self._config.batch_size, len(split))
        size -= size % self.model.distribute_strategy.num_replicas_in_sync
        batches = self.data.batches_without_labels(size, start_step)
        return {"unlabeled_data": batches, "num_unlabeled": len(split)}

    def meta_arguments(self, start_step: int = 0) -> dict[str, Any]:
        """Those of `fit_arguments` that are of the meta data, without the model.

        Raises:
            UserError: The data cannot give what the method needs.
        """
        config = self._config
        method = config.method_class
        if not method.takes_meta_optimizer:
            return {}
        settings = config.method_settings(1)
        if not method.takes_meta_data(settings) and method.reads_examples:
            # It makes its meta batches itself.
            return {"meta_batch_size": config.meta_batch_size or config.batch_size}
        supervised = method.wants_clean_labels(settings)
        if not (config.meta_batch_size or supervised):
            return {}
        if not method.takes_meta_data(settings):
            raise UserError(
                f"--meta_batch_size={config.meta_batch_size} is of no use where the "
                "given labels judge: leave it out, or give --meta_objective=clid."
            )
        split = self.meta_split
        if settings.get("meta_from") == "unlabeled" and self.source.unlabeled:
            split = self.data.sample(self.meta_examples, self.source.unlabeled)
        if supervised:
            split = datasets.with_clean_labels(split, config.method)
        if config.meta_batch_size > len(split):
            raise UserError(
                f"--meta_batch_size={config.meta_batch_size} is larger than the "
                f"{len(split)} training examples that meta batches are drawn from: "
                "lower it, or raise --meta_examples."
            )
        size = config.meta_batch_size or min(config.batch_size, len(split))
        batches = self.data.batches_beside(split, size, start_step, supervised)
        return {"meta_data": batches}

    def snapshots(self, directory: pathlib.Path | None = None) -> SnapshotEnsemble:
        """The callback that keeps the best epochs, in a folder or in memory."""
        found = SnapshotEnsemble(
            self.data.inputs(self.meta_split),
            k=self._config.snapshots,
            batch_size=min(100, self.meta_examples),
            directory=directory,
        )
        # By hand: a run that has its last step behind it fits no more.
        found.set_model(self.model)
        return found

    # --- what is left of it

    def export(self, classifier: keras.Model, path: pathlib.Path) -> None:
        """Writes a classifier of this run as a SavedModel of raw images or rows."""
        shape, names = self.described.image_shape, self.described.class_names
        if self.preprocessing is not None:
            export.export_rows(classifier, path, self.preprocessing, names)
            return
        export.export(classifier, path, shape, names, self._config.resize_size)
