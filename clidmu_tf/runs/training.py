"""The training of a run, from its last checkpoint to its end."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams_api

from clidmu_tf.engine.callbacks import MetricsLog, SnapshotEnsemble, WeightHistogram
from clidmu_tf.engine.checkpoints import Checkpointer
from clidmu_tf.errors import Preempted, UserError
from clidmu_tf.runs import strategies
from clidmu_tf.runs.datasets import COLUMNS
from clidmu_tf.runs.evaluation import Evaluation
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.workdir import Workdir

Rows = list[dict[str, float]]
PROGRESS = 0.2  # seconds


def fit(
    experiment: Experiment, workdir: Workdir, is_trial: bool = False
) -> tuple[SnapshotEnsemble, Rows]:
    """Trains from where the workdir's last checkpoint is to the end.

    Args:
        experiment: What to train.
        workdir: The run's workdir.
        is_trial: Whether it is a trial of a search, which keeps quiet.

    Returns:
        The snapshots, and the metrics of every epoch.
    """
    model, strategy = experiment.model, experiment.strategy
    steps, epochs = experiment.described.steps, experiment.epochs
    chief = strategies.is_chief(strategy)
    log = MetricsLog(workdir.metrics)
    saver = Checkpointer(
        workdir.checkpoints,
        log,
        experiment.checkpoint_every,
        writes=chief,
        workers=strategies.workers(strategy),
    )
    snapshots = experiment.snapshots(workdir.checkpoints)
    done = saver.restore(model)
    if done:
        snapshots.restore(before_epoch=done // steps)
        print(f"Going on at step {done} of {steps * epochs}.")
    writers = writers_of(experiment, workdir, snapshots, log) if chief else []
    lines = [EpochLines(experiment)] if chief and not is_trial else []
    with terminate_by(saver):
        for first, last, size in segments(done, steps, epochs):
            model.fit(
                **experiment.fit_arguments(done),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=size,
                verbose=0,
                callbacks=[*writers, *lines, saver],
            )
            done = last * steps
    return snapshots, log.rows


def writers_of(
    experiment: Experiment,
    workdir: Workdir,
    snapshots: SnapshotEnsemble,
    log: MetricsLog,
) -> list[keras.callbacks.Callback]:
    """What measures a run and writes, in order: the log holds what is before it."""
    test = Evaluation(experiment.data)
    writers = [test, snapshots, log, tensorboard(workdir)]
    if experiment.model.takes_meta_optimizer:
        labels = experiment.meta_split.labels
        writers += [WeightHistogram(snapshots.data, labels, workdir.tensorboard)]
    write_hparams(experiment.settings, workdir)
    return writers


class EpochLines(keras.callbacks.Callback):
    """A line an epoch, and on a terminal how far the epoch is.

    Args:
        experiment: What is trained.
    """

    def __init__(self, experiment: Experiment):
        super().__init__()
        self.epochs = experiment.epochs
        self.steps = experiment.described.steps
        test = "held-out" if experiment.source.test_is_given else "test"
        # What is shown, the first first, as far as there is room.
        self.shown = {
            "loss": "loss {:.4f}",
            "accuracy": "accuracy train {:.3f}",
            "val_accuracy": test + " {:.3f}",
            "noisy_accuracy": "noisy {:.3f}",
            "snapshot_clid": "CLID {:.3f}",
            "mean_weight": "weight {:.2f}",
        }

    def on_epoch_begin(self, epoch, logs=None):
        self.name = f"Epoch {epoch + 1}/{self.epochs}"
        self.began = self.told = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if sys.stdout.isatty() and now - self.told > PROGRESS:
            self.told = now
            # Past the guard of `terminal.Output`: there is no name in it.
            line = f"\r{self.name}  {batch + 1}/{self.steps}"
            print(line, end="", flush=True, file=sys.__stdout__)

    def on_epoch_end(self, epoch, logs=None):
        line = f"{self.name}  {time.monotonic() - self.began:.0f}s "
        for name, text in self.shown.items():
            if name in logs:
                more = " " + text.format(float(logs[name]))
                line += more if len(line + more) <= COLUMNS else ""
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", file=sys.__stdout__)
        print(line, flush=True)


def tensorboard(workdir: Workdir) -> keras.callbacks.Callback:
    """The callback that writes TensorBoard's curves."""
    return keras.callbacks.TensorBoard(workdir.tensorboard, write_graph=False)


def write_hparams(settings: dict[str, Any], workdir: Workdir) -> None:
    """Tells TensorBoard's HParams page the settings of the run."""
    with tf.summary.create_file_writer(str(workdir.tensorboard)).as_default():
        hparams_api.hparams(settings, trial_id=str(workdir.path))


def segments(done: int, steps: int, epochs: int) -> list[tuple[int, int, int]]:
    """Cuts what is left of a run into `fit` calls: the rest of an epoch, the rest.

    Args:
        done: Steps that are done.
        steps: Steps of an epoch.
        epochs: Epochs of the run.

    Returns:
        A list of `(initial_epoch, epochs, steps_per_epoch)`.
    """
    epoch, inside = divmod(done, steps)
    first = [(epoch, epoch + 1, steps - inside)] if inside else []
    epoch += bool(inside)
    return first + ([(epoch, epochs, steps)] if epoch < epochs else [])


@contextlib.contextmanager
def terminate_by(saver: Checkpointer) -> Iterator[None]:
    """On SIGTERM the saver saves after the step under way and ends the run."""

    def handle(number, frame):
        saver.preempted = True

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if saver.preempted:  # after the last step, behind which nothing asks
        raise Preempted(f"Stopped after step {saver.step}, the last, which is saved.")


def restore(experiment: Experiment, workdir: Workdir) -> tuple[int, Rows]:
    """Puts the model where the workdir's last checkpoint left it.

    Returns:
        The steps done, and the metrics of every epoch.

    Raises:
        UserError: There is no checkpoint.
    """
    log = MetricsLog(workdir.metrics)
    step = Checkpointer(workdir.checkpoints, log).restore(experiment.model)
    if not step:
        raise UserError(f"--workdir={workdir.path} holds no checkpoint yet.")
    return step, log.rows
