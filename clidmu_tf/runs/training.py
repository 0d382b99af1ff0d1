"""The training of a run, from its last checkpoint to its end."""

import contextlib
import dataclasses
import signal
import sys

import keras
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams_api

from clidmu_tf.engine.callbacks import MetricsLog, SnapshotEnsemble, WeightHistogram
from clidmu_tf.engine.checkpoints import Checkpointer
from clidmu_tf.runs import datasets, evaluation, strategies
from clidmu_tf.runs.outcome import finish


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
        labels = datasets.meta_split(config, source).labels
        writers += [WeightHistogram(snapshots.data, labels, workdir.tensorboard)]
    if chief:
        write_hparams(config, workdir)
    # A progress bar on a terminal, a line an epoch in a log.
    verbose = 0 if is_trial else 1 if sys.stdout.isatty() else 2
    with terminate_by(saver):
        for first, last, size in segments(done, steps, config.epochs):
            model.fit(
                datasets.batches(
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
                examples=datasets.SplitExamples(config, source, strategy),
                **datasets.meta_arguments(config, source, strategy, done),
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


def snapshot_ensemble(config, source, model, workdir):
    """The callback that keeps a run's snapshots in its workdir."""
    snapshots = SnapshotEnsemble(
        datasets.snapshot_inputs(config, source),
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
