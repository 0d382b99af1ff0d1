"""Runs `train.py`, which is killed before its n-th change of the files in a folder.

    python -m benchmarks.killed_at FOLDER N --task=export --workdir=FOLDER

An N that it does not come to lets it live; how many changes there were is then the last
line of what it prints. Python's audit events tell of each file that is opened to be
written, renamed or removed; what TensorFlow writes by itself is not among them.
"""

import os
import runpy
import signal
import sys

WRITES = os.O_WRONLY | os.O_RDWR
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


class Changes:
    """Counts the changes of a folder's files, and kills before one of them.

    Args:
        folder: The folder.
        last: The number of the change that is not made any more.
    """

    def __init__(self, folder, last):
        self.folder, self.last, self.count = os.path.abspath(folder), last, 0

    def __call__(self, event, args):
        is_change = event in CHANGES or (event == "open" and args[2] & WRITES)
        if not is_change or not isinstance(args[0], str | os.PathLike):
            return
        if os.path.abspath(args[0]).startswith(self.folder):
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def main():
    _, folder, last, *flags = sys.argv
    changes = Changes(folder, int(last))
    sys.addaudithook(changes)
    sys.argv = ["train.py", *flags]
    try:
        runpy.run_path("train.py", run_name="__main__")
    finally:
        print(changes.count, flush=True)


if __name__ == "__main__":
    main()
