"""Held-out examples stay so when data change, and a run knows its data again."""

import shutil

import numpy as np
import pytest
from PIL import Image

from clidmu_tf import data
from clidmu_tf.data.identity import Fingerprint, hold_out
from clidmu_tf.data.sources import Source, Split
from clidmu_tf.errors import UserError
from clidmu_tf.runs import tasks
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.workdir import Workdir
from command import train

NAMES = np.array([f"image {i}" for i in range(400)], object)
LABELS = np.arange(400) % 4


def test_about_a_share_of_each_class_is_held_out():
    train, test = hold_out(NAMES, LABELS, 0.25, seed=0)
    assert sorted([*train, *test]) == list(range(400))
    # Four standard deviations about 25 of 100.
    assert np.abs(np.bincount(LABELS[test]) - 25).max() < 4 * np.sqrt(100 * 0.25 * 0.75)
    assert set(test) != set(hold_out(NAMES, LABELS, 0.25, seed=1)[1])


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_each_class_is_on_either_side(share):
    for part in hold_out(NAMES[:8], LABELS[:8], share, seed=3):
        assert set(LABELS[part]) == {0, 1, 2, 3}


def test_one_example_more_or_less_moves_no_other():
    before = set(NAMES[hold_out(NAMES, LABELS, 0.25, seed=0)[1]])
    kept = np.delete(np.arange(400), [7, 100, 200])
    fewer = set(NAMES[kept][hold_out(NAMES[kept], LABELS[kept], 0.25, seed=0)[1]])
    assert fewer == before & set(NAMES[kept])


def test_a_row_more_in_front_moves_no_other(tmp_path):
    rows = [f"{i},{i % 3}.5,{'ab'[i % 2]}" for i in range(60)]
    held = []
    for more in ([], ["-1,,a"]):  # a missing number makes other ones of its column
        path = tmp_path / "table.csv"
        path.write_text("\n".join(["x,z,label", *more, *rows]))
        source = data.load("csv", data_dir=path, feature_columns="x,z")
        held.append(set(source.test.rows["x"]) - {-1})
    assert held[0] == held[1]


# --- fingerprints


def source(names="abcdef", labels=(0, 1, 0, 1, 0, 1), test="g", classes=("cat", "dog")):
    train, tested = (
        Split(np.zeros((len(n), 1)), np.array(y), None, np.array([*n], object))
        for n, y in ((names, labels), (test, [0] * len(test)))
    )
    return Source("any", train, tested, classes, (1,))


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"classes": ("cow", "dog")}, "classes gone: 'cat'; classes new: 'cow'"),
        ({"classes": ("cat", "dog", "owl")}, "classes new: 'owl'"),
        ({"classes": ("dog", "cat")}, "the classes are in another order"),
        (
            {"names": "abcdefxyz", "labels": [0, 1, 0, 1, 0, 1, 0, 0, 0]},
            "training examples: 3 added",
        ),
        (
            {"names": "bcdef", "labels": [1, 0, 1, 0, 0]},
            "training examples: 1 gone, 1 with other labels",
        ),
        ({"labels": (1, 0, 0, 1, 0, 1)}, "training examples: 2 with other labels"),
        (
            {"names": "cbadef"},
            "training examples: in another order",
        ),
        ({"test": "gh"}, "test examples: 1 added"),
        ({}, ""),
    ],
)
def test_what_has_changed_is_said(changed, words):
    assert Fingerprint.of(source()).changes(Fingerprint.of(source(**changed))) == words


def test_equal_rows_count_each():
    before = Fingerprint.of(source("aaab", [0, 0, 1, 1]))
    fewer, other = source("aab", [0, 0, 1]), source("aaab", [0, 0, 0, 1])
    assert before.changes(Fingerprint.of(fewer)) == "training examples: 1 gone"
    words = "training examples: 1 with other labels"
    assert before.changes(Fingerprint.of(other)) == words


# --- a run and its data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on a folder, of no account but for its data."""
    folder = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(0)
    for name, level in (("cat", 60), ("dog", 190)):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.normal(level, 9, (8, 8, 3)).clip(0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
    tasks.train(run(folder))
    return folder


def run(folder, **changes):
    settings = {
        **{"dataset": "folder", "data_dir": str(folder / "photos"), "image_size": 8},
        **{"backbone": "small_cnn", "epochs": 1, "batch_size": 4, "snapshots": 1},
        **{"method": "cross_entropy", "workdir": str(folder / "run")},
    }
    return Config(**{**settings, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("task", ["train", "evaluate", "audit"])
def test_a_run_is_not_opened_with_other_data(task, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    (folder / "photos" / "cat").rename(folder / "photos" / "feline")
    config = Config(
        task=task, workdir=str(folder / "run"), data_dir=str(folder / "photos")
    )
    if task == "train":
        config = run(folder, epochs=2)
    before = {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="classes gone: 'cat'; classes new: 'feline'"):
        tasks.TASKS[task](config)
    assert before == {p: p.read_bytes() for p in before}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_an_image_that_is_lost_in_mid_run_is_named(
    what, finished, tmp_path, monkeypatch
):
    shutil.copytree(finished / "photos", tmp_path / "photos")
    path = tmp_path / "photos" / "cat" / "3.png"
    whole, write = path.read_bytes(), Workdir.write_source

    def lose(*arguments):  # by now it has been checked
        write(*arguments)
        path.write_bytes(whole[:40]) if what == "damaged" else path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(Workdir, "write_source", lose)
        with pytest.raises(
            UserError, match="can't be read any more .1: .*cat/3.png.: "
        ):
            train(run(tmp_path))
    path.write_bytes(whole)
    train(run(tmp_path))
    assert Workdir(tmp_path / "run").finished()


@pytest.mark.slow
def test_a_run_of_an_older_version_is_opened_and_said_to_be(
    finished, tmp_path, capsys, caplog
):
    folder = shutil.copytree(finished, tmp_path / "copy")
    Workdir(folder / "run").fingerprint.unlink()
    (folder / "photos" / "cat" / "0.png").rename(folder / "photos" / "dog" / "x.png")
    config = Config(
        **{"task": "audit", "workdir": str(folder / "run")},
        data_dir=str(folder / "photos"),
    )
    tasks.TASKS["audit"](config)
    assert "labels are likely wrong" in capsys.readouterr().out
    assert "older version, which held out other examples" in caplog.text


def test_a_workdir_among_the_classes_is_refused(tmp_path):
    config = run(tmp_path, workdir=str(tmp_path / "photos" / "run"))
    with pytest.raises(UserError, match="photos/run lies in --data_dir=.*photos, wh"):
        Workdir(config.workdir).check(config)
