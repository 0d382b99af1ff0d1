"""Accuracy on digits under three kinds of label noise, mean ± standard deviation.

    python -m benchmarks.accuracy methods       every method × noise, 5 seeds
    python -m benchmarks.accuracy main          forms of CLID-MU × noise, 5 seeds
    python -m benchmarks.accuracy grid          CLID-MU over rates and batch sizes
    python -m benchmarks.accuracy cifar --data_dir=…   first 5,000 of CIFAR-10
    python -m benchmarks.accuracy ssl           100 labels, and with CLID-MU, 5 seeds
    python -m benchmarks.accuracy two_networks  two networks, and with CLID-MU, 5 seeds

Every run is that of the method's config in configs/ (digits.cfg, or a CIFAR config's
rates) but for what the table names; `methods` takes a network without dropout, so that
memorising shows (--with_dropout: with it).
Last-epoch test accuracy; nothing is chosen on test data. Tables go to
benchmarks/results/ with machine, versions and commit. A run's accuracy is kept beside
its table, in a .csv, as soon as it is known, and not measured again at the same commit,
nor where --keep names the one it was measured at.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import numpy as np
import pandas as pd

from benchmarks import report

NOISES = {
    "symmetric 60 %": {"noise": "symmetric", "noise_rate": 0.6},
    "pair flip 40 %": {"noise": "asymmetric", "noise_rate": 0.4},
    "instance 40 %": {"noise": "instance", "noise_rate": 0.4},
}
CLID = {"meta_objective": "clid"}
PAPER = {**CLID, "class_balance": False, "prior_penalty": 0.0}
VRI = {**CLID, "weight_net": "vri", "warmup_epochs": 10}
WITHOUT_NOISE = {"clean labels": {"noise": "none", "noise_rate": 0.0}}
# The network of configs/digits.cfg, but for its dropout; and with it.
PLAIN_NETWORK = {"backbone": "digits_cnn_plain"}
NETWORK = {"backbone": "digits_cnn"}
CONFIGS = {"clid_mu": "digits", "cross_entropy": "digits"}  # the others have their own
FORMS = {
    "cross-entropy": {"method": "cross_entropy"},
    "CLID-MU, default": {},
    "CLID-MU, WNet, CLID": CLID,
    "CLID-MU, WNet, the paper's form": PAPER,
    "CLID-MU, VRI": VRI,
    "CLID-MU, VRI, the paper's form": {**PAPER, "weight_net": "vri"},
    "CLID-MU, WNet, meta_interval 5": {**CLID, "meta_interval": 5},
    "CLID-MU, WNet, meta_interval 5, meta rate × 5": {
        **CLID,
        "meta_interval": 5,
        "meta_learning_rate": 5e-3,
    },
    "CLID-MU, WNet, virtual last_block": {**CLID, "virtual_scope": "last_block"},
    "CLID-MU, WNet, virtual head": {**CLID, "virtual_scope": "head"},
}
SUPPORT_VECTORS = ("SVM", "SVM, cleanlab")
# What is compared with the methods beside them: by which of them, and its settings.
FURTHER = {"clid_mu, full trust": ("clid_mu", {"clid_mu_full_trust": True})}
# 100 labels, the rest of digits without; as many steps for all.
FEW_LABELS = {
    **PLAIN_NETWORK,
    "num_labels": 100,
    "augment": "crop:1",
    "strong_augment": "crop:1,randaugment",
    "batch_size": 50,
    "steps_per_epoch": 50,
    "epochs": 40,
}
SSL_NOISES = {
    "clean labels": {"noise": "none", "noise_rate": 0.0},
    "symmetric 40 %": {"noise": "symmetric", "noise_rate": 0.4},
    "pair flip 40 %": {"noise": "asymmetric", "noise_rate": 0.4},
}
SSL = {"FixMatch": "fixmatch", "FlexMatch": "flexmatch", "UDA": "uda"}
OF_SSL = {"unlabeled_ratio": 4, "ema_momentum": 0.99}
PAIRS_NOISES = {
    "symmetric 60 %": {"noise": "symmetric", "noise_rate": 0.6},
    "symmetric 80 %": {"noise": "symmetric", "noise_rate": 0.8},
    "pair flip 40 %": {"noise": "asymmetric", "noise_rate": 0.4},
    "instance 40 %": {"noise": "instance", "noise_rate": 0.4},
}
# One configuration for all noises, as nobody knows which it is.
PAIRS = {
    "co-teaching": ("co_teaching", {"co_teaching_forget_rate": 0.4}),
    "DivideMix": (
        "dividemix",
        {"dividemix_warmup_epochs": 10, "dividemix_unlabeled_weight": 0.0},
    ),
}
CIFAR = {
    "dataset": "cifar10",
    "train_examples": 5000,
    "backbone": "small_cnn",
    "epochs": 40,
    "augment": "flip,crop",
    "noise": "symmetric",
    "noise_rate": 0.6,
}
CIFAR_METHODS = {
    "cross-entropy": {"method": "cross_entropy"},
    "CLID-MU, Adam 1e-4, 8 epochs warm-up": {
        **CLID,
        "meta_learning_rate": 1e-4,
        "warmup_epochs": 8,
    },
    "CLID-MU, SGD 1e-5 (cifar10_sym60_wnet.cfg)": {
        **CLID,
        "meta_optimizer": "sgd",
        "meta_learning_rate": 1e-5,
    },
    "CLID-MU, default": {},
    "CLID-MU, Adam 1e-3": CLID,
    "oracle, clean meta labels": {
        "meta_objective": "cross_entropy",
        "meta_batch_size": 100,
        "clean_label_key": "label",
        "meta_learning_rate": 1e-4,
    },
}


def accuracy(settings):
    """Trains one run and returns its last-epoch test accuracy."""
    if settings.get("method") in SUPPORT_VECTORS:
        return support_vectors(settings)
    import keras

    from clidmu_tf.runs import evaluation
    from clidmu_tf.runs.config import Config
    from clidmu_tf.runs.experiment import Experiment

    experiment = Experiment(Config(**settings))
    classifier = train(experiment).served
    found = evaluation.evaluate_model(classifier, experiment.data)["accuracy"]
    keras.backend.clear_session()
    return found


def support_vectors(settings):
    """Test accuracy of an SVM of the pixels, on the labels as they are or filtered."""
    from sklearn.svm import SVC

    from clidmu_tf.runs.config import Config
    from clidmu_tf.runs.experiment import Experiment

    is_filtered = settings["method"] == SUPPORT_VECTORS[1]
    config = Config(**{**settings, "method": "cross_entropy"})
    source = Experiment(config).source
    train, test = (
        (split.inputs.reshape(len(split), -1) / 255.0, split.labels)
        for split in (source.train, source.test)
    )
    model = SVC(probability=is_filtered, random_state=0)
    if is_filtered:
        from cleanlab.classification import CleanLearning

        model = CleanLearning(model, seed=0, find_label_issues_kwargs={"n_jobs": 1})
    return float(np.mean(model.fit(*train).predict(test[0]) == test[1]))


def train(experiment, callbacks=()):
    """Trains an experiment's model to its last epoch and returns it."""
    experiment.model.fit(
        **experiment.fit_arguments(),
        epochs=experiment.epochs,
        steps_per_epoch=experiment.described.steps,
        verbose=0,
        callbacks=list(callbacks),
    )
    return experiment.model


