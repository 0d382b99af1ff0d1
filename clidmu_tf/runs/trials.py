"""`--task=tune`: a search whose trials are runs, each in a workdir of its own."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import keras

from clidmu_tf.cluster import is_worker
from clidmu_tf.errors import UserError
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.workdir import FREE, Workdir, write_config
from clidmu_tf.tuning.search import (
    GIVEN,
    ORACLE,
    Search,
    oracle,
    settings,
    write_report,
)
from clidmu_tf.tuning.space import RATE_FACTOR, space_around

Train = Callable[[Config], None]

HOLDOUT = 0.2
OF_CLID = ("temperature", "meta_batch_size")
# What a trial does not know of: it is a run like any other.
OF_THE_SEARCH = ("task", "tuner", "trials", "objective", "tune_space")


def search(config: Config, train: Train) -> None:
    """Searches, or goes on with, the settings that a Config asks for.

    Args:
        config: A `Config`.
        train: Trains the run that a Config describes.
    """
    if config.strategy == "multi_worker":
        raise UserError(
            "--task=tune takes no --strategy=multi_worker: give each worker trials of "
            "its own, by KERASTUNER_TUNER_ID and KERASTUNER_ORACLE_IP."
        )
    config = config.replace(noisy_holdout=config.noisy_holdout or HOLDOUT)
    of_clid = [name for name in names_of(config) if name in OF_CLID]
    if of_clid and config.meta_objective == "auto":
        # Where the given labels judge there is nothing of the kind to search.
        print(f"To search {' and '.join(of_clid)}: --meta_objective=clid.")
        config = config.replace(meta_objective="clid")
    trials = Trials(config, train)
    if not is_worker():
        trials.workdir.check_free()
    proposals = oracle(
        config.tuner,
        config.objective,
        trials.space(),
        config.trials,
        config.epochs,
        config.seed,
    )
    # A worker gets its first trial from a chief that holds the folder.
    with contextlib.nullcontext() if is_worker() else trials.workdir.held():
        if not is_worker():
            trials.workdir.claim(config)
        with tempfile.TemporaryDirectory() as scratch:
            tuner = Search(proposals, trials.run, scratch)
            with quiet():
                tuner.search()
        if not is_worker():
            trials.finish(tuner)


def names_of(config: Config) -> list[str]:
    """The names of the settings to search, each once."""
    if config.tune_space == "auto":
        has_temperature = "temperature" in config.searchable()
        return ["temperature" if has_temperature else "learning_rate", "batch_size"]
    names = (name.strip() for name in config.tune_space.split(","))
    return list(dict.fromkeys(name for name in names if name))


@contextlib.contextmanager
def quiet():
    """Keeps to the trials' own lines: no word on how each compiles its steps, nor
    TensorFlow's, which takes many models for one that is traced carelessly."""
    levels = {"tensorflow": logging.ERROR, "clidmu_tf": logging.WARNING}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


