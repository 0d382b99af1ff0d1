"""`train.py` in the process of the tests."""

import contextlib
import types

import pytest
from absl import flags
from absl.testing import flagsaver

from clidmu_tf.runs import cli as command_line
from clidmu_tf.runs import outcome, tasks
from clidmu_tf.runs.config import Config

command_line.define_flags(Config, flags.FLAGS)


@contextlib.contextmanager
def numbers_alone():
    """Runs leave no pictures, audit and exports meanwhile, which take longest."""
    finish = outcome.finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            outcome, "finish", lambda *arguments: finish(*arguments[:4], is_trial=True)
        )
        yield


def train(config):
    """`tasks.train`, for its numbers alone."""
    with numbers_alone():
        tasks.train(config)


def run(argv, capsys):
    """Returns the exit code of a command line, and what it printed, for `cli`."""
    code = 0
    with flagsaver.flagsaver():
        try:
            with command_line.explained():
                command_line.first_look(argv)
                command_line.run(command_line.parse(Config, flags.FLAGS, argv))
        except SystemExit as ending:
            code = ending.code
    printed = capsys.readouterr()
    return types.SimpleNamespace(code=code, out=printed.out, err=printed.err)


def assert_refused(found, *words, code=2):
    """Asserts that a command ended with one sentence that holds these words."""
    assert found.code == code, found.err
    assert found.err.startswith("train.py: ") and found.err.count("\n") == 1
    for word in words:
        assert word in found.err
