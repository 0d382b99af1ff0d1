"""Data sets of TFDS, as they are prepared on disk."""

import os
import pathlib
import shutil
import socket

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from clidmu_tf import data
from clidmu_tf.data import index
from clidmu_tf.errors import UserError

pytestmark = pytest.mark.slow

CLASSES = ("ant", "bee", "cow")
COUNT = 24


def examples(count, known=True):
    """Images that are all `i`, a true label `i % 3`, a given label one off."""
    for i in range(count):
        yield {
            "id": f"example_{i}",
            "image": np.full((6, 5, 3), i, "uint8"),
            "label": i % 3 if known else -1,
            "given": (i + 1) % 3 if known else -1,
            "coarse": 0,
        }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_noisy",
        version="1.0.0",
        data_dir=path,
        features=tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(6, 5, 3)),
                "label": tfds.features.ClassLabel(names=CLASSES),
                "given": tfds.features.ClassLabel(num_classes=3),
                "coarse": tfds.features.ClassLabel(num_classes=2),
            }
        ),
        split_datasets={
            "train": list(enumerate(examples(COUNT))),
            # As in a competition, the test split comes without labels.
            "test": list(enumerate(examples(6, known=False))),
            "validation": list(enumerate(examples(6))),
        },
    )
    return path


def load_tiny(path, **changes):
    settings = {"label_key": "given", "clean_label_key": "label"} | changes
    return data.load("tiny_noisy", data_dir=str(path), **settings)


def number(split):
    """Which example each is, by its pixels."""
    return split.inputs[:, 0, 0, 0].astype(int)


def test_tfds_gives_labels_true_labels_and_ids(prepared):
    source = load_tiny(prepared)
    train, which = source.train, number(source.train)
    assert sorted(which) == list(range(COUNT))
    assert list(train.ids) == [f"example_{i}" for i in which]
    np.testing.assert_array_equal(train.clean_labels, which % 3)
    np.testing.assert_array_equal(train.labels, (which + 1) % 3)
    assert source.class_names == CLASSES and source.image_shape == (6, 5, 3)


def test_tfds_reports_on_true_labels_of_the_split_that_has_them(prepared):
    test = load_tiny(prepared).test
    assert len(test) == 6
    np.testing.assert_array_equal(test.labels, number(test) % 3)


def test_tfds_keeps_its_own_order(prepared):
    source, part = load_tiny(prepared), load_tiny(prepared, train_examples=7)
    stored = tfds.load(
        "tiny_noisy", split="train", data_dir=prepared, shuffle_files=False
    )
    order = [example["id"].decode() for example in tfds.as_numpy(stored)]
    assert list(source.train.ids) == order
    assert list(part.train.ids) == order[:7]
    assert len(load_tiny(prepared, train_examples=10**6).train) == COUNT


def test_tfds_without_true_labels(prepared):
    train = load_tiny(prepared, label_key="label", clean_label_key="").train
    assert train.clean_labels is None
    np.testing.assert_array_equal(train.labels, number(train) % 3)


def test_tfds_resizes(prepared):
    source = load_tiny(prepared, image_size=4)
    assert source.image_shape == (4, 4, 3)
    assert source.train.inputs.shape == (COUNT, 4, 4, 3)
    assert sorted(number(source.train)) == list(range(COUNT))


def test_tfds_column_that_is_none_is_named(prepared):
    with pytest.raises(UserError, match="--label_key=id is no column .*given"):
        load_tiny(prepared, label_key="id")
    with pytest.raises(UserError, match="--clean_label_key=truth is no column"):
        load_tiny(prepared, clean_label_key="truth")
    with pytest.raises(UserError, match="other classes"):
        load_tiny(prepared, clean_label_key="coarse")


def test_tfds_files_that_are_gone_or_damaged_are_named(prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "copy")
    (records,) = pathlib.Path(copy).rglob("*train.tfrecord*")
    records.write_bytes(records.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read .*prepare it again"):
        load_tiny(copy)
    records.unlink()
    with pytest.raises(UserError, match="cannot be read .*prepare it again"):
        load_tiny(copy)


def test_tfds_images_that_were_damaged_since_are_named(prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "copy")
    train = load_tiny(copy, image_size=4, resize_size=5).train
    assert data.damaged(train) == []
    (path,) = pathlib.Path(copy).rglob("*train.tfrecord*")
    whole = path.read_bytes()
    with open(path, "r+b") as file:
        file.seek(whole.index(b"\x89PNG", whole.index(train.ids[3].encode()) - 200))
        file.write(b"none")
    assert len(data.damaged(train)) == 1


def index_files():
    return sorted(pathlib.Path(os.environ["XDG_CACHE_HOME"]).rglob("*"))


@pytest.mark.parametrize("keeps_time", [False, True])
def test_tfds_prepared_anew_at_the_same_place_is_read_anew(
    prepared, keeps_time, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = shutil.copytree(prepared, tmp_path / "copy")
    before = load_tiny(copy).train
    (path,) = pathlib.Path(copy).rglob("*train.tfrecord*")
    stat = path.stat()
    relabel(path)
    assert path.stat().st_size == stat.st_size
    if keeps_time:  # as `cp -p` and `rsync -t` do
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = load_tiny(copy).train
    np.testing.assert_array_equal(after.labels, (before.labels + 1) % 3)


def relabel(path):
    """Writes other given labels into a file of records, which stays as long."""
    stored = [*tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in map(tf.train.Example.FromString, stored):
            values = record.features.feature["given"].int64_list.value
            values[0] = (values[0] + 1) % 3
            writer.write(record.SerializeToString(deterministic=True))


def test_tfds_index_is_kept_in_the_cache_alone_and_half_of_it_goes(
    prepared, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = shutil.copytree(prepared, tmp_path / "copy")
    before = sorted(pathlib.Path(copy).rglob("*"))
    with monkeypatch.context() as patch:  # what a kill leaves
        patch.setattr(os, "replace", lambda *paths: None)
        load_tiny(copy)
    left = {path.suffix for path in index_files() if path.is_file()}
    assert left == {".part"}
    load_tiny(copy)
    kept = {path.name for path in index_files() if path.is_file()}
    assert kept == {"index_train.npz", "index_validation.npz"}
    assert sorted(pathlib.Path(copy).rglob("*")) == before
    with monkeypatch.context() as patch:  # and it is of use
        patch.setattr(index, "_scan", None)
        load_tiny(copy)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("cifar10_n", "not prepared in .*: run `tfds build cifar10_n --data_dir "),
        ("cifar10:99.9.9", "not prepared"),
        ("no_such_data", "unknown: use digits, folder, csv"),
        ("../elsewhere", "no name of a data set"),
    ],
)
def test_tfds_that_is_not_there_says_how_to_get_it(
    name, complaint, tmp_path, no_network
):
    with pytest.raises(UserError, match=complaint):
        data.load(name, data_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())