class Trials:
    """The runs that a search is made of.

    Args:
        config: What to search, and around which settings.
        train: Trains the run that a Config describes.
    """

    def __init__(self, config: Config, train: Train):
        self.config, self.train = config, train
        self.workdir = Workdir(config.workdir)
        self.titles = ORACLE

    def space(self) -> Any:
        """The space to search."""
        config, names = self.config, names_of(self.config)
        searchable = config.searchable()
        for name in names:
            if name not in searchable:
                raise UserError(
                    f"--method={config.method} has no {name!r} to search: give "
                    f"--tune_space some of {', '.join(searchable)}."
                )
        if "learning_rate" in names:  # whatever is wrong with the lowest shows now
            lowest = config.learning_rate / RATE_FACTOR
            config.replace(learning_rate=lowest)
        experiment = Experiment(config)
        if experiment.source.test_is_given:
            self.titles = GIVEN
            if config.objective in GIVEN:
                raise UserError(
                    f"--objective={config.objective} goes by right labels, and these "
                    "data have none: give --clean_label_column, or a test folder or "
                    "file."
                )
        examples = len(experiment.source.train)
        experiment.meta_arguments()  # or every trial would say what is wrong
        base = {name: getattr(config, name) for name in searchable}
        return space_around(
            names, searchable, base, config.epochs, examples, config.meta_examples
        )

    def run(self, number: int, hyperparameters: Any) -> dict[str, float]:
        """Trains a trial to its end, from wherever it is, and returns its scores."""
        trial = self.config_of(number, hyperparameters)
        workdir = Workdir(trial.workdir)
        if is_of_another(workdir, trial):
            # Several workers that come in another order lead a search another way.
            print(
                f"{workdir.path} is of a search that went another way: training anew."
            )
            shutil.rmtree(workdir.path)
        if not workdir.finished():
            past = hyperparameters.values.get("tuner/trial_id")
            if past is not None:
                workdir.claim(trial)
                start_from(self.folder(int(past)), workdir)
            keras.backend.clear_session()
            self.train(trial)
        summary = workdir.read_summary()
        return {
            "noisy_accuracy": summary["noisy_accuracy"],
            "val_clid_ref": summary["val_clid_ref"],
            "clean_accuracy": summary["last_accuracy"],
        }

    def config_of(self, number: int, hyperparameters: Any) -> Config:
        """The run that a trial is."""
        defaults = Config()
        changes = {name: getattr(defaults, name) for name in OF_THE_SEARCH}
        changes |= {"workdir": str(self.folder(number).path)}
        if "tuner/epochs" in hyperparameters.values:
            changes["epochs"] = hyperparameters.values["tuner/epochs"]
            # The learning rate falls over a whole run, however early Hyperband cuts it.
            changes["lr_period"] = self.config.lr_period or self.config.epochs
        return self.config.replace(**changes, **settings(hyperparameters))

    def folder(self, number: int) -> Workdir:
        """The workdir of a trial."""
        return Workdir(self.workdir.trials / f"{number:03d}")

    def finish(self, tuner: Search) -> None:
        """Writes what a finished search leaves, and prints it."""
        table, objective = tuner.table(), self.config.objective
        best = int(table["trial"].iloc[0])
        score = f"{objective} {table[objective].iloc[0]:.4f}"
        path = self.workdir.path
        write_report(table, names_of(self.config), objective, path, self.titles)
        trial = tuner.oracle.get_best_trials()[0]
        write_config(
            self.workdir.best,
            self.config_of(best, trial.hyperparameters).replace(
                workdir=str(path / "best")
            ),
            f"Trial {best}, {score}; --noisy_holdout=0 after it trains on all labels.",
        )
        table = table.rename(columns=self.titles)
        print("\n" + table.to_string(index=False, float_format="{:.4g}".format))
        print(
            f"\nBest: trial {best}, {score}. Train it:\n"
            f"  python train.py --flagfile={self.workdir.best}\n"
            f"Everything lies in {path}/"
        )


def is_of_another(workdir: Workdir, trial: Config) -> bool:
    """Whether a workdir holds a run with other settings than this trial's."""
    if not workdir.config.exists():
        return False
    return bool(workdir.read_config().differences(trial, but=FREE))


def start_from(past: Workdir, workdir: Workdir) -> None:
    """Lets a trial go on where a shorter one with its settings ended."""
    if any(workdir.checkpoints.glob("step-*.npz")):
        return  # it has gone on already
    # The checkpoint comes last: with it the trial counts as one that has gone on.
    snapshots = sorted(past.checkpoints.glob("snapshot-*.npz"))
    for path in (*snapshots, max(past.checkpoints.glob("step-*.npz"))):
        copy = workdir.checkpoints / path.name
        shutil.copyfile(path, copy.with_suffix(".part"))
        os.replace(copy.with_suffix(".part"), copy)
