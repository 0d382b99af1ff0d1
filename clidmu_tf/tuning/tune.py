"""`clidmu.tune`: a search of settings for a model of one's own."""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import keras
import keras_tuner
import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import train_test_split

from clidmu_tf.cluster import is_worker
from clidmu_tf.core.labels import as_labels, to_targets
from clidmu_tf.engine.callbacks import MetricsLog
from clidmu_tf.engine.given import as_arrays, check_lengths
from clidmu_tf.engine.model import NoisyLabelModel, input_shape
from clidmu_tf.engine.network import count
from clidmu_tf.errors import UserError
from clidmu_tf.files import read_json, write_json
from clidmu_tf.nets.features import probabilities_of
from clidmu_tf.tuning import search
from clidmu_tf.tuning.space import Range, check_count, space_of_ranges

BATCH = 100  # for CLID that compares between trials
# What a search itself passes to `fit`, besides what are arguments of `tune`.
OF_THE_SEARCH = ("x", "y", "callbacks", "initial_epoch", "verbose")


def tune(
    build_model: Callable[[keras_tuner.HyperParameters], NoisyLabelModel]
    | keras_tuner.HyperModel,
    data: tuple[Any, ArrayLike],
    space: Mapping[str, Range],
    *,
    tuner: str = "random",
    trials: int = 30,
    objective: str = "noisy_accuracy",
    holdout: float = 0.2,
    clean_data: tuple[Any, ArrayLike] | None = None,
    epochs: int = 30,
    batch_size: int = 100,
    seed: int = 0,
    directory: str | pathlib.Path = "runs/tune",
    overwrite: bool = False,
    **fit_arguments: Any,
) -> search.Search:
    """Searches settings of a model of this package, on noisy labels alone.

    Part of the data is held out, wrong labels and all, and each trial is judged
    after its last epoch. Accuracy on held-out *noisy* labels ranks classifiers as
    clean labels would, as long as the true class stays the likeliest label of its
    examples. CLID is a poor judge between trials that were trained on it.

    The search may be killed and called again: the trials that are finished are not
    run again, and it ends as if it had never been cut. In several processes, on one
    machine or many that share `directory`, KerasTuner's `KERASTUNER_TUNER_ID`,
    `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT` say who is chief and worker.

    Args:
        build_model: `hp → model`, a new model such as `CLIDMU`, compiled with new
            optimizers; or a `keras_tuner.HyperModel` that builds one. `hp`, the
            `keras_tuner.HyperParameters`, holds what was drawn from `space`, as
            `hp["temperature"]`; it may be asked for more settings, as by
            `hp.Choice("units", [32, 64])`.
        data: `(x, noisy_y)` of one length, each as for the model's `fit`.
        space: What to search, a dict of ranges by name. A list holds the values to
            choose from; a tuple of two numbers is the lowest and the highest, of whole
            numbers evenly, else on a log scale. `batch_size` is used by the search
            itself, all else by `build_model`.
        tuner: `"random"`, `"bayesian"` or `"hyperband"`.
        trials: Number of trials; Hyperband makes as many as `epochs` asks for.
        objective: `"noisy_accuracy"`; `"val_clid_ref"`, CLID of the held-out inputs
            at temperature 0.5 in batches of 100; or `"clean_accuracy"`, an oracle
            for reports.
        holdout: Share of the data that is held out, above 0 and below 1.
        clean_data: `(x, y)` for the oracle.
        epochs: Epochs of a trial, or of the longest under Hyperband.
        batch_size: Examples a step, where `space` has no `batch_size`.
        seed: Of the split, the search and every trial.
        directory: Where `trials.csv`, `trials.png` and each trial's folder go.
        overwrite: Whether to throw away the search that is there.
        **fit_arguments: More arguments of the model's `fit`, such as `meta_data`.

    Returns:
        The `keras_tuner.Tuner`: `get_best_hyperparameters()[0]` holds the best
        settings by name, `get_best_models()[0]` the trained model, `table()` all
        trials.

    Raises:
        ValueError: An argument can't be used, or `directory` holds another search.

    Example:

    ```python
    x = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")
    noisy_y = (x[:, 0] > 0).astype("int64")

    def build_model(hp):
        classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model = clidmu.CLIDMU(classifier, temperature=hp["temperature"])
        model.compile(optimizer=keras.optimizers.SGD(0.02, momentum=0.9))
        return model

    space = {"temperature": (0.1, 2.5), "batch_size": [8, 16]}
    tuner = clidmu.tune(build_model, (x, noisy_y), space, trials=2, epochs=1)
    temperature = tuner.get_best_hyperparameters()[0]["temperature"]
    ```

    Reference:
        Chen, Ye, Chen, Zhao, Heng, "Robustness of Accuracy Metric and its
        Inspirations in Learning with Noisy Labels", AAAI 2021, theorem 1.
    """
    for name, value, known in (
        ("tuner", tuner, search.TUNERS),
        ("objective", objective, tuple(search.OBJECTIVES)),
    ):
        if value not in known:
            raise UserError(f"{name} must be one of {known}; received {value!r}.")
    if objective == "clean_accuracy" and clean_data is None:
        raise UserError("objective='clean_accuracy' needs clean_data=(x, y).")
    counts = {"batch_size": batch_size, "trials": trials, "epochs": epochs}
    for name, count_of in counts.items():
        check_count(name, count_of)
    for name in OF_THE_SEARCH:
        if name in fit_arguments:
            raise UserError(f"tune passes a {name} of its own to fit: leave it out.")
    if isinstance(build_model, keras_tuner.HyperModel):
        build_model = build_model.build
    drawn = space_of_ranges(space)
    train, held_out = split(data, holdout, seed)
    model_trials = ModelTrials(
        build_model,
        train,
        held_out,
        clean_data,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        directory=pathlib.Path(directory),
        fit_arguments=fit_arguments,
    )
    model = model_trials.build(drawn)  # asks for settings of its own
    if not drawn.space:
        raise UserError("space is empty, so there is nothing to search: give a range.")
    if not is_worker():
        asked = {
            "space": {one.name: one.get_config() for one in drawn.space},
            "tuner": tuner,
            "objective": objective,
            "holdout": holdout,
        }
        claim(model_trials.directory, asked | model_trials.identity(model), overwrite)
    searching = search.Search(
        search.oracle(tuner, objective, drawn, trials, epochs, seed),
        model_trials.run,
        model_trials.directory / "keras_tuner",
        model_trials.build,
        model_trials.load,
    )
    searching.search()
    if not is_worker():
        table = searching.table()
        # Some may depend on others, and not be there in every trial.
        names = [one.name for one in searching.oracle.get_space().space]
        everywhere = [
            name for name in dict.fromkeys(names) if table[name].notna().all()
        ]
        search.write_report(table, everywhere, objective, model_trials.directory)
    return searching


