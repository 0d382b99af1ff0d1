"""A run from a Config: train, tune, evaluate, audit, export."""

import contextlib
import functools
import logging

from clidmu_tf.errors import UserError
from clidmu_tf.runs import (
    datasets,
    evaluation,
    export,
    label_issues,
    outcome,
    prepare,
    strategies,
    training,
)
from clidmu_tf.runs.batches import Reader
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.workdir import FREE, Workdir


def train(config: Config, is_trial: bool = False) -> None:
    """Trains, or goes on with, the run that a Config describes.

    Args:
        config: A `Config`.
        is_trial: Whether it is a trial of a search, which keeps quiet and leaves
            numbers alone: no pictures, no audit, no exports.
    """
    strategy = strategies.make(config.strategy)
    chief = strategies.is_chief(strategy)
    if not chief:  # one of several says it
        logging.getLogger("clidmu_tf").setLevel(logging.WARNING)
    workdir = Workdir(config.workdir)
    if chief:
        workdir.check(config)
    if workdir.finished(config.epochs):
        if chief and not is_trial:
            print(
                "This run is finished: raise --epochs to go on with it, or remove "
                f"{workdir.path} to run it again."
            )
            outcome.print_summary(workdir, config.beside)
        strategies.leave_together(strategy)
        return
    if chief:
        workdir.check_free()  # before the data are read, which may take long
    experiment = Experiment(config, strategy)
    if not is_trial:  # which a search may cut short
        experiment.check_warmup()
    experiment.fit_arguments()  # what is wrong shows before the folder is taken
    with workdir.held() if chief else contextlib.nullcontext():
        if chief:
            workdir.check_data(experiment.loaded)
            workdir.claim(config)
            workdir.write_fingerprint(experiment.loaded)
            workdir.write_source(experiment.described, experiment.preprocessing)
            if not is_trial:
                tell(experiment, config)
        with datasets.naming_damage(experiment.source):
            snapshots, rows = training.fit(experiment, workdir, is_trial)
            if chief:
                beside = config.beside
                outcome.finish(experiment, workdir, snapshots, rows, is_trial, beside)
    strategies.leave_together(strategy)


def tell(experiment: Experiment, config: Config) -> None:
    """Prints what a run was made of, and which of its settings are of no use."""
    print(datasets.account(experiment.source))
    if config.unused():
        unused = " ".join(config.unused())
        print(f"--method={config.method} makes no use of {unused}.")


def evaluate(config: Config) -> None:
    """Evaluates what a finished workdir exported, and prints the accuracy."""
    workdir = Workdir(config.workdir)
    trained = settings_of(workdir, config)
    if not workdir.finished():
        raise UserError(
            f"--workdir={workdir.path} holds a run that is not finished: go on with it "
            "first, by --task=train."
        )
    source = Experiment(trained).loaded
    is_other_split = trained.test_split != workdir.read_config().test_split
    workdir.check_data(source, but_test=is_other_split)
    reader = Reader(source, trained.batch_size)
    what = outcome.measured_on(source.test_is_given)
    anew = (
        f"remove {workdir.summary} and go on with the run by --task=train, which makes "
        "it from the last checkpoint"
    )
    for name, path in [
        ("classifier", workdir.export),
        ("snapshot ensemble", workdir.export_ensemble),
    ]:
        raw = reader.raw_in_order(source.test)
        serve = export.load(path, anew)
        with datasets.naming_damage(source):
            accuracy, top5, count = evaluation.evaluate_served(serve, raw)
        has_top5 = evaluation.top5_metrics(len(source.class_names))
        more = f", top-5 {top5:.4f}" if has_top5 else ""
        print(f"{name:<18} accuracy {accuracy:.4f}{more} on {count} {what}")


def export_task(config: Config) -> None:
    """Exports the last checkpoint of a workdir, also of a run not yet finished.

    It takes the workdir alone: the data may be gone.
    """
    workdir = Workdir(config.workdir)
    trained = settings_of(workdir, config)
    experiment = Experiment(
        trained,
        described=workdir.read_source(),
        preprocessing=workdir.read_preprocessing(),
    )
    with workdir.held():
        step, _ = training.restore(experiment, workdir)
        experiment.export(experiment.model.served, workdir.export)
    print(f"The model as of step {step} is in {workdir.export}")


def audit_task(config: Config) -> None:
    """Audits the training labels of a workdir by its last checkpoint."""
    workdir = Workdir(config.workdir)
    experiment = Experiment(settings_of(workdir, config))
    workdir.check_data(experiment.loaded, but_test=True)  # an audit reads none
    with workdir.held(), datasets.naming_damage(experiment.source):
        _, rows = training.restore(experiment, workdir)
        snapshots = experiment.snapshots(workdir.checkpoints)
        snapshots.restore(before_epoch=len(rows))
        issues = label_issues.write(
            *(experiment.model, experiment.data, snapshots, rows, workdir),
            experiment.title,
        )
    print(
        f"{issues.is_label_issue.sum()} of {len(issues)} labels are likely wrong: see "
        f"{workdir.report} and {workdir.label_issues}"
    )


def settings_of(workdir: Workdir, config: Config) -> Config:
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


def tune(config: Config) -> None:
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
