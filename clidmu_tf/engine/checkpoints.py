"""Checkpoints that survive a kill at any moment, and a full disk."""

import json
import logging
import pathlib

import keras

from clidmu_tf.errors import Preempted, UserError
from clidmu_tf.files import read_arrays, write_arrays

logger = logging.getLogger(__name__)

KEEP = 2
# What a checkpoint holds besides variables.
ABOUT = ("step", "rows")


class Checkpointer(keras.callbacks.Callback):
    """Saves all that a run needs to go on, so that nothing shows it was cut.

    That is every variable: weights, optimizers, the method's own layers, slots and
    memories, seeds, the running metrics, and the rows of the metrics file. Each goes
    by the name of what it belongs to, so that another part moves none of them.

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
        arrays = {n: v.numpy() for n, v in variables_of(self.model).items()}
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
        if "v0" in record:
            record = _renamed(model, variables, record)
        shapes = {name: tuple(v.shape) for name, v in variables.items()}
        if {n: a.shape for n, a in record.items() if n not in ABOUT} != shapes:
            raise UserError(
                f"Checkpoint {path} is of another network: give another --workdir, or "
                "the settings that it was made with."
            )
        for name, variable in variables.items():
            variable.assign(record[name])
        self._running_metrics = [
            (variable, record[name])
            for name, variable in variables.items()
            if name.startswith("metric.")
        ]


def variables_of(model):
    """Every variable of a training model by a name of its own, each once."""
    owners = {
        "classifier": model.classifier.variables,
        **{name: layer.variables for name, layer in model.parts().items()},
        "optimizer": model.optimizer.variables,
        "meta_optimizer": getattr(model, "meta_optimizer", model.optimizer).variables,
        **{f"metric.{metric.name}": metric.variables for metric in model.metrics},
    }
    named = dict(model.named_variables())
    for owner, variables in owners.items():
        named |= {f"{owner}.{i}": variable for i, variable in enumerate(variables)}
    named |= {f"seed.{i}": variable for i, variable in enumerate(model.seeds())}
    # Of a variable with two names, the first.
    first = {id(variable): name for name, variable in reversed(named.items())}
    return {n: v for n, v in named.items() if first[id(v)] == n}


def _renamed(model, variables, record):
    """A checkpoint of version 0.1, whose variables had numbers, under their names."""
    owners = [model, model.optimizer, getattr(model, "meta_optimizer", model.optimizer)]
    old = [v for owner in owners for v in owner.variables]
    old += [v for metric in model.metrics for v in metric.variables]
    names = {id(variable): name for name, variable in variables.items()}
    order = dict.fromkeys(names[id(variable)] for variable in old)
    known = [name for name in order if not _is_new(model, name)]
    renamed = {name: variables[name].numpy() for name in order if _is_new(model, name)}
    for i, name in enumerate(known):
        if f"v{i}" in record:
            renamed[name] = record[f"v{i}"]
    return renamed


def _is_new(model, name):
    """Whether version 0.1 did not have this variable."""
    owner, _, slot = name.partition(".")
    return owner in ("slot", "memory") and slot not in model.numbered_variables