class ModelTrials:
    """Trials of a model, each a function of its settings alone.

    Args:
        build_model: `hp → model`, new and compiled.
        train: `(x, noisy_y)` to train on.
        held_out: `(x, noisy_y)` to judge by.
        clean: `(x, y)` for the oracle, or `None`.
        epochs: Epochs of the longest trial.
        batch_size: Examples a step, where it is not searched.
        seed: Of every trial.
        directory: A path; trials go to `trials/` in it.
        fit_arguments: More arguments of the model's `fit`.
    """

    def __init__(
        self,
        build_model,
        train,
        held_out,
        clean,
        *,
        epochs,
        batch_size,
        seed,
        directory,
        fit_arguments,
    ):
        self.build_model = build_model
        self.train, self.held_out, self.clean = train, held_out, clean
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.directory, self.fit_arguments = directory, fit_arguments

    def identity(self, model):
        """What must be the same for a search to go on, by what it is called.

        Args:
            model: The model of the default settings.
        """
        configs = keras.saving.serialize_keras_object(model)
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "model": fingerprint(json.dumps(configs, default=str)),
            "data": fingerprint(self.train, self.held_out, self.clean),
            "fit_arguments": {
                name: fingerprint(value) for name, value in self.fit_arguments.items()
            },
        }

    def build(self, hp):
        """Returns the model of a trial, the same one whenever it is asked for."""
        keras.backend.clear_session()
        keras.utils.set_random_seed(self.seed)
        model = self.build_model(hp)
        if not isinstance(model, NoisyLabelModel) or not model.compiled:
            raise UserError(
                "build_model must return a compiled model of this package, such as "
                f"CLIDMU; received {_described(model)}."
            )
        return model

    def run(self, number, hp):
        """Trains a trial unless it is finished, and returns its scores."""
        folder = self.folder(number)
        record, values = folder / "trial.json", search.settings(hp)
        epochs = search.epochs_of(hp, self.epochs)
        if record.exists():
            known = read_json(record, settings=dict, epochs=int, scores=dict)
            if known["settings"] == values and known["epochs"] == epochs:
                return known["scores"]
        folder.mkdir(parents=True, exist_ok=True)
        model = self.build(hp)
        x, y = self.train
        model.fit(
            x,
            y,
            batch_size=values.get("batch_size", self.batch_size),
            epochs=epochs,
            verbose=0,
            callbacks=[MetricsLog(folder / "metrics.csv")],
            **self.fit_arguments,
        )
        scores = self.scores(model)
        model.save_weights(folder / "model.weights.h5")
        known = {"settings": values, "epochs": epochs, "scores": scores}
        write_json(record, known)
        return scores

    def scores(self, model):
        """What a trained model comes to under each objective."""
        x, y = self.held_out
        size = min(BATCH, count(y))
        whole = count(y) // size * size  # CLID depends on the size of a batch
        part = keras.tree.map_structure(lambda array: array[:whole], x)
        logs = model.evaluate(part, batch_size=size, verbose=0, return_dict=True)
        scores = {
            "noisy_accuracy": accuracy(model, x, y),
            "val_clid_ref": float(logs["clid"]),
        }
        if self.clean is not None:
            scores["clean_accuracy"] = accuracy(model, *self.clean)
        return scores

    def load(self, number, hp):
        """Returns the model of a trial as it was after its last epoch."""
        model = self.build(hp)
        model.build(input_shape(self.train[0]))
        model.load_weights(self.folder(number) / "model.weights.h5")
        return model

    def folder(self, number):
        return self.directory / "trials" / f"{number:03d}"


