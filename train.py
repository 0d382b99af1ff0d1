"""Trains, tunes, evaluates or exports a classifier from noisy labels.

    python train.py --flagfile=configs/digits.cfg

Flags given after --flagfile override it. `--helpshort` lists them all.
"""

import contextlib
import dataclasses
import logging
import os
import re
import sys
import tempfile

from absl import app, flags
from absl import logging as absl_logging

# What TensorFlow says at its start, whatever its log level.
CHATTER = re.compile(
    rb"^(I0000 |WARNING: All log messages before |E0000 .* failed call to cuInit).*\n",
    re.MULTILINE,
)


@contextlib.contextmanager
def without_chatter():
    """Holds standard error back, and passes on all of it but the chatter."""
    with tempfile.TemporaryFile() as said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            os.write(2, CHATTER.sub(b"", said.read()))


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with without_chatter():
    import tensorflow as tf

    from clidmu_tf.errors import Preempted, TrainingDiverged, UserError
    from clidmu_tf.runs.config import Config

    tf.config.list_physical_devices()

EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = 130

DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}


def define_flags():
    """Makes a flag of every setting, so that a default exists once."""
    for field in dataclasses.fields(Config):
        kind = field.type
        help_text = field.metadata["help"]
        if field.metadata["choices"]:
            help_text += f" One of: {', '.join(field.metadata['choices'])}."
        define = DEFINE.get(kind, flags.DEFINE_string)
        define(field.name, field.default, help_text)


def main(argv):
    try:
        if len(argv) > 1:
            raise UserError(
                f"Not understood: {' '.join(argv[1:])!r}; write every setting as "
                "--name=value, also in a flagfile."
            )
        names = [field.name for field in dataclasses.fields(Config)]
        config = Config(**{name: flags.FLAGS[name].value for name in names})
        from clidmu_tf.runs import tasks as run

        run.TASKS[config.task](config)
    except ValueError as error:  # a UserError is one
        fail(error, EXIT_USER_ERROR)
    except TrainingDiverged as error:
        fail(error, EXIT_DIVERGED)
    except Preempted as error:
        fail(error, EXIT_PREEMPTED)
    except KeyboardInterrupt:
        goes_on = flags.FLAGS.task in ("train", "tune")
        how = "goes on from the last checkpoint" if goes_on else "starts anew"
        fail(f"Interrupted: the same command {how}.", EXIT_INTERRUPTED)


def fail(error, code):
    print(f"train.py: {error}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    # What this package has to say, without the chatter of others.
    logger = logging.getLogger("clidmu_tf")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    define_flags()
    app.run(main)
