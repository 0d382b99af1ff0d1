"""What reaches a run from outside: signals, disks, other processes, hostile names."""

import dataclasses
import errno
import io
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tracemalloc

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from clidmu_tf import cluster, data, files
from clidmu_tf.engine import given
from clidmu_tf.errors import Preempted, TrainingDiverged, UserError
from clidmu_tf.nets.files import load_model
from clidmu_tf.reports import page
from clidmu_tf.reports.csv import to_csv
from clidmu_tf.runs import cli as command_line
from clidmu_tf.runs import datasets, export, label_issues, tasks, terminal, training
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.config import read as read_config
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.workdir import Workdir
from command import assert_refused

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ("--train_examples=60", "--epochs=1", "--batch_size=30", "--snapshots=1")

# --- what is a user's to mend, and what is a bug


@pytest.mark.parametrize(
    "error, words, code",
    [
        (
            OSError(errno.ENOSPC, "No space left", "a.csv"),
            "a.csv cannot be used (No",
            2,
        ),
        (OSError(errno.EROFS, "Read-only file system"), "(Read-only file system)", 2),
        (tf.errors.ResourceExhaustedError(None, None, "disk"), "(disk): mend that", 2),
        (ValueError("one\ntwo"), "one two", 2),
        (UserError("\x1b[2Jcat"), "\\x1b[2Jcat", 2),
        (TrainingDiverged("The loss is nan."), "The loss is nan.", 3),
        (Preempted("Saved."), "Saved.", 75),
    ],
)
def test_an_error_of_the_world_is_a_sentence(error, words, code, cli, monkeypatch):
    def task(config):
        raise error

    monkeypatch.setitem(tasks.TASKS, "train", task)
    assert_refused(cli(), words, code=code)


def test_a_bug_keeps_its_traceback(cli, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "train", lambda config: config.no_such)
    with pytest.raises(AttributeError):
        cli()


def test_ctrl_c_while_tensorflow_is_imported_is_a_sentence(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "start_tensorflow", interrupt)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as ending:
        command_line.main()
    assert ending.value.code == 130
    assert capsys.readouterr().err.startswith("train.py: Interrupted: run the same")


def test_a_disk_that_is_read_alone_is_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(pathlib.Path, "unlink", refuse)
    with pytest.raises(UserError, match="Could not write .*Read-only file system"):
        files.write_text(tmp_path / "label_issues.csv", "")


class Foreign(keras.layers.Dense):
    """A layer that only its author's program has."""


@pytest.mark.parametrize("layer", [Foreign(2), keras.layers.Lambda(lambda x: x)])
def test_a_network_with_code_of_others_is_refused_in_a_sentence(layer, tmp_path):
    path = tmp_path / "theirs.keras"
    keras.Sequential([keras.Input((4,)), layer]).save(path)
    with pytest.raises(UserError, match="theirs.keras cannot be read as a") as error:
        load_model(path)
    assert "\n" not in str(error.value)


# --- SIGTERM


@pytest.mark.slow
def test_sigterm_while_the_report_is_written_loses_nothing(cli, tmp_path, monkeypatch):
    def stop(*args):
        os.kill(os.getpid(), signal.SIGTERM)

    # What is written after it takes long, and says nothing here.
    monkeypatch.setattr(Experiment, "export", lambda *args: None)
    monkeypatch.setattr(label_issues, "draw_weights", lambda *args: None)
    for name, audit in (("run", stop), ("run", None), ("whole", None)):
        monkeypatch.setattr(label_issues, "write", audit or (lambda *args: None))
        found = cli(*SMALL, f"--workdir={tmp_path / name}")
        assert found.code == (75 if audit else 0), found.err
    one, two = (Workdir(tmp_path / name).read_summary() for name in ("run", "whole"))
    assert one == two


def test_sigterm_while_data_load_ends_with_75(cli, monkeypatch):
    def load(config):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setitem(tasks.TASKS, "train", load)
    assert_refused(cli(), "Stopped, as asked to", code=75)


def test_sigterm_after_the_last_step_is_heard():
    class Saver:
        preempted, step = False, 12

    with pytest.raises(Preempted, match="step 12, the last"):
        with training.terminate_by(Saver()):
            os.kill(os.getpid(), signal.SIGTERM)


