"""Errors a user can act on."""

import math
from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in what was asked for; its one sentence says the way out.

    The command line prints it without a traceback and exits with code 2.
    """


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names, as a sentence lists them."""
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


class TrainingDiverged(RuntimeError):
    """Training cannot go on: the loss is not finite, or all weights are zero."""


def check_finite(name, value, epoch):
    """Raises `TrainingDiverged` where what was measured after an epoch is no number.

    Args:
        name: What was measured.
        value: What came out.
        epoch: Number of the epoch, counted from 0.
    """
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"{name} is {value} after epoch {epoch + 1}: lower the learning rate (and "
            "the meta learning rate)."
        )


class Preempted(BaseException):
    """The run was asked to end (SIGTERM) and has saved where it was.

    As with KeyboardInterrupt, whoever lives with any error must not live with this.
    """
