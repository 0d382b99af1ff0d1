"""Checkpoints that survive a kill at any moment, and a full disk."""

import json
import logging
import pathlib

import keras

from clidmu_tf.errors import Preempted, UserError
from clidmu_tf.files import read_arrays, write_arrays

logger = logging.getLogger(__name__)

KEEP = 2


class Checkpointer(keras.callbacks.Callback):
    """Saves all that a run needs to go on, so that nothing shows it was cut.

    That is every variable: weights, both optimizers, the weight net, seeds, class
    means, the running metrics, and the rows of the metrics file.

    Args:
        directory: Where checkpoints lie; the last two are kept.
        metrics_log: The run's `MetricsLog`.
        every_steps: Save every so many steps too; 0 for epochs alone.
        writes: Whether this process writes (the chief does).
        workers: Processes that train together. Saving takes them all, so that a
            signal to one of several ends the run without saving.
    """

    def __init__(self, directory, metrics_log, every_steps=0, writes=True, workers=1):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.metrics_log = metrics_log
        self.every_steps = every_steps
        self.writes = writes
        self.workers = workers
        self.preempted = False
        self.step = 0
        self._running_metrics = None

    def restore(self, model):
        """Puts the model where the last whole checkpoint left it.

        Returns:
            The number of steps done; 0 where there is no checkpoint.

        Raises:
            UserError: There are checkpoints, and none can be read.
        """
        paths = sorted(self.directory.glob("step-*.npz"), reverse=True)
        for path in paths:
            try:
                record = read_arrays(path)
            except UserError as error:
                logger.warning("Going back to an earlier checkpoint: %s", error)
                continue
            self._assign(model, record, path)
            self.step = int(record["step"])
            self.metrics_log.rows = json.loads(str(record["rows"]))
            return self.step
        if paths:
            raise UserError(
                f"No checkpoint in {self.directory} can be read: move them away, or "
                "give another --workdir to start afresh."
            )
        return 0

    def save(self):
        """Writes a checkpoint now and removes all but the last two."""
        # Every worker reads: a metric's variable is summed over the workers.
        arrays = {f"v{i}": v.numpy() for i, v in enumerate(variables_of(self.model))}
        if not self.writes:
            return
        write_arrays(
            self.directory / f"step-{self.step:09d}.npz",
            step=self.step,
            rows=json.dumps(self.metrics_log.rows),
            **arrays,
        )
        for path in sorted(self.directory.glob("step-*.npz"))[:-KEEP]:
            path.unlink()

    def on_train_begin(self, logs=None):
        if self.writes:  # what a kill in the middle of writing left
            for part in self.directory.glob("*.part"):
                part.unlink()

    def on_epoch_begin(self, epoch, logs=None):
        # Keras has just reset the metrics of the epoch that goes on here.
        if self._running_metrics:
            for variable, value in self._running_metrics:
                variable.assign(value)
            self._running_metrics = None

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.preempted and self.workers > 1:
            raise Preempted(
                f"Stopped at step {self.step}, as asked to; the run goes on from its "
                "last checkpoint."
            )
        if batch + 1 == self.params["steps"]:
            return  # the epoch's end saves, with what the epoch leaves
        is_due = self.every_steps and self.step % self.every_steps == 0
        if is_due or self.preempted:
            self._checked_save(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.model.reset_metrics()  # the next epoch starts them anew
        self._checked_save(logs)

    def _checked_save(self, logs):
        self.model.check_logs(logs)
        self.save()
        if self.preempted:
            raise Preempted(f"Saved at step {self.step} and stopped, as asked to.")

    def _assign(self, model, record, path):
        variables = variables_of(model)
        values = [record[f"v{i}"] for i in range(len(record) - 2)]
        if [tuple(v.shape) for v in variables] != [v.shape for v in values]:
            raise UserError(
                f"Checkpoint {path} is of another network: give another --workdir, or "
                "the settings that it was made with."
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        running = {id(v) for metric in model.metrics for v in metric.variables}
        self._running_metrics = [
            (variable, value)
            for variable, value in zip(variables, values, strict=True)
            if id(variable) in running
        ]


def variables_of(model):
    """Every variable of a training model, in a fixed order, each once."""
    owners = [model, model.optimizer, getattr(model, "meta_optimizer", None)]
    variables = [v for owner in owners if owner is not None for v in owner.variables]
    variables += [v for metric in model.metrics for v in metric.variables]
    return list({id(variable): variable for variable in variables}.values())
