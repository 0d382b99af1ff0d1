"""The folder of a run: what lies in it, and whose it is."""

import contextlib
import dataclasses
import errno
import logging
import os
import pathlib

from clidmu_tf.data import Fingerprint
from clidmu_tf.errors import UserError
from clidmu_tf.files import (
    locked,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
    write_text,
)
from clidmu_tf.nets.files import load_model
from clidmu_tf.runs import config as config_module

logger = logging.getLogger(__name__)

# What may differ between a run and its continuation.
FREE = (
    "task",
    "workdir",
    "resume",
    "strategy",
    "jit",
    "checkpoint_every",
    "data_dir",
    "manual_dir",
    "prepare_size",
    "beside",
    "trials",  # a search may be asked for more of them
)


@dataclasses.dataclass(frozen=True)
class Described:
    """What a run's model needs to know of its data.

    Attributes:
        class_names: Names of the classes, in the order of the labels.
        image_shape: `(height, width, channels)` that the network sees, or `(d,)` of
            rows.
        steps: Steps of an epoch.
        num_examples: Examples that it trains on, each of which it may remember; 0 of
            a workdir of version 0.1, whose methods remembered none.
        vocabulary_size: Of texts, the number of different word indices; else 0.
        num_unlabeled: Examples that it trains on without their labels.
    """

    class_names: tuple
    image_shape: tuple
    steps: int
    num_examples: int = 0
    vocabulary_size: int = 0
    num_unlabeled: int = 0


