"""`--task=tune`: a search whose trials are runs, each in a workdir of its own."""

import contextlib
import functools
import logging
import os
import shutil
import tempfile

import keras

from clidmu_tf.errors import UserError
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.workdir import FREE, Workdir, write_config
from clidmu_tf.tuning.search import (
    ORACLE,
    Search,
    is_worker,
    oracle,
    settings,
    write_report,
)
from clidmu_tf.tuning.space import space_around

HOLDOUT = 0.2
# What a trial does not know of: it is a run like any other.
OF_THE_SEARCH = ("task", "tuner", "trials", "objective", "tune_space")


def search(config, train):
    """Searches, or goes on with, the settings that a Config asks for.

    Args:
        config: A `Config`.
        train: Trains the run that a Config describes.
    """
    config = config.replace(noisy_holdout=config.noisy_holdout or HOLDOUT)
    if config.strategy == "multi_worker":
        raise UserError(
            "--task=tune takes no --strategy=multi_worker: give each worker trials of "
            "its own, by KERASTUNER_TUNER_ID and KERASTUNER_ORACLE_IP."
        )
    workdir = Workdir(config.workdir)
    proposals = oracle(
        config.tuner,
        config.objective,
        space_of(config),
        config.trials,
        config.epochs,
        config.seed,
    )
    trial = functools.partial(run_trial, config, train)
    if not is_worker():  # a worker gets its first trial from a chief that did this
        workdir.claim(config)
    with tempfile.TemporaryDirectory() as scratch:
        tuner = Search(proposals, trial, scratch)
        with quiet():
            tuner.search()
    if not is_worker():
        finish(config, workdir, tuner)


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


def space_of(config):
    """The search space that a Config asks for."""
    names = names_of(config)
    searchable = config.searchable()
    for name in names:
        if name not in searchable:
            raise UserError(
                f"--method={config.method} has no {name!r} to search: give "
                f"--tune_space some of {', '.join(searchable)}."
            )
    if "learning_rate" in names:  # whatever is wrong with the lowest shows now
        lowest = config.learning_rate / searchable["learning_rate"]
        config.replace(learning_rate=lowest)
    experiment = Experiment(config)
    experiment.meta_arguments()  # or every trial would say what is wrong
    examples = len(experiment.source.train)
    base = {name: getattr(config, name) for name in searchable}
    return space_around(
        names, searchable, base, config.epochs, examples, config.meta_examples
    )


def names_of(config):
    """The names of the settings to search, each once."""
    names = (name.strip() for name in config.tune_space.split(","))
    return list(dict.fromkeys(name for name in names if name))


def run_trial(config, train, number, hyperparameters):
    """Trains a trial to its end, from wherever it is, and returns its scores."""
    trial = trial_config(config, number, hyperparameters)
    workdir = Workdir(trial.workdir)
    if workdir.config.exists() and workdir.read_config().differences(trial, but=FREE):
        # Several workers that come in another order lead a search another way.
        print(f"{workdir.path} is of a search that went another way: training anew.")
        shutil.rmtree(workdir.path)
    if not workdir.finished():
        past = hyperparameters.values.get("tuner/trial_id")
        if past is not None:
            start_from(trial_folder(config, int(past)), workdir, trial)
        keras.backend.clear_session()
        train(trial)
    summary = workdir.read_summary()
    return {
        "noisy_accuracy": summary["noisy_accuracy"],
        "val_clid_ref": summary["val_clid_ref"],
        "clean_accuracy": summary["last_accuracy"],
    }


def trial_config(config, number, hyperparameters):
    """The run that a trial is."""
    defaults = Config()
    changes = {name: getattr(defaults, name) for name in OF_THE_SEARCH}
    changes |= {"workdir": str(trial_folder(config, number).path)}
    if "tuner/epochs" in hyperparameters.values:
        changes["epochs"] = hyperparameters.values["tuner/epochs"]
        # The learning rate falls over a whole run, however early Hyperband cuts it.
        changes["lr_period"] = config.lr_period or config.epochs
    return config.replace(**changes, **settings(hyperparameters))


def trial_folder(config, number):
    return Workdir(Workdir(config.workdir).trials / f"{number:03d}")


def start_from(past, workdir, trial):
    """Lets a trial go on where a shorter one with its settings ended."""
    workdir.claim(trial)
    if any(workdir.checkpoints.glob("step-*.npz")):
        return  # it has gone on already
    for path in past.checkpoints.glob("*.npz"):
        copy = workdir.checkpoints / path.name
        shutil.copyfile(path, copy.with_suffix(".part"))
        os.replace(copy.with_suffix(".part"), copy)


def finish(config, workdir, tuner):
    """Writes what a finished search leaves, and prints it."""
    table = tuner.table()
    best = int(table["trial"].iloc[0])
    score = f"{config.objective} {table[config.objective].iloc[0]:.4f}"
    write_report(table, names_of(config), config.objective, workdir.path)
    trial = tuner.oracle.get_best_trials()[0]
    chosen = trial_config(config, best, trial.hyperparameters)
    write_config(
        workdir.best,
        chosen.replace(workdir=str(workdir.path / "best")),
        f"Trial {best}, {score}; --noisy_holdout=0 after it trains on all labels.",
    )
    table = table.rename(columns=ORACLE)
    print("\n" + table.to_string(index=False, float_format="{:.4g}".format))
    print(
        f"\nBest: trial {best}, {score}. Train it:\n"
        f"  python train.py --flagfile={workdir.best}\n"
        f"Everything lies in {workdir.path}/"
    )
