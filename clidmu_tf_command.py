"""The command `clidmu-tf`, which `train.py` is as well.

It stands beside the package: to import any part of that imports TensorFlow, and only
who comes before it can keep its chatter from the terminal.
"""

import contextlib
import os
import re
import tempfile

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


def main():
    """Starts TensorFlow quietly, then does what the command line says."""
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_chatter() if level != "0" else contextlib.nullcontext():
        import tensorflow as tf

        from clidmu_tf.runs import cli

        tf.config.list_physical_devices()
    cli.main()


if __name__ == "__main__":
    main()
