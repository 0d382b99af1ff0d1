"""Search of settings with KerasTuner, by objectives that need no clean label."""

import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_tuner
import pandas as pd

from clidmu_tf.cluster import is_worker, meet_chief
from clidmu_tf.errors import TrainingDiverged, UserError
from clidmu_tf.files import write_atomically, write_text
from clidmu_tf.reports import figures
from clidmu_tf.reports.csv import to_csv

TUNERS = ("random", "bayesian", "hyperband")
# What a search may go by, and which way is better.
OBJECTIVES = {"noisy_accuracy": "max", "val_clid_ref": "min", "clean_accuracy": "max"}
ORACLE = {"clean_accuracy": "clean_accuracy (oracle)"}
# What that is where what is tested on are given labels, and no oracle.
GIVEN = {"clean_accuracy": "held_out_accuracy (given labels)"}

Run = Callable[[int, keras_tuner.HyperParameters], dict[str, float]]
Load = Callable[[int, keras_tuner.HyperParameters], keras.Model]


def settings(hyperparameters: keras_tuner.HyperParameters) -> dict[str, Any]:
    """Returns a trial's settings, without those that Hyperband keeps its books by."""
    names = [name for name in hyperparameters.values if not name.startswith("tuner/")]
    names.sort()  # what comes from a chief is ordered by type
    return {name: hyperparameters.values[name] for name in names}


def epochs_of(hyperparameters: keras_tuner.HyperParameters, most: int) -> int:
    """Returns the epochs of a trial, which Hyperband cuts short of the most."""
    return hyperparameters.values.get("tuner/epochs", most)


def oracle(
    tuner: str,
    objective: str,
    hyperparameters: keras_tuner.HyperParameters,
    trials: int,
    epochs: int,
    seed: int,
) -> keras_tuner.Oracle:
    """Returns what proposes the trials: a function of seed and scores alone."""
    arguments = {
        "objective": keras_tuner.Objective(objective, OBJECTIVES[objective]),
        "hyperparameters": hyperparameters,
        # KerasTuner draws a seed of its own in place of 0, and counts up from it to
        # what NumPy takes.
        "seed": 1 + 100_000 * seed % (2**32 - 200_000),
        # Trials that diverge are what a search must live with.
        "max_consecutive_failed_trials": 10**6,
    }
    if tuner == "hyperband":
        proposals = keras_tuner.oracles.HyperbandOracle(max_epochs=epochs, **arguments)
    else:
        proposals = {
            "random": keras_tuner.oracles.RandomSearchOracle,
            "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        }[tuner](max_trials=trials, **arguments)
    proposals.verbose = 0
    return proposals


class Search(keras_tuner.Tuner):
    """A KerasTuner search that may be killed at any moment and asked for again.

    KerasTuner's own files can't be relied on after a kill: it writes them in place,
    one after the other, and the Bayesian oracle's random state is not among them. So
    a search always starts anew, and a trial that is finished returns its scores at
    once. The oracle, which hears the same scores, asks for the same trials.

    Args:
        oracle: Proposes trials.
        run: `(number, hyperparameters) → scores`, a dict that holds all of
            `OBJECTIVES`; at once for a trial that is finished.
        directory: For KerasTuner's files.
        build: `hyperparameters → model`, a new one, or `None`.
        load: `(number, hyperparameters) → model`, as trained, or `None`.

    Raises:
        UserError: Of a worker, there is no chief; of a chief, its port is taken.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        run: Run,
        directory: str | os.PathLike[str],
        build: Callable[[keras_tuner.HyperParameters], keras.Model] | None = None,
        load: Load | None = None,
    ):
        meet_chief()
        super().__init__(
            oracle,
            hypermodel=build,
            directory=str(directory),
            project_name=os.environ.get("KERASTUNER_TUNER_ID", "tuner0"),
            overwrite=True,
        )
        self.run, self.load = run, load

    def search(self) -> None:
        """Runs the trials; of a chief, waits until its workers have."""
        try:
            with warnings.catch_warnings():  # of the scores of trials that diverged
                warnings.filterwarnings("ignore", "All-NaN axis", RuntimeWarning)
                super().search()
        except keras_tuner.errors.FatalError as error:
            raise error.__cause__ from None

    def pre_create_trial(self):
        if is_worker():  # or it would wait for an hour, without a word
            meet_chief()

    def run_trial(self, trial):
        name, number = self.oracle.objective.name, int(trial.trial_id)
        try:
            score = self.run(number, trial.hyperparameters)[name]
        except TrainingDiverged as error:
            print(f"Trial {number}: {_text(trial)}: {error}", flush=True)
            # A failed trial, as an error would make it, which it prints with a trace.
            return {name: float("nan")}
        except Exception as error:
            # KerasTuner would take it for a bad trial, and start the next.
            raise keras_tuner.errors.FatalError(str(error)) from error
        print(f"Trial {number}: {_text(trial)}: {name} {score:.4f}", flush=True)
        return {name: score}

    def load_model(self, trial):
        return self.load(int(trial.trial_id), trial.hyperparameters)

    def table(self) -> pd.DataFrame:
        """Returns a DataFrame of the trials, best first; those that failed, last.

        Raises:
            UserError: All of them failed.
        """
        rows = []
        for trial in self.oracle.trials.values():
            number, hyperparameters = int(trial.trial_id), trial.hyperparameters
            row = {"trial": number, **settings(hyperparameters)}
            if "tuner/epochs" in hyperparameters.values:
                row["epochs"] = hyperparameters.values["tuner/epochs"]
            done = trial.status == "COMPLETED"
            rows.append({**row, **(self.run(number, hyperparameters) if done else {})})
        objective = self.oracle.objective
        if not any(objective.name in row for row in rows):
            raise UserError(
                f"None of the {len(rows)} trials came to its end: search around a "
                "lower learning rate, or a lower meta learning rate."
            )
        return pd.DataFrame(rows).sort_values(
            objective.name, ascending=objective.direction == "min", kind="stable"
        )


def write_report(
    table: pd.DataFrame,
    names: Sequence[str],
    objective: str,
    directory: pathlib.Path,
    titles: dict[str, str] = ORACLE,
) -> None:
    """Writes `trials.csv` and `trials.png`.

    Args:
        table: What `Search.table` returned.
        names: Names of the settings that were searched.
        objective: One of `OBJECTIVES`.
        directory: A path.
        titles: What columns are called in the file.
    """
    write_atomically(
        directory / "trials.png",
        lambda file: figures.trials(table, names, objective, file),
    )
    write_text(
        directory / "trials.csv", to_csv(table.rename(columns=titles), index=False)
    )


def _text(trial):
    values = settings(trial.hyperparameters).items()
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values
    )