def table_of(rows, keys, workers, path, keep=()):
    """Runs every row, in parallel.

    Returns:
        The mean and deviation over the seeds, and the commits they are of.
    """
    known = report.measured(path)
    known = [row for row in known if row["commit"] in (report.commit(), *keep)]
    done = {tuple(row[key] for key in (*keys, "seed")) for row in known}
    rows = [r for r in rows if tuple(r[key] for key in (*keys, "seed")) not in done]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        found = pool.map(accuracy, [row.pop("settings") for row in rows])
        for row, value in zip(rows, found, strict=True):
            print(row, f"{value:.3f}", flush=True)
            known.append({**row, "accuracy": value, "commit": report.commit()})
            pd.DataFrame(known).to_csv(path, index=False)
    known = pd.DataFrame(known)
    grouped = known.groupby(list(keys), sort=False)["accuracy"]
    table = grouped.agg(["mean", "std", "min", "count"]).round(3).reset_index()
    return table, known["commit"].unique()


def methods_rows(seeds, only, noises, network=PLAIN_NETWORK):
    """Every method of the registry as its config has it, the noise exchanged."""
    from clidmu_tf.methods import METHODS

    kinds = {**NOISES, **WITHOUT_NOISE}
    names = [*METHODS, *FURTHER, *SUPPORT_VECTORS]
    for (noise, n), name, seed in itertools.product(kinds.items(), names, seeds):
        if only in name and noises in noise:
            method, own = FURTHER.get(name, (name, {}))
            given = {} if name in SUPPORT_VECTORS else config_of(method)
            settings = {**given, **network, **n, **own, "method": method, "seed": seed}
            yield {"noise": noise, "method": name, "seed": seed, "settings": settings}


