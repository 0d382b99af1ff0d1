"""How well each label-free objective of a search finds the run with the best accuracy.

    python -m benchmarks.tune_objectives --workdir=runs/tune_objectives

Random searches of 30 trials on digits under three kinds of label noise, over all that
`--tune_space` has but the weight net and the meta batch. A search knows noisy labels
alone; accuracy on clean test labels is looked up afterwards. Spearman's correlation
is between an objective (its sign turned where lower is better) and that accuracy over
the trials; "lost" is the accuracy of the best trial of all less that of the objective's
choice. A search that was cut goes on.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import pandas as pd
from scipy.stats import spearmanr

from benchmarks import report
from benchmarks.accuracy import NOISES

SPACE = "temperature,batch_size,learning_rate,meta_learning_rate,warmup_epochs"
SIGNS = {"noisy_accuracy": 1, "val_clid_ref": -1}


def search(settings):
    """Runs one search, or goes on with it; returns its trials."""
    from clidmu_tf.runs import tasks as run
    from clidmu_tf.runs.config import Config

    config = Config(task="tune", tune_space=SPACE, **settings)
    run.TASKS["tune"](config)
    return pd.read_csv(pathlib.Path(config.workdir) / "trials.csv")


def judge(trials):
    """What each objective is worth on the trials of one search."""
    trials = trials.dropna(subset=list(SIGNS))  # those that diverged have no score
    accuracy = trials["clean_accuracy (oracle)"]
    for name, sign in SIGNS.items():
        chosen = accuracy[(sign * trials[name]).idxmax()]
        yield {
            "objective": name,
            "Spearman": spearmanr(sign * trials[name], accuracy).statistic,
            "accuracy of its choice": chosen,
            "lost": accuracy.max() - chosen,
            "oracle": accuracy.max(),
            "median trial": accuracy.median(),
            "trials": len(trials),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    shared = {"trials": arguments.trials, "epochs": arguments.epochs}
    searches = [
        {**noise, **shared, "workdir": f"{arguments.workdir}/{noise['noise']}"}
        for noise in NOISES.values()
    ]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.workers, context) as pool:
        tables = pool.map(search, searches)
        rows = [
            {"noise": noise, **row}
            for noise, trials in zip(NOISES, tables, strict=True)
            for row in judge(trials)
        ]
    report.write("tune_objectives", pd.DataFrame(rows).round(3))


if __name__ == "__main__":
    main()
