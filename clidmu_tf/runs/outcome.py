"""What a finished run leaves in its workdir, and prints."""

from typing import Any

import keras

from clidmu_tf.engine.callbacks import SnapshotEnsemble
from clidmu_tf.files import write_atomically
from clidmu_tf.reports import figures
from clidmu_tf.runs import evaluation, label_issues
from clidmu_tf.runs.datasets import wrong_share
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.training import Rows
from clidmu_tf.runs.workdir import Workdir

TEST, GIVEN = "test labels", "held-out given labels, some of which may be wrong"


def finish(
    experiment: Experiment,
    workdir: Workdir,
    snapshots: SnapshotEnsemble,
    rows: Rows,
    is_trial: bool = False,
    beside: str = "",
) -> None:
    """Writes what a finished run leaves, and prints it.

    Args:
        experiment: What was trained.
        workdir: The run's workdir.
        snapshots: Its snapshots.
        rows: Its metrics, one dict an epoch.
        is_trial: Whether it is a trial of a search, which leaves numbers alone.
        beside: Workdir of a finished run to show beside it, or `""`.
    """
    model, ensemble = experiment.model, snapshots.ensemble()
    summary = summarize(experiment, ensemble, rows)
    if not is_trial:
        panels = figures.panels_of(experiment.source.test_is_given)
        write_atomically(
            workdir.curves, lambda file: figures.curves(rows, file, panels=panels)
        )
        issues = label_issues.write(
            *(model, experiment.data, snapshots, rows, workdir, experiment.title)
        )
        label_issues.draw_weights(issues, experiment.source.train, workdir)
        experiment.export(model.served, workdir.export)
        experiment.export(ensemble, workdir.export_ensemble)
    workdir.write_summary(summary)
    if not is_trial:
        print_summary(workdir, beside)


def summarize(
    experiment: Experiment, ensemble: keras.Model, rows: Rows
) -> dict[str, Any]:
    """What the run came to: test accuracies of which none chose an epoch."""
    source = experiment.source
    best = min(rows, key=lambda row: row["snapshot_clid"])
    summary = {
        "dataset": source.name,
        "method": experiment.method,
        "epochs": len(rows),
        "train_examples": len(source.train),
        "wrong_labels": wrong_share(source.train),
        "accuracy_on": measured_on(source.test_is_given),
        "last_accuracy": rows[-1]["val_accuracy"],
        "best_by_clid_accuracy": best["val_accuracy"],
        "best_by_clid_epoch": best["epoch"],
    }
    if experiment.settings["noise"] != "none":
        names = ("noise", "noise_rate")
        summary |= {name: experiment.settings[name] for name in names}
    found = evaluation.evaluate_model(ensemble, experiment.data)
    summary["snapshot_ensemble_accuracy"] = found["accuracy"]
    if "top5_accuracy" in found:
        summary["last_top5_accuracy"] = rows[-1]["val_top5_accuracy"]
        summary["best_by_clid_top5_accuracy"] = best["val_top5_accuracy"]
        summary["snapshot_ensemble_top5_accuracy"] = found["top5_accuracy"]
    if source.holdout is not None:
        summary["noisy_accuracy"] = rows[-1]["noisy_accuracy"]
        summary["val_clid_ref"] = evaluation.reference_clid(
            experiment.model, experiment.data, experiment.meta_examples
        )
    return summary


def measured_on(test_is_given: bool) -> str:
    """What the labels are that a run is tested on."""
    return GIVEN if test_is_given else TEST


def print_summary(workdir: Workdir, beside: str = "") -> None:
    """Prints the table of a finished run, and the last row of one beside it."""
    summary = workdir.read_summary()
    rows = [
        ("last epoch", "last", summary),
        (
            f"lowest CLID (epoch {summary['best_by_clid_epoch']})",
            "best_by_clid",
            summary,
        ),
        ("snapshot ensemble", "snapshot_ensemble", summary),
    ]
    if beside and Workdir(beside).finished():
        other = Workdir(beside).read_summary()
        rows.insert(0, (f"{other['method']}, last epoch", "last", other))
    elif beside:
        print(f"--beside={beside} holds no finished run to show.")
    # Of a run of an older version nobody wrote down what it was tested on.
    what = summary.get("accuracy_on", TEST)
    columns = {"accuracy": "accuracy", "top5_accuracy": "top-5"}
    columns = {k: v for k, v in columns.items() if f"last_{k}" in summary}
    wrong = summary["wrong_labels"]
    wrong = "unknown" if wrong is None else f"{wrong:.1%}"
    if summary.get("noise") == "symmetric":
        rate = f"{summary['noise_rate']:.0%}"
        wrong += f" ({rate} were redrawn, some of which came out right)"
    print(
        f"\n{summary['dataset']}, {summary['method']}: {summary['train_examples']} "
        f"training examples, {summary['epochs']} epochs,\nwrong labels {wrong}\n"
    )
    print(f"Accuracy on {what}:")
    print(f"{'model':<28}" + "".join(f"{title:>14}" for title in columns.values()))
    for name, row, of_run in rows:
        values = (of_run[f"{row}_{column}"] for column in columns)
        print(f"{name:<28}" + "".join(f"{value:>14.4f}" for value in values))
    if "noisy_accuracy" in summary:
        print(f"{'held-out noisy labels':<28}{summary['noisy_accuracy']:>14.4f}")
    print(f"\nEverything lies in {workdir.path}/")
