"""A run from a Config: train, tune, evaluate, audit, export."""

import contextlib
import dataclasses
import functools
import signal
import sys

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams_api

from clidmu_tf.engine.callbacks import MetricsLog, SnapshotEnsemble, WeightHistogram
from clidmu_tf.engine.checkpoints import Checkpointer
from clidmu_tf.errors import UserError
from clidmu_tf.files import write_atomically
from clidmu_tf.reports import figures
from clidmu_tf.runs import (
    evaluation,
    experiment,
    export,
    label_issues,
    prepare,
    strategies,
)
from clidmu_tf.runs.workdir import FREE, Workdir


def train(config, is_trial=False):
    """Trains, or goes on with, the run that a Config describes.

    Args:
        config: A `Config`.
        is_trial: Whether it is a trial of a search, which keeps quiet and leaves
            numbers alone: no pictures, no audit, no exports.
    """
    strategy = strategies.make(config.strategy)
    chief = strategies.is_chief(strategy)
    workdir = Workdir(config.workdir)
    if chief:
        workdir.check(config)
    if workdir.finished():
        if not is_trial:
            print(f"This run is finished; remove {workdir.path} to run it again.")
            print_summary(workdir)
        return
    source = experiment.noisy_source(config)
    steps = experiment.steps_per_epoch(config, source)
    keras.utils.set_random_seed(config.seed)
    with strategies.scope(strategy):
        model = experiment.build_model(config, source, steps, len(source.train))
    # Whatever is wrong with the settings shows before the folder is taken.
    experiment.batches(config, source, strategy, 0, config.batch_size)
    experiment.meta_arguments(config, source, strategy, 0)
    if chief:
        workdir.claim(config)
        workdir.write_source(source, steps)
        if config.unused() and not is_trial:
            unused = " ".join(config.unused())
            print(f"--method={config.method} makes no use of {unused}.")
    fit(config, source, steps, model, strategy, workdir, chief, is_trial)


