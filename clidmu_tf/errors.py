"""Errors a user can act on."""


class UserError(ValueError):
    """A mistake in what was asked for; its one sentence says the way out.

    `train.py` prints it without a traceback and exits with code 2.
    """


class TrainingDiverged(RuntimeError):
    """Training cannot go on: the loss is not finite, or all weights are zero."""


class Preempted(Exception):
    """The run was asked to end (SIGTERM) and has saved where it was."""
