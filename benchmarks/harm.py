"""Does a method harm? One configuration each, on data of many kinds.

    python -m benchmarks.harm --data_dir=… --hausa_dir=…

Rows are data sets, clean and with drawn, human or rule-made noise (`harm_data`), and
nothing but network and epochs differs between them: SGD 0.02 with momentum 0.9 and the
package's defaults. Last epoch, nothing chosen on test data, 3 seeds. It goes on where
it was stopped: a result is kept as soon as it is known. Leaves harm.csv, harm.md and
harm.png in benchmarks/results/. The last two columns need cleanlab (pip install
cleanlab), which the package itself does not.
"""

import argparse
import concurrent.futures
import multiprocessing
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import numpy as np
import pandas as pd

from benchmarks import report

META_EXAMPLES = 1000


def cross_entropy(classifier, seed):
    import clidmu_tf as clidmu

    return clidmu.CrossEntropy(classifier)


def default(classifier, seed, **settings):
    import clidmu_tf as clidmu

    return clidmu.CLIDMU(classifier, seed=seed, **settings)


def clid(classifier, seed, **settings):
    return default(classifier, seed, meta_objective="clid", **settings)


def paper(classifier, seed):
    return clid(classifier, seed, class_balance=False, prior_penalty=0.0)


def oracle(classifier, seed):
    return default(classifier, seed, meta_objective="cross_entropy")


METHODS = {
    "cross-entropy": cross_entropy,
    "CLID-MU, default": default,
    "CLID-MU, judged by CLID": clid,
    "CLID-MU, the paper's form": paper,
    "oracle: clean meta labels": oracle,
}
# What tables and texts can be given to beside networks.
OTHERS = ("logistic regression", "logistic regression, cleanlab")


def score(job):
    """Trains one run; returns the row's metric on its test data, NaN if it diverged."""
    from benchmarks import harm_data
    from clidmu_tf.errors import TrainingDiverged

    method, name, seed, folders = job
    row = {row.name: row for row in harm_data.rows(**folders)}[name]
    data = row.load(seed=seed)
    if method in OTHERS:
        predicted = without_network(method, data)
    else:
        try:
            predicted = train(METHODS[method], row, data, seed)
        except TrainingDiverged:
            return float("nan")
    return row.score(data.y_test, predicted)


def train(make, row, data, seed):
    """Trains the row's network by a method and returns its predictions."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = make(row.network(data, seed), seed)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    meta = {}
    if model.is_supervised:
        chosen = np.random.default_rng(seed).permutation(len(data.clean_y))
        chosen = chosen[:META_EXAMPLES]
        meta = {
            "meta_data": (
                data.x_train[chosen].astype("float32"),
                data.clean_y[chosen],
            )
        }
    is_images = data.x_train.ndim > 2
    batches = image_batches if is_images else array_batches
    model.fit(**batches(row, data, seed), epochs=row.epochs, verbose=0, **meta)
    found = model.predict(data.x_test.astype("float32"), batch_size=500, verbose=0)
    return found.argmax(-1)


def array_batches(row, data, seed):
    """Arrays, as `fit` takes them."""
    return {"x": data.x_train, "y": data.noisy_y, "batch_size": row.batch_size}


def image_batches(row, data, seed):
    """The package's own pipeline, which augments."""
    from clidmu_tf.data import Split, augment, training_batches

    ids = np.arange(len(data.noisy_y)).astype(str)
    dataset = training_batches(
        Split(data.x_train, data.noisy_y.astype("int64"), None, ids),
        batch_size=row.batch_size,
        seed=seed,
        image_shape=data.x_train.shape[1:],
        augment=augment.build(row.augment),
    )
    steps = len(data.noisy_y) // row.batch_size
    return {"x": dataset, "steps_per_epoch": steps, "shuffle": False}