def fit(config, source, steps, model, strategy, workdir, chief, is_trial=False):
    """Trains from where the workdir's last checkpoint is to the end."""
    test = evaluation.Evaluation(source, config)
    log = MetricsLog(workdir.metrics)
    saver = Checkpointer(
        workdir.checkpoints,
        log,
        config.checkpoint_every,
        writes=chief,
        workers=strategies.workers(strategy),
    )
    snapshots = snapshot_ensemble(config, source, model, workdir)
    done = saver.restore(model)
    if done:
        snapshots.restore(before_epoch=done // steps)
        print(f"Going on at step {done} of {steps * config.epochs}.")
    writers = [test, snapshots, log, tensorboard(workdir)] if chief else []
    if chief and model.takes_meta_optimizer:
        labels = experiment.meta_split(config, source).labels
        writers += [WeightHistogram(snapshots.data, labels, workdir.tensorboard)]
    if chief:
        write_hparams(config, workdir)
    # A progress bar on a terminal, a line an epoch in a log.
    verbose = 0 if is_trial else 1 if sys.stdout.isatty() else 2
    with terminate_by(saver):
        for first, last, size in segments(done, steps, config.epochs):
            model.fit(
                experiment.batches(
                    *(config, source, strategy, done, config.batch_size),
                    indexed=bool(model.memory()),
                ),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=size,
                shuffle=False,
                verbose=verbose,
                callbacks=[*writers, saver],
                num_examples=len(source.train),
                examples=experiment.SplitExamples(config, source, strategy),
                **experiment.meta_arguments(config, source, strategy, done),
            )
            done = last * steps
    if chief:
        finish(config, source, model, workdir, snapshots, log, is_trial)


def segments(done, steps, epochs):
    """Cuts what is left of a run into `fit` calls: the rest of an epoch, the rest.

    Returns:
        A list of `(initial_epoch, epochs, steps_per_epoch)`.
    """
    epoch, inside = divmod(done, steps)
    first = [(epoch, epoch + 1, steps - inside)] if inside else []
    epoch += bool(inside)
    return first + ([(epoch, epochs, steps)] if epoch < epochs else [])


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
        "wrong_labels": experiment.wrong_share(source.train),
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


def evaluate(config):
    """Evaluates what a finished workdir exported, and prints the accuracy."""
    workdir = Workdir(config.workdir)
    trained = settings_of(workdir, config)
    if not workdir.finished():
        raise UserError(
            f"--workdir={workdir.path} holds a run that is not finished: go on with it "
            "first, by --task=train."
        )
    source = experiment.load_source(trained)
    for name, path in [
        ("classifier", workdir.export),
        ("snapshot ensemble", workdir.export_ensemble),
    ]:
        serve = export.load(path)
        hits, near = [], []
        for x, y in experiment.raw_test(source, trained):
            found = serve(x)
            hits.append(found["labels"] == y)
            near.append(tf.math.in_top_k(y, found["probabilities"], 5))
        hits, near = np.concatenate(hits), np.concatenate(near)
        top5 = evaluation.top5_metrics(source)
        more = f", top-5 {near.mean():.4f}" if top5 else ""
        print(
            f"{name:<18} test accuracy {hits.mean():.4f}{more}  ({len(hits)} examples)"
        )


def export_task(config):
    """Exports the last checkpoint of a workdir, also of a run not yet finished.

    It takes the workdir alone: the data may be gone.
    """
    workdir = Workdir(config.workdir)
    trained = settings_of(workdir, config)
    source = workdir.read_source()
    model, step, _ = restored(
        *(workdir, trained, source, source.steps, source.num_examples)
    )
    export.export(
        model.classifier,
        workdir.export,
        source.image_shape,
        source.class_names,
        trained.resize_size,
    )
    print(f"The model as of step {step} is in {workdir.export}")


def audit_task(config):
    """Audits the training labels of a workdir by its last checkpoint."""
    workdir = Workdir(config.workdir)
    trained = settings_of(workdir, config)
    source = experiment.noisy_source(trained)
    steps = experiment.steps_per_epoch(trained, source)
    model, _, rows = restored(workdir, trained, source, steps, len(source.train))
    snapshots = snapshot_ensemble(trained, source, model, workdir)
    snapshots.restore(before_epoch=len(rows))
    issues = label_issues.write(trained, source, model, workdir, snapshots, rows)
    print(
        f"{issues.is_label_issue.sum()} of {len(issues)} labels are likely wrong: see "
        f"{workdir.report} and {workdir.label_issues}"
    )


def restored(workdir, trained, source, steps, num_examples):
    """Returns a workdir's model at its last checkpoint, the step, and the metrics."""
    model = experiment.build_model(trained, source, steps, num_examples)
    log = MetricsLog(workdir.metrics)
    step = Checkpointer(workdir.checkpoints, log).restore(model)
    if not step:
        raise UserError(f"--workdir={workdir.path} holds no checkpoint yet.")
    return model, step, log.rows


def settings_of(workdir, config):
    """The settings of a run, but for where the data are now, and which are tested.

    Raises:
        UserError: There is no run, or others of its settings are asked for.
    """
    trained = workdir.read_config()
    if trained.task == "tune":
        raise UserError(
            f"--workdir={workdir.path} holds a search: give one of its trials, in "
            f"{workdir.trials}."
        )
    free = (*FREE, "test_split")
    given = set(config.given(but=free))
    others = [d for d in trained.differences(config, but=free) if d in given]
    if others:
        raise UserError(
            f"--task={config.task} goes by the settings of the run in "
            f"--workdir={workdir.path}, which differs in {' '.join(others)}: leave "
            "them out, or name the workdir of another run."
        )
    data_dir = config.data_dir or trained.data_dir
    test_split = config.test_split or trained.test_split
    return trained.replace(data_dir=data_dir, test_split=test_split, init_weights="")


def tune(config):
    """Searches settings: every trial is a run like any other."""
    from clidmu_tf.runs import trials  # with KerasTuner, for which no run need wait

    trials.search(config, functools.partial(train, is_trial=True))


TASKS = {
    "prepare": prepare.prepare,
    "train": train,
    "tune": tune,
    "evaluate": evaluate,
    "audit": audit_task,
    "export": export_task,
}


def snapshot_ensemble(config, source, model, workdir):
    """The callback that keeps a run's snapshots in its workdir."""
    snapshots = SnapshotEnsemble(
        experiment.snapshot_inputs(config, source),
        k=config.snapshots,
        batch_size=min(100, config.meta_examples),
        directory=workdir.checkpoints,
    )
    snapshots.set_model(model)  # a run that has its last step behind it fits no more
    return snapshots


def tensorboard(workdir):
    return keras.callbacks.TensorBoard(workdir.tensorboard, write_graph=False)


def write_hparams(config, workdir):
    """Tells TensorBoard's HParams page the settings of the run."""
    but = ("task", "workdir", "resume")
    settings = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in but and value is not None
    }
    with tf.summary.create_file_writer(str(workdir.tensorboard)).as_default():
        hparams_api.hparams(settings, trial_id=str(workdir.path))


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


@contextlib.contextmanager
def terminate_by(saver):
    """On SIGTERM the saver saves after the step under way and ends the run."""

    def handle(number, frame):
        saver.preempted = True

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