# --- an export is exchanged whole


class Killed(BaseException):
    """What a kill is to those who can't catch it."""


@pytest.mark.parametrize("operation", range(3))
def test_an_export_killed_anywhere_leaves_a_whole_one(operation, tmp_path, monkeypatch):
    class Archive:
        """Writes what is exported in two files, as slowly as can be."""

        def track(self, model):
            pass

        def add_endpoint(self, *args):
            pass

        def write_out(self, path, verbose):
            path.mkdir()
            step("write")
            (path / "saved_model.pb").write_text(content)

    def step(name, then=lambda *args, **kwargs: None):
        done.append(name)
        if len(done) - 1 == kill_at:
            raise Killed
        return then

    rename, done, kill_at = pathlib.Path.rename, [], None
    monkeypatch.setattr(keras.export, "ExportArchive", Archive)
    monkeypatch.setattr(
        pathlib.Path, "rename", lambda *args: step("rename", rename)(*args)
    )
    path, content = tmp_path / "1", "old"
    export._write(path, [], None, [], ["cat"])
    done, kill_at, content = [], operation, "new"
    with pytest.raises(Killed):
        export._write(path, [], None, [], ["cat"])
    found = export.whole(path)
    assert (found / "saved_model.pb").read_text() in ("old", "new")
    assert (found / "assets.extra" / "labels.txt").read_text() == "cat\n"
    done, kill_at, content = [], None, "newer"
    export._write(path, [], None, [], ["cat"])
    assert (path / "saved_model.pb").read_text() == "newer"
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


# --- one process in a folder at a time

HOLD = """
import sys
import clidmu_tf_command
from clidmu_tf import files
with files.locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    words = f"is held by process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(UserError, match=words):
        with files.locked(path):
            pass
    holder.kill()
    holder.communicate()
    with files.locked(path):
        pass
    assert path.read_text() == ""


@pytest.mark.parametrize("task", ["train", "audit", "export"])
def test_a_folder_that_another_run_holds_is_left_alone(
    task, cli, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "fit", None)
    monkeypatch.setattr(training, "restore", None)
    workdir = Workdir(tmp_path / "run")
    flags = (*SMALL, f"--workdir={workdir.path}")
    workdir.claim(Config())
    if task == "train":
        workdir.config.unlink()
        workdir.checkpoints.rmdir()
    else:
        workdir.source.write_text(
            '{"class_names": ["a", "b"], "image_shape": [8, 8, 1], "steps": 1}'
        )
        flags = flags[-1:]
    with workdir.held():
        before = {p: p.read_bytes() for p in workdir.path.iterdir() if p.is_file()}
        found = cli(f"--task={task}", *flags)
        assert_refused(found, f"lock is held by process {os.getpid()}")
        after = {p: p.read_bytes() for p in workdir.path.iterdir() if p.is_file()}
    assert before == after


def test_where_no_locks_are_to_be_had_a_run_goes_on(tmp_path, monkeypatch, caplog):
    def unsupported(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unsupported)
    monkeypatch.setattr(logging.getLogger("clidmu_tf"), "propagate", True)
    with files.locked(tmp_path / "lock"), files.locked(tmp_path / "lock"):
        pass
    assert "no lock is to be had here" in caplog.text


# --- chiefs and workers


@pytest.fixture
def taken():
    """A port that something listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_chief_whose_port_is_taken_says_so(taken, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(taken))
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{taken} .Address"):
        cluster.meet_chief()
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "tuner-1")
    cluster.meet_chief()  # which is there


