"""A run from a Config: train, tune, evaluate, audit, export."""

import functools

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.engine.callbacks import MetricsLog
from clidmu_tf.engine.checkpoints import Checkpointer
from clidmu_tf.errors import UserError
from clidmu_tf.runs import (
    datasets,
    evaluation,
    export,
    label_issues,
    models,
    prepare,
    strategies,
)
from clidmu_tf.runs.outcome import print_summary
from clidmu_tf.runs.training import fit, snapshot_ensemble
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
    source = datasets.noisy_source(config)
    steps = datasets.steps_per_epoch(config, source)
    keras.utils.set_random_seed(config.seed)
    with strategies.scope(strategy):
        model = models.build_model(config, source, steps, len(source.train))
    # Whatever is wrong with the settings shows before the folder is taken.
    datasets.batches(config, source, strategy, 0, config.batch_size)
    datasets.meta_arguments(config, source, strategy, 0)
    if chief:
        workdir.claim(config)
        workdir.write_source(source, steps)
        if config.unused() and not is_trial:
            unused = " ".join(config.unused())
            print(f"--method={config.method} makes no use of {unused}.")
    fit(config, source, steps, model, strategy, workdir, chief, is_trial)


def evaluate(config):
    """Evaluates what a finished workdir exported, and prints the accuracy."""
    workdir = Workdir(config.workdir)
    trained = settings_of(workdir, config)
    if not workdir.finished():
        raise UserError(
            f"--workdir={workdir.path} holds a run that is not finished: go on with it "
            "first, by --task=train."
        )
    source = datasets.load_source(trained)
    for name, path in [
        ("classifier", workdir.export),
        ("snapshot ensemble", workdir.export_ensemble),
    ]:
        serve = export.load(path)
        hits, near = [], []
        for x, y in datasets.raw_test(source, trained):
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
    source = datasets.noisy_source(trained)
    steps = datasets.steps_per_epoch(trained, source)
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
    model = models.build_model(trained, source, steps, num_examples)
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
