"""`clidmu.tune`: a search of settings for a classifier of one's own."""

import json
import pathlib
import shutil
import zlib

import keras
import numpy as np
from sklearn.model_selection import train_test_split

from clidmu_tf.engine.callbacks import MetricsLog
from clidmu_tf.errors import UserError
from clidmu_tf.files import write_json
from clidmu_tf.methods.clid_mu import CLIDMU
from clidmu_tf.tuning import search

BATCH = 100  # for CLID that compares between trials


def tune(
    build_classifier,
    data,
    *,
    space=("temperature", "batch_size"),
    tuner="random",
    trials=30,
    objective="noisy_accuracy",
    holdout=0.2,
    clean_data=None,
    epochs=30,
    batch_size=100,
    optimizer=None,
    meta_optimizer=None,
    temperature=0.5,
    weight_net="wnet",
    warmup_epochs=0,
    meta_batch_size=0,
    seed=0,
    directory="runs/tune",
    overwrite=False,
    **arguments,
):
    """Searches settings of `CLIDMU` for a classifier, on noisy labels alone.

    Part of the data is held out, wrong labels and all, and each trial is judged
    after its last epoch. Accuracy on held-out *noisy* labels ranks classifiers as
    clean labels would, as long as the true class stays the likeliest label of its
    examples. CLID is what the trials are trained on, and a poor judge between them.

    The search may be killed and called again: the trials that are finished are not
    run again, and it ends as if it had never been cut. In several processes, on one
    machine or many that share `directory`, KerasTuner's `KERASTUNER_TUNER_ID`,
    `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT` say who is chief and worker.

    Args:
        build_classifier: `hp → classifier`; it may ask the
            `keras_tuner.HyperParameters` for settings of its own.
        data: `(x, noisy_y)`, arrays of one length; labels as for `CLIDMU.fit`.
        space: What to search, around the values given below: some of
            `temperature`, `batch_size`, `learning_rate`, `meta_learning_rate`,
            `warmup_epochs`, `weight_net`, `meta_batch_size`.
        tuner: `"random"`, `"bayesian"` or `"hyperband"`.
        trials: Number of trials; Hyperband makes as many as `epochs` asks for.
        objective: `"noisy_accuracy"`; `"val_clid_ref"`, CLID of the held-out inputs
            at temperature 0.5 in batches of 100; or `"clean_accuracy"`, an oracle
            for reports.
        holdout: Share of the data that is held out, above 0 and below 1.
        clean_data: `(x, y)` for the oracle.
        epochs: Epochs of a trial, or of the longest under Hyperband.
        batch_size: Examples a step.
        optimizer: Of the classifier; `None` for `SGD(0.02, momentum=0.9)`.
        meta_optimizer: Of the weight net; `None` for `Adam(1e-3)`.
        temperature: Of CLID.
        weight_net: `"wnet"` or `"vri"`.
        warmup_epochs: Epochs of plain cross-entropy first.
        meta_batch_size: Examples of a meta batch, drawn from all training inputs;
            0 for the labelled batch's own inputs.
        seed: Of the split, the search and every trial.
        directory: Where `trials.csv`, `trials.png` and each trial's folder go.
        overwrite: Whether to throw away the search that is there.
        **arguments: More arguments of `CLIDMU`.

    Returns:
        The `keras_tuner.Tuner`: `get_best_hyperparameters()[0]` holds the best
        settings by name, `get_best_models()[0]` the trained `CLIDMU`, `table()` all
        trials.

    Raises:
        ValueError: An argument can't be used, or `directory` holds another search.

    Example:

    ```python
    x = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")
    noisy_y = (x[:, 0] > 0).astype("int64")

    def build_classifier(hp):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    tuner = clidmu.tune(
        build_classifier, (x, noisy_y), trials=2, epochs=1, batch_size=16
    )
    best = tuner.get_best_hyperparameters()[0]
    temperature = best.get("temperature")
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
            raise ValueError(f"{name} must be one of {known}; received {value!r}.")
    if objective == "clean_accuracy" and clean_data is None:
        raise ValueError("objective='clean_accuracy' needs clean_data=(x, y).")
    base = {
        "temperature": temperature,
        "batch_size": batch_size,
        "weight_net": weight_net,
        "warmup_epochs": warmup_epochs,
        "meta_batch_size": meta_batch_size,
    }
    trials_here = ModelTrials(
        build_classifier,
        *split(data, holdout, seed),
        clean_data,
        base,
        optimizer or keras.optimizers.SGD(0.02, momentum=0.9),
        meta_optimizer or keras.optimizers.Adam(1e-3),
        epochs,
        pathlib.Path(directory),
        {"seed": seed, **arguments},
    )
    examples = len(trials_here.train[1])
    names = list(dict.fromkeys(space))
    hyperparameters = search.search_space(names, trials_here.base, epochs, examples)
    if not search.is_worker():
        asked = {"space": names, "tuner": tuner, "objective": objective}
        claim(trials_here.directory, {**asked, **trials_here.identity()}, overwrite)
    found = search.Search(
        search.oracle(tuner, objective, hyperparameters, trials, epochs, seed),
        trials_here.run,
        trials_here.directory / "keras_tuner",
        trials_here.build,
        trials_here.load,
    )
    found.search()
    if not search.is_worker():
        search.write_report(found.table(), names, objective, trials_here.directory)
    return found


class ModelTrials:
    """Trials of `CLIDMU` around a classifier, each a function of its settings alone.

    Args:
        build_classifier: `hp → classifier`.
        train: `(x, noisy_y)` to train on.
        held_out: `(x, noisy_y)` to judge by.
        clean: `(x, y)` for the oracle, or `None`.
        base: Settings of the trials but for what is searched.
        optimizer: Its learning rate may be searched.
        meta_optimizer: Its learning rate may be searched.
        epochs: Epochs of the longest trial.
        directory: A path; trials go to `trials/` in it.
        arguments: More arguments of `CLIDMU`, the seed among them.
    """

    def __init__(
        self,
        build_classifier,
        train,
        held_out,
        clean,
        base,
        optimizer,
        meta_optimizer,
        epochs,
        directory,
        arguments,
    ):
        self.build_classifier = build_classifier
        self.train, self.held_out, self.clean = train, held_out, clean
        self.optimizer, self.meta_optimizer = optimizer, meta_optimizer
        self.epochs, self.directory, self.arguments = epochs, directory, arguments
        self.base = {
            **base,
            "learning_rate": float(optimizer.learning_rate),
            "meta_learning_rate": float(meta_optimizer.learning_rate),
        }

    def identity(self):
        """What must be the same for a search to go on, as far as JSON can hold it."""
        return {
            "base": self.base,
            "epochs": self.epochs,
            "labels": zlib.crc32(np.ascontiguousarray(self.train[1])),
            "inputs": list(self.train[0].shape),
            "arguments": {name: str(value) for name, value in self.arguments.items()},
        }

    def build(self, hp):
        """Returns the compiled `CLIDMU` of a trial."""
        values = {**self.base, **hp.values}
        steps = -(-len(self.train[1]) // values["batch_size"])
        model = CLIDMU(
            self.build_classifier(hp),
            weight_net=values["weight_net"],
            temperature=values["temperature"],
            warmup_steps=values["warmup_epochs"] * steps,
            **self.arguments,
        )
        model.compile(
            optimizer=with_rate(self.optimizer, hp.values.get("learning_rate")),
            meta_optimizer=with_rate(
                self.meta_optimizer, hp.values.get("meta_learning_rate")
            ),
            metrics=["accuracy"],
        )
        return model

    def run(self, number, hp):
        """Trains a trial unless it is finished, and returns its scores."""
        folder = self.folder(number)
        record, values = folder / "trial.json", search.settings(hp)
        epochs = search.epochs_of(hp, self.epochs)
        if record.exists():
            known = json.loads(record.read_text())
            if known["settings"] == values and known["epochs"] == epochs:
                return known["scores"]
        folder.mkdir(parents=True, exist_ok=True)
        keras.backend.clear_session()
        keras.utils.set_random_seed(self.arguments["seed"])
        model = self.build(hp)
        settings = {**self.base, **values}
        meta = settings["meta_batch_size"]
        x, y = self.train
        model.fit(
            x,
            y,
            batch_size=settings["batch_size"],
            epochs=epochs,
            verbose=0,
            callbacks=[MetricsLog(folder / "metrics.csv")],
            meta_data=x if meta else None,
            meta_batch_size=meta or None,
        )
        scores = self.scores(model)
        model.classifier.save_weights(folder / "classifier.weights.h5")
        known = {"settings": values, "epochs": epochs, "scores": scores}
        write_json(record, known)
        return scores

    def scores(self, model):
        """What a trained model comes to under each objective."""
        x, y = self.held_out
        size = min(BATCH, len(x))
        whole = len(x) // size * size  # CLID depends on the size of a batch
        scores = {
            "noisy_accuracy": accuracy(model, x, y),
            "val_clid_ref": float(
                model.evaluate(x[:whole], batch_size=size, verbose=0, return_dict=True)[
                    "clid"
                ]
            ),
        }
        if self.clean is not None:
            scores["clean_accuracy"] = accuracy(model, *self.clean)
        return scores

    def load(self, number, hp):
        """Returns the model of a trial as it was after its last epoch."""
        model = self.build(hp)
        model.build(self.train[0].shape)
        model.classifier.load_weights(self.folder(number) / "classifier.weights.h5")
        return model

    def folder(self, number):
        return self.directory / "trials" / f"{number:03d}"


def split(data, share, seed):
    """Returns `(x, y)` to train on and `(x, y)` to judge by."""
    try:
        x, y = (np.asarray(part) for part in data)
        if not 0 < share < 1:
            raise ValueError(f"holdout must be between 0 and 1; received {share}.")
        x, xh, y, yh = train_test_split(x, y, test_size=share, random_state=seed)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "data must be (x, noisy_y), arrays of one length, and holdout leave some "
            f"on either side: {error}"
        ) from error
    return (x, y), (xh, yh)


def with_rate(optimizer, rate):
    """Returns a new optimizer like this one, with this learning rate if not `None`."""
    config = optimizer.get_config()
    if rate is not None:
        if isinstance(config["learning_rate"], dict):
            raise ValueError(
                f"The learning rate of {optimizer.name!r} follows a schedule, so it "
                "can't be searched: give a number, or leave it out of space."
            )
        config["learning_rate"] = rate
    return type(optimizer).from_config(config)


def accuracy(model, x, y):
    """Accuracy of a compiled model."""
    return float(model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"])


def claim(directory, identity, overwrite):
    """Makes the directory this search's, or finds that it already is."""
    record = directory / "search.json"
    if overwrite:
        shutil.rmtree(directory / "trials", ignore_errors=True)
    elif record.exists() and json.loads(record.read_text()) != identity:
        raise UserError(
            f"directory={str(directory)!r} holds another search: choose another, or "
            "give overwrite=True."
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(record, identity)