def test_a_worker_says_that_it_waits_and_gives_up(taken, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("clidmu_tf"), "propagate", True)
    monkeypatch.setattr(cluster, "WORD", 0)
    monkeypatch.setattr(cluster, "LIMIT", 0.1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(UserError, match=f"No chief has answered at {address}"):
            cluster.wait_for(address)
    assert f"Waiting for the chief at {address}" in caplog.text


def test_batches_that_may_have_no_end_are_spoken_of(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("clidmu_tf"), "propagate", True)
    monkeypatch.setattr(given, "MANY", 3)
    x, y = np.zeros((2, 4), "float32"), np.array([0, 1])
    for count, words in ((2, 0), (5, 1)):
        batches = ((x, y) for _ in range(count))
        found = given.checked_batches(batches, None, batch_size=2, num_classes=2)
        assert len([*found]) == count
        assert caplog.text.count("of batches without an end take a part") == words


# --- names that others chose


def test_no_cell_of_a_table_is_a_formula():
    names = ["=1+1", "+1", "-1", "@a", "\tb", "\rc", "cat", "", None, 1.5]
    table = pd.DataFrame({"=id": names, "count": np.arange(10) - 5})
    found = pd.read_csv(io.StringIO(to_csv(table, index=False)), keep_default_na=False)
    cells = [str(cell) for cell in found["'=id"]]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    assert cells[0] == "'=1+1" and cells[5] == "\\rc" and cells[9] == "1.5"
    assert cells[6:8] == ["cat", ""]
    assert found["count"].tolist() == [*range(-5, 5)]


def test_no_name_commands_the_terminal():
    stream = io.StringIO()
    print("köl\u200bn\x1b[2J\r\x9b1m\n\tcat", file=terminal.Output(stream))
    assert stream.getvalue() == "köl\\u200bn\\x1b[2J\\r\\x9b1m\n\tcat\n"
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print("köln \udcff", file=terminal.Output(ascii_only), flush=True)
    assert ascii_only.buffer.getvalue() == b"k\\xf6ln \\udcff\n"
    record = logging.LogRecord("", 0, "", 0, "class %s", ("\x1b[2J",), None)
    assert terminal.Formatter().format(record) == "class \\x1b[2J"


@pytest.mark.parametrize("name", ["a\nb", "a\r", "", "a\u2028b"])
def test_a_class_that_is_not_one_line_is_refused_before_training(name):
    source = data.load("digits")
    source = dataclasses.replace(source, class_names=(name, *source.class_names[1:]))
    with pytest.raises(UserError, match="is not one line, as labels.txt") as error:
        datasets.checked(source, "folder")
    assert repr(name) in str(error.value)


def test_a_name_that_is_no_text_comes_back_from_files(tmp_path):
    config = Config(data_dir=os.fsdecode(b"caf\xe9"))
    files.write_text(tmp_path / "config.cfg", "\n".join(config.flags()))
    assert b"--data_dir=caf\xe9\n" in (tmp_path / "config.cfg").read_bytes()
    assert read_config(tmp_path / "config.cfg") == config


def test_home_is_found_and_kept_in_the_config(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = Config(workdir="~/run", data_dir="~/data", label_column="~")
    path = tmp_path / "config.cfg"
    path.write_text("\n".join(config.flags()))
    assert config.workdir == str(tmp_path / "run") and config.label_column == "~"
    assert read_config(path) == config


# --- thousands of classes


def issues_of(given, suggested):
    return pd.DataFrame(
        {
            "given_label": given,
            "suggested_label": suggested,
            "is_label_issue": given != suggested,
            "label_quality": np.where(given != suggested, 0.1, 0.9),
            "weight": np.nan,
        }
    )


def test_a_page_of_ten_thousand_classes_takes_little_memory():
    rng = np.random.default_rng(0)
    given = rng.integers(0, 10_000, 20_000)
    suggested = np.where(given < 30, rng.integers(0, 30, len(given)), given)
    tracemalloc.start()
    found = page.render(issues_of(given, suggested), range(10_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6 and "9980" in found


def test_the_matrix_counts_as_a_whole_one_does():
    rng = np.random.default_rng(0)
    given, suggested = rng.integers(0, 25, (2, 3000))
    matrix = page._matrix(issues_of(given, suggested), [str(i) for i in range(25)])
    whole = np.zeros((25, 25), int)
    np.add.at(whole, (given, suggested), 1)
    kept = [int(name) for name in matrix["names"]]
    assert len(kept) == 20 and matrix["omitted"] == 5
    counts = [[cell["count"] for cell in row] for row in matrix["rows"]]
    np.testing.assert_array_equal(counts, whole[np.ix_(kept, kept)])