def without_network(method, data):
    """Logistic regression, on the labels as they are or as cleanlab filters them."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=2000)
    if method == "logistic regression":
        return model.fit(data.x_train, data.noisy_y).predict(data.x_test)
    from cleanlab.classification import CleanLearning

    learner = CleanLearning(model, find_label_issues_kwargs={"n_jobs": 1})
    return learner.fit(data.x_train, data.noisy_y).predict(data.x_test)


def jobs_of(arguments, folders):
    """What is to be run, the methods of a row side by side."""
    from benchmarks import harm_data

    for row in harm_data.rows(**folders):
        if arguments.row not in row.name:
            continue
        is_image = row.network.__class__.__name__ == "partial"
        methods = [m for m in (*METHODS, *OTHERS) if arguments.only in m]
        for seed in range(arguments.seeds):
            for method in methods:
                if not (method in OTHERS and is_image):
                    yield {"data": row.name, "method": method, "seed": seed}


def run(jobs, folders, workers, path):
    """Runs the jobs that are not known yet, in parallel; returns all results."""
    import keras

    known = report.measured(path)
    done = {(row["data"], row["method"], row["seed"]) for row in known}
    jobs = [j for j in jobs if (j["data"], j["method"], j["seed"]) not in done]
    bar = keras.utils.Progbar(len(jobs), unit_name="run")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        futures = {
            pool.submit(score, (j["method"], j["data"], j["seed"], folders)): j
            for j in jobs
        }
        for future in concurrent.futures.as_completed(futures):
            value = future.result()
            known.append({**futures[future], "score": value, "commit": report.commit()})
            pd.DataFrame(known).to_csv(path, index=False)
            bar.add(1)
    return pd.DataFrame(known)


def table_of(results):
    """Mean ± deviation, a row a data set and a column a method, in their order."""
    order = {
        "data": list(dict.fromkeys(results.data)),
        "method": [m for m in (*METHODS, *OTHERS) if m in set(results.method)],
    }
    grouped = results.groupby(["data", "method"])["score"]
    cells = grouped.agg(["mean", "std", "count", "size"])
    cells["text"] = [_cell(*values) for values in cells.itertuples(index=False)]
    table = cells.text.unstack().reindex(index=order["data"], columns=order["method"])
    return table.fillna("").reset_index()


def _cell(mean, std, count, size):
    """Of the runs that came to their end, and how many did not."""
    text = f"{mean:.3f}" if count else ""
    text += f" ± {std:.3f}" if count > 1 else ""
    return text + (f" ({size - count} diverged)" if count < size else "")


def draw(results, path):
    """Draws each method's difference to cross-entropy, by data set."""
    from matplotlib.figure import Figure

    means = results.groupby(["data", "method"])["score"].mean().unstack()
    names = list(dict.fromkeys(results.data))[::-1]
    difference = means.sub(means["cross-entropy"], axis=0).loc[names]
    figure = Figure(figsize=(9, 0.36 * len(names) + 1.4), layout="constrained")
    axis = figure.subplots()
    shown = [m for m in METHODS if m in difference and m != "cross-entropy"]
    for number, method in enumerate(shown):
        axis.plot(
            100 * difference[method],
            np.arange(len(names)),
            "o" if number == 0 else ".",
            markersize=9 if number == 0 else 7,
            label=method,
            zorder=3 if number == 0 else 2,
        )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.axvspan(-1, 0, color="black", alpha=0.08, linewidth=0)
    axis.set_yticks(np.arange(len(names)), names)
    axis.set_xlabel("points more than cross-entropy (accuracy, or balanced accuracy)")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper center", bbox_to_anchor=(0.3, -0.08), ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="TFDS's folder, for the rows of CIFAR")
    parser.add_argument("--hausa_dir", help="the Hausa headlines, for their row")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="methods whose name holds this")
    parser.add_argument("--row", default="", help="data whose name holds this")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    folders = {"tfds_dir": arguments.data_dir, "hausa_dir": arguments.hausa_dir}
    report.RESULTS.mkdir(exist_ok=True)
    path = report.RESULTS / "harm.csv"
    jobs = list(jobs_of(arguments, folders))
    results = run(jobs, folders, arguments.workers, path)
    report.write("harm", table_of(results), results["commit"].unique())
    draw(results, report.RESULTS / "harm.png")


if __name__ == "__main__":
    main()
