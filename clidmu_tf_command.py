"""The command `clidmu-tf`, which `train.py` is as well.

It stands beside the package, which imports TensorFlow at once, unless it finds this
module loaded: the command looks at its flags first.
"""

import importlib.util
import os
import sys


def main():
    """Does what the command line says."""
    for name in ("absl", "tensorflow", "keras"):
        if importlib.util.find_spec(name) is None:
            print(
                f"{os.path.basename(sys.argv[0])}: {sys.executable} has no {name}: "
                "`make setup` and `source .venv/bin/activate`, or `pip install .`.",
                file=sys.stderr,
            )
            sys.exit(2)  # as for all that a user can mend
    from clidmu_tf.runs import cli

    cli.main()


if __name__ == "__main__":
    main()