def _described(model):
    is_ours = isinstance(model, NoisyLabelModel)
    return f"a {type(model).__name__}{' that is not compiled' if is_ours else ''}"


def split(data, share, seed):
    """Returns `(x, y)` to train on and `(x, y)` to judge by."""
    try:
        x, y = data
        x, y = as_arrays(x), as_labels(y)
        check_lengths(x, y)
        if not 0 < share < 1:
            raise ValueError(f"holdout must be between 0 and 1; received {share}.")
        parts = train_test_split(
            np.arange(count(y)), test_size=share, random_state=seed
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            "data must be (x, noisy_y), arrays of one length, and holdout leave some "
            f"on either side: {error}"
        ) from error
    return tuple(
        keras.tree.map_structure(
            lambda array, part=part: np.asarray(array)[part], (x, y)
        )
        for part in parts
    )


def accuracy(model, x, y):
    """Accuracy of a model, whatever metrics it was compiled with."""
    scores = model.predict(as_arrays(x), verbose=0)
    predicted = np.argmax(probabilities_of(model.classifier, scores), axis=-1)
    given = np.argmax(to_targets(model.indices(y), model.num_classes), axis=-1)
    return float(np.mean(predicted == given))


def fingerprint(*values):
    """A short text that differs where the values do: texts, arrays, nests of them."""
    digest = hashlib.sha256()
    for value in keras.tree.flatten(values):
        if hasattr(value, "__array__"):
            array = np.asarray(value)
            digest.update(f"{array.dtype} {array.shape}\n".encode())
            # The bytes of objects would be their addresses.
            array = array.astype(str) if array.dtype.hasobject else array
            digest.update(array.tobytes())
        else:
            digest.update(f"{value!r}\n".encode())
    return digest.hexdigest()[:16]


def claim(directory, identity, overwrite):
    """Makes the directory this search's, or finds that it already is."""
    record = directory / "search.json"
    identity = json.loads(json.dumps(identity, default=str))
    if overwrite:
        shutil.rmtree(directory / "trials", ignore_errors=True)
    elif record.exists():
        before = read_json(record)
        others = [key for key in identity if identity[key] != before.get(key)]
        if others:
            raise UserError(
                f"directory={str(directory)!r} holds another search, which differs in "
                f"{', '.join(others)}: choose another, or give overwrite=True."
            )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(record, identity)
