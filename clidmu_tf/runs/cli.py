"""Trains, tunes, evaluates or exports a classifier from noisy labels.

    %s --flagfile=configs/digits.cfg

Flags given after --flagfile override it. `--helpshort` lists them all.
"""

import dataclasses
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from clidmu_tf.errors import Preempted, TrainingDiverged, UserError
from clidmu_tf.runs.config import Config

EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = 130

DEFINE: dict[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}


def main() -> NoReturn:
    """Runs the task that the command line asks for, and exits with its code."""
    # What this package has to say, without the chatter of others.
    logger = logging.getLogger("clidmu_tf")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    define_flags()
    sys.modules["__main__"].__doc__ = __doc__  # which absl shows for --help
    app.run(run)


def define_flags() -> None:
    """Makes a flag of every setting, so that a default exists once."""
    for field in dataclasses.fields(Config):
        kind = field.type
        help_text = field.metadata["help"]
        if field.metadata["choices"]:
            help_text += f" One of: {', '.join(field.metadata['choices'])}."
        define = DEFINE.get(kind, flags.DEFINE_string)
        # Flags of the program that runs: those are what --helpshort lists.
        define(field.name, field.default, help_text, module_name=sys.argv[0])


def run(argv: list[str]) -> None:
    """Runs the task that the parsed flags ask for.

    Args:
        argv: The program, and what is left on its command line.
    """
    try:
        if len(argv) > 1:
            raise UserError(
                f"Not understood: {' '.join(argv[1:])!r}; write every setting as "
                "--name=value, also in a flagfile."
            )
        names = [field.name for field in dataclasses.fields(Config)]
        values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
        config = Config(**values)
        from clidmu_tf.runs import tasks

        tasks.TASKS[config.task](config)
    except ValueError as error:  # a UserError is one
        fail(argv, error, EXIT_USER_ERROR)
    except TrainingDiverged as error:
        fail(argv, error, EXIT_DIVERGED)
    except Preempted as error:
        fail(argv, error, EXIT_PREEMPTED)
    except KeyboardInterrupt:
        goes_on = flags.FLAGS.task in ("train", "tune")
        how = "goes on from the last checkpoint" if goes_on else "starts anew"
        fail(argv, f"Interrupted: the same command {how}.", EXIT_INTERRUPTED)


def fail(argv: list[str], error: object, code: int) -> NoReturn:
    print(f"{os.path.basename(argv[0])}: {error}", file=sys.stderr)
    sys.exit(code)
