"""What a finished run leaves in its workdir, and prints."""

from clidmu_tf.files import write_atomically
from clidmu_tf.reports import figures
from clidmu_tf.runs import datasets, evaluation, export, label_issues


def finish(config, source, model, workdir, snapshots, log, is_trial=False):
    """Writes what a finished run leaves, and prints it."""
    rows, classes = log.rows, source.class_names
    ensemble = snapshots.ensemble()
    best = min(rows, key=lambda row: row["snapshot_clid"])
    summary = {
        "dataset": source.name,
        "method": config.method,
        "epochs": len(rows),
        "train_examples": len(source.train),
        "wrong_labels": datasets.wrong_share(source.train),
        "last_accuracy": rows[-1]["val_accuracy"],
        "best_by_clid_accuracy": best["val_accuracy"],
        "best_by_clid_epoch": best["epoch"],
    }
    found = evaluation.evaluate_model(ensemble, source, config)
    summary["snapshot_ensemble_accuracy"] = found["accuracy"]
    if "top5_accuracy" in found:
        summary["last_top5_accuracy"] = rows[-1]["val_top5_accuracy"]
        summary["best_by_clid_top5_accuracy"] = best["val_top5_accuracy"]
        summary["snapshot_ensemble_top5_accuracy"] = found["top5_accuracy"]
    if source.holdout is not None:
        summary["noisy_accuracy"] = rows[-1]["noisy_accuracy"]
        summary["val_clid_ref"] = evaluation.reference_clid(model, source, config)
    if not is_trial:
        write_atomically(workdir.curves, lambda file: figures.curves(rows, file))
        issues = label_issues.write(config, source, model, workdir, snapshots, rows)
        label_issues.draw_weights(issues, source.train, workdir)
        how = (source.image_shape, classes, config.resize_size)
        export.export(model.classifier, workdir.export, *how)
        export.export(ensemble, workdir.export_ensemble, *how)
    workdir.write_summary(summary)
    if not is_trial:
        print_summary(workdir)


def print_summary(workdir):
    """Prints the table of a finished run."""
    summary = workdir.read_summary()
    rows = [
        ("last epoch", "last"),
        (f"lowest CLID (epoch {summary['best_by_clid_epoch']})", "best_by_clid"),
        ("snapshot ensemble", "snapshot_ensemble"),
    ]
    columns = {"accuracy": "test accuracy", "top5_accuracy": "top-5"}
    columns = {k: v for k, v in columns.items() if f"last_{k}" in summary}
    wrong = summary["wrong_labels"]
    wrong = "unknown" if wrong is None else f"{wrong:.1%}"
    print(
        f"\n{summary['dataset']}, {summary['method']}: {summary['train_examples']} "
        f"training examples, wrong labels {wrong}, {summary['epochs']} epochs\n"
    )
    print(f"{'model':<28}" + "".join(f"{title:>14}" for title in columns.values()))
    for name, row in rows:
        values = (summary[f"{row}_{column}"] for column in columns)
        print(f"{name:<28}" + "".join(f"{value:>14.4f}" for value in values))
    if "noisy_accuracy" in summary:
        print(f"{'held-out noisy labels':<28}{summary['noisy_accuracy']:>14.4f}")
    print(f"\nEverything lies in {workdir.path}/")