class Workdir:
    """The folder of a run.

    Args:
        path: The folder; it need not be there yet.
    """

    def __init__(self, path):
        if not path:
            raise UserError("--workdir is empty: name a folder for the run.")
        self.path = pathlib.Path(path)
        self.lock = self.path / "lock"
        self.config = self.path / "config.cfg"
        self.source = self.path / "source.json"
        self.fingerprint = self.path / "fingerprint.npz"
        self.preprocessing = self.path / "preprocessing.keras"
        self.columns = self.path / "columns.json"
        self.metrics = self.path / "metrics.csv"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.curves = self.path / "curves.png"
        self.weights = self.path / "weights.png"
        self.export = self.path / "export" / "1"
        self.export_ensemble = self.path / "export_ensemble" / "1"
        self.label_issues = self.path / "label_issues.csv"
        self.report = self.path / "report.html"
        self.summary = self.path / "summary.json"
        self.trials = self.path / "trials"
        self.best = self.path / "best.cfg"

    def check(self, config):
        """Raises a UserError where the folder is neither free nor this run's."""
        self._check_place(config)
        with self._usable():
            if self.config.exists():
                self._check_run(config)
            elif self._is_taken():
                raise UserError(
                    f"--workdir={self.path} is not empty and holds no run: choose "
                    "another."
                )

    def claim(self, config):
        """Makes the folder this run's, or finds that it already is.

        Raises:
            UserError: It holds another run or other files, or cannot be written.
        """
        self.check(config)
        self._make()
        with self._usable():
            longer = self.config.exists() and config_module.read(self.config).epochs
            if not self.config.exists() or longer < config.epochs:
                heading = "Run again: python train.py --flagfile=THIS --workdir=NEW"
                write_config(self.config, config, heading)
            inside = self.trials if config.task == "tune" else self.checkpoints
            inside.mkdir(exist_ok=True)

    def held(self):
        """Holds the folder, made if need be, against other processes that write.

        Training, a search, an audit and an export do, one at a time; an evaluation
        reads alone, and so may the others' files be at any time: each is whole.

        Returns:
            A context, in which it is held.

        Raises:
            UserError: Another process holds it, or it cannot be written.
        """
        self._make()
        return locked(self.lock)

    def check_free(self):
        """Raises a UserError where another process holds the folder."""
        if self.lock.exists():
            with self.held():
                pass

    def _make(self):
        with self._usable():
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def _check_place(self, config):
        around = pathlib.Path(config.data_dir).resolve()
        is_inside = self.path.resolve().is_relative_to(around)
        if config.dataset == "folder" and config.data_dir and is_inside:
            raise UserError(
                f"--workdir={self.path} lies in --data_dir={config.data_dir}, where it "
                "would be read as a class: name a folder outside."
            )

    def _check_run(self, config):
        other = config_module.read(self.config)
        kinds = ["a search" if c.task == "tune" else "a run" for c in (other, config)]
        if kinds[0] != kinds[1]:
            raise UserError(
                f"--workdir={self.path} holds {kinds[0]}, not {kinds[1]}, which "
                f"--task={config.task} is: choose another --workdir."
            )
        is_longer = config.epochs > other.epochs and config.task == "train"
        free = (*FREE, "epochs") if is_longer else FREE
        differences = other.differences(config, but=free)
        if is_longer and not differences and not config.may_go_on:
            raise UserError(
                f"--workdir={self.path} holds a run of --epochs={other.epochs}, over "
                f"all of which --lr_schedule={config.lr_schedule} lowers the learning "
                f"rate: it can't go on to {config.epochs}; choose another --workdir."
            )
        if differences:
            differences = other.differences(config, but=FREE)
            raise UserError(
                f"--workdir={self.path} holds another run, which differs in "
                f"{' '.join(differences)}: choose another --workdir, or remove "
                "that one."
            )
        if not config.resume:
            raise UserError(
                f"--workdir={self.path} already holds this run: leave --resume on "
                "to go on with it, choose another --workdir, or remove that one."
            )

    def _is_taken(self):
        if not self.path.is_dir():
            return self.path.exists()
        # A kill while config.cfg was written leaves its beginning, and the lock.
        ours = (self.lock.name, f"{self.config.name}.part")
        return any(path.name not in ours for path in self.path.iterdir())

    @contextlib.contextmanager
    def _usable(self):
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--workdir={self.path} cannot be used ({error.strerror}): choose one "
                "that you may write to."
            ) from error

    def finished(self, epochs=0):
        """Whether the run came to its end.

        Args:
            epochs: How many it is asked for; more than it was, and it has not.
        """
        return self.summary.exists() and self.read_summary()["epochs"] >= epochs

    def read_config(self):
        """Returns the Config of the run that lies here.

        Raises:
            UserError: There is none.
        """
        if not self.config.exists():
            raise UserError(
                f"--workdir={self.path} holds no run (no config.cfg): train one first."
            )
        return config_module.read(self.config)

    def read_source(self):
        """Returns the `Described` that `write_source` wrote.

        Raises:
            UserError: It has not.
        """
        if not self.source.exists():
            raise UserError(
                f"--workdir={self.path} holds no {self.source.name}, which training "
                "writes: go on with the run, by --task=train."
            )
        kinds = {"class_names": list, "image_shape": list, "steps": int}
        found = read_json(self.source, **kinds)
        names, shape = tuple(found["class_names"]), tuple(found["image_shape"])
        optional = ("num_examples", "vocabulary_size", "num_unlabeled")
        numbers = {name: found.get(name, 0) for name in optional}
        return Described(names, shape, found["steps"], **numbers)

    def write_source(self, described, preprocessing=None):
        """Keeps what the model needs to know of the data, which may then move away."""
        write_json(self.source, dataclasses.asdict(described))
        if preprocessing is not None:
            part = self.preprocessing.with_name("part.keras")
            preprocessing.model.save(part)
            part.replace(self.preprocessing)
            write_json(self.columns, preprocessing.columns)

    def write_fingerprint(self, source):
        """Keeps what the data, as they were loaded, are known by again.

        Those of a run that goes on are known: `check_data` has compared them.
        """
        if not self.fingerprint.exists():
            write_arrays(self.fingerprint, **vars(Fingerprint.of(source)))

    def check_data(self, source, but_test=False):
        """Raises a UserError where the data have changed since the run began.

        Args:
            source: The `Source`, as it was loaded.
            but_test: Whether the examples to test on may be other ones.
        """
        if not self.fingerprint.exists():
            if self.config.exists() and source.is_held_out:
                logger.warning(
                    "%s holds a run of an older version, which held out other "
                    "examples: some of those that are tested on now it has seen.",
                    self.path,
                )
            return
        before = Fingerprint(**read_arrays(self.fingerprint))
        changes = before.changes(Fingerprint.of(source), but_test)
        if changes:
            raise UserError(
                f"--workdir={self.path} holds a run on other data than these "
                f"({changes}): bring those back, or train anew in another --workdir."
            )

    def read_preprocessing(self):
        """Returns what makes inputs of the rows of a table; `None` of images."""
        if not self.columns.exists():
            return None
        from clidmu_tf.data.table import Preprocessing

        model = load_model(self.preprocessing)
        return Preprocessing(model, read_json(self.columns))

    def read_summary(self):
        """Returns what the finished run came to."""
        kinds = {"epochs": int, "train_examples": int, "last_accuracy": float}
        return read_json(self.summary, **kinds)

    def write_summary(self, summary):
        """Writes the summary; with it the run is finished."""
        write_json(self.summary, summary)


def write_config(path, config, heading):
    """Writes a Config as a flagfile under one line of comment."""
    write_text(path, "\n".join([f"# {heading}", *config.flags()]) + "\n")
