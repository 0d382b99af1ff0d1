"""Finding wrong labels: CLID-MU's audit beside loss ranking and cleanlab.

    python -m benchmarks.audit                     digits under three noises
    python -m benchmarks.audit --data_dir=…        and CIFAR-10N, worst labels: 10,000
                                                   images, one seed

In each row all ways see the same labels, and all but the SVM train the same network
with the same settings for as many epochs:

- CLID-MU audit: `clidmu.audit` of the network that was trained on these labels.
- loss ranking: the cross-entropy of each label after plain training on all of them.
- area under the margin: the mean over the epochs of that training of how far the given
  class's logit is above the largest other (Pleiss et al., NeurIPS 2020).
- cleanlab, network: cleanlab's label quality and label issues, with its defaults, of
  5-fold out-of-fold probabilities of that network, trained by cross-entropy.
- cleanlab, SVM: the same of scikit-learn's SVC (on digits alone).

AUROC and average precision rank the labels by quality; F1 is of the labels flagged by
each way's default threshold. Truth is used to report, and nothing is chosen on it.
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras
import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn import metrics
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.svm import SVC

from benchmarks import report
from benchmarks.accuracy import NOISES, train
from clidmu_tf.reports.audit import audit
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment

FOLDS = 5
DATA = {f"digits, {name}": noise for name, noise in NOISES.items()}
CIFAR = {
    "dataset": "cifar10_n",
    "label_key": "worse_label",
    "clean_label_key": "label",
    "train_examples": 10_000,
    "backbone": "small_cnn",
    "augment": "flip,crop",
    "epochs": 20,
}


def measure(name, settings, seed):
    """Runs every way on one data set; returns a row for each."""
    config = Config(**settings, seed=seed)
    source = Experiment(config).source
    is_wrong = source.train.labels != source.train.clean_labels
    rows = []
    for way, find in WAYS.items():
        if way == "cleanlab, SVM" and config.dataset != "digits":
            continue
        quality, flagged = find(config, source)
        rows.append(
            {
                "data": name,
                "wrong": is_wrong.mean(),
                "way": way,
                "seed": seed,
                **scores(is_wrong, quality, flagged),
            }
        )
        print(rows[-1], flush=True)
    return rows


def scores(is_wrong, quality, flagged):
    return {
        "AUROC": metrics.roc_auc_score(is_wrong, -quality),
        "average precision": metrics.average_precision_score(is_wrong, -quality),
        "F1": metrics.f1_score(is_wrong, flagged) if flagged is not None else np.nan,
    }


def clid_mu_audit(config, source):
    experiment = Experiment(config, source=source)
    snapshots = experiment.snapshots()
    model = train(experiment, [snapshots])
    issues = audit(model, *in_memory(source.train), snapshots=snapshots)
    return issues.label_quality.to_numpy(), issues.is_label_issue.to_numpy()


def loss_ranking(config, source):
    model = train(Experiment(config.replace(method="cross_entropy"), source=source))
    x, y = in_memory(source.train)
    return probabilities(model, x)[np.arange(len(y)), y], None


class Margins(keras.callbacks.Callback):
    """The mean over the epochs of each given label's margin."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.sum = x, y, 0.0

    def on_epoch_end(self, epoch, logs=None):
        logits = self.model.classifier.predict(self.x, batch_size=500, verbose=0)
        is_given = np.eye(logits.shape[1], dtype=bool)[self.y]
        others = np.where(is_given, -np.inf, logits).max(axis=1)
        self.sum += logits[is_given] - others


def area_under_the_margin(config, source):
    margins = Margins(*in_memory(source.train))
    plain = Experiment(config.replace(method="cross_entropy"), source=source)
    train(plain, [margins])
    return margins.sum, None


def cleanlab_network(config, source):
    found = np.zeros((len(source.train), len(source.class_names)))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=config.seed)
    for rest, fold in folds.split(found, source.train.labels):
        part = dataclasses.replace(source, train=source.train.take(rest))
        model = train(Experiment(config.replace(method="cross_entropy"), source=part))
        found[fold] = probabilities(model, in_memory(source.train.take(fold))[0])
    return cleanlab_finds(source.train.labels, found)


def cleanlab_svm(config, source):
    x, y = in_memory(source.train)
    svm = SVC(probability=True, random_state=config.seed)
    found = cross_val_predict(
        svm, x.reshape(len(x), -1) / 255, y, cv=FOLDS, method="predict_proba"
    )
    return cleanlab_finds(y, found)


def cleanlab_finds(labels, found):
    # Its processes would look for what a spawned process does not inherit.
    flagged = find_label_issues(labels, found, n_jobs=1)
    return get_label_quality_scores(labels, found), flagged


def probabilities(model, x):
    logits = model.classifier.predict(x, batch_size=500, verbose=0)
    return np.asarray(keras.ops.softmax(logits.astype("float64")))


def in_memory(split):
    return np.asarray(split.inputs, "float32"), split.labels


WAYS = {
    "CLID-MU audit": clid_mu_audit,
    "loss ranking": loss_ranking,
    "area under the margin": area_under_the_margin,
    "cleanlab, network": cleanlab_network,
    "cleanlab, SVM": cleanlab_svm,
}


def summary(rows):
    """Mean, and of several seeds ± standard deviation, one row a way and data set."""
    grouped = pd.DataFrame(rows).groupby(["data", "way"], sort=False)
    table = grouped[["AUROC", "average precision", "F1"]].agg(mean_and_deviation)
    table.insert(0, "wrong labels", grouped["wrong"].mean().map("{:.1%}".format))
    return table.reset_index()


def mean_and_deviation(values):
    if values.isna().all():
        return "–"
    deviation = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="", help="TFDS's folder, for CIFAR-10N")
    parser.add_argument("--only", default="", help="data whose name holds this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="0: as configured")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    data = {name: (settings, arguments.seeds) for name, settings in DATA.items()}
    if arguments.data_dir:
        cifar = {**CIFAR, "data_dir": arguments.data_dir}
        data["CIFAR-10N worst, 10,000"] = (cifar, 1)
    changes = {"epochs": arguments.epochs} if arguments.epochs else {}
    jobs = [
        (name, {**settings, **changes}, seed)
        for name, (settings, seeds) in data.items()
        for seed in range(seeds)
        if arguments.only in name
    ]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.workers, context) as pool:
        found = pool.map(measure, *zip(*jobs, strict=True))
        rows = [row for rows in found for row in rows]
    suffix = f"_{arguments.only}" if arguments.only else ""
    report.write(f"audit{suffix}", summary(rows))


if __name__ == "__main__":
    main()