def config_of(method):
    """The settings of a method's config for digits."""
    from clidmu_tf.methods import METHODS, flags_of
    from clidmu_tf.runs import config

    path = report.RESULTS.parents[1] / "configs" / f"{CONFIGS.get(method, method)}.cfg"
    given = {flag for name in METHODS for flag in flags_of(name)} - {*flags_of(method)}
    settings = dataclasses.asdict(config.read(path))
    return {name: value for name, value in settings.items() if name not in given}


def main_rows(seeds, only, noises):
    for (noise, n), (method, m), seed in itertools.product(
        NOISES.items(), FORMS.items(), seeds
    ):
        if only in method and noises in noise:
            settings = {**n, **m, "seed": seed}
            yield {"noise": noise, "method": method, "seed": seed, "settings": settings}


def with_and_without(name, method, settings):
    """A method's settings by its name, alone and inside of CLID-MU."""
    yield name, {"method": method, **settings}
    yield f"{name} + CLID-MU", {"method": "clid_mu", "inner": method, **settings}


def ssl_rows(seeds, only, noises):
    """Few labels: on their own, with the other examples, and those weighed."""
    found = {"supervised": {"method": "cross_entropy"}}
    for name, method in SSL.items():
        found |= with_and_without(name, method, OF_SSL)
    for (noise, n), (name, m), seed in itertools.product(
        SSL_NOISES.items(), found.items(), seeds
    ):
        if only in name and noises in noise:
            settings = {**FEW_LABELS, **n, **m, "seed": seed}
            yield {"noise": noise, "method": name, "seed": seed, "settings": settings}


def two_networks_rows(seeds, only, noises):
    """Two networks that choose or divide for each other; and their labels weighed."""
    found = {}
    for name, (method, own) in PAIRS.items():
        found |= with_and_without(name, method, own)
        slow = {**found[f"{name} + CLID-MU"], "meta_learning_rate": 1e-4}
        found[f"{name} + CLID-MU, meta rate 1e-4"] = slow
    for (noise, n), (name, m), seed in itertools.product(
        PAIRS_NOISES.items(), found.items(), seeds
    ):
        if only in name and noises in noise:
            settings = {**PLAIN_NETWORK, **n, **m, "seed": seed}
            yield {"noise": noise, "method": name, "seed": seed, "settings": settings}


def grid_rows(seeds):
    rates, meta_rates, sizes = (0.02, 0.05), (3e-4, 1e-3, 3e-3), (100, 20)
    kinds = [(name, NOISES[name]) for name in ("symmetric 60 %", "pair flip 40 %")]
    for (noise, n), size, rate, meta, seed in itertools.product(
        kinds, sizes, rates, meta_rates, seeds
    ):
        named = {"noise": noise, "batch": size, "rate": rate, "meta rate": meta}
        settings = {
            **n,
            "learning_rate": rate,
            "meta_learning_rate": meta,
            "batch_size": size,
            "seed": seed,
        }
        yield {**named, "seed": seed, "settings": settings}


def cifar_rows(seeds, only, data_dir):
    for (method, m), seed in itertools.product(CIFAR_METHODS.items(), seeds):
        if only in method:
            settings = {**CIFAR, **m, "data_dir": data_dir, "seed": seed}
            yield {"method": method, "seed": seed, "settings": settings}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    by_noise = {
        "methods": methods_rows,
        "main": main_rows,
        "ssl": ssl_rows,
        "two_networks": two_networks_rows,
    }
    parser.add_argument("part", choices=[*by_noise, "grid", "cifar"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="methods whose name holds this")
    parser.add_argument("--noise", default="", help="noises whose name holds this")
    parser.add_argument("--skip", nargs="*", default=[], help="methods left out")
    parser.add_argument("--keep", nargs="*", default=[], help="commits to reuse")
    parser.add_argument("--with_dropout", action="store_true", help="of methods")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    name = f"accuracy_{arguments.part}"
    if arguments.part in by_noise:
        make = by_noise[arguments.part]
        if arguments.with_dropout:
            make = functools.partial(methods_rows, network=NETWORK)
            name += "_dropout"
        rows = make(seeds, arguments.only, arguments.noise)
        rows = [row for row in rows if row["method"] not in arguments.skip]
        keys = ("noise", "method")
    elif arguments.part == "grid":
        rows, keys = grid_rows(seeds), ("noise", "batch", "rate", "meta rate")
    else:
        rows = cifar_rows(seeds, arguments.only, arguments.data_dir)
        keys = ("method",)
    report.RESULTS.mkdir(exist_ok=True)
    path = report.RESULTS / f"{name}.csv"
    kept = arguments.keep
    report.write(name, *table_of(list(rows), keys, arguments.workers, path, kept))


if __name__ == "__main__":
    main()
