"""Where examples come from: digits, folders of images, prepared TFDS data sets."""

import os
import pathlib
import shutil
import socket
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from clidmu_tf import data
from clidmu_tf.data import check, decode, index, threads
from clidmu_tf.data.pipeline import evaluation_batches
from clidmu_tf.engine.callbacks import clid_of, mean_clid
from clidmu_tf.errors import UserError
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.datasets import account
from clidmu_tf.runs.experiment import Experiment

pytestmark = pytest.mark.slow

# --- digits


def test_digits_split_is_fixed_disjoint_and_stratified():
    source, again = data.load("digits", seed=0), data.load("digits", seed=7)
    train, test = set(source.train.ids), set(source.test.ids)
    assert len(train) + len(test) == 1797 == len(train | test)
    np.testing.assert_array_equal(source.test.ids, again.test.ids)
    shares = [np.bincount(s.labels) / len(s) for s in (source.train, source.test)]
    np.testing.assert_allclose(*shares, atol=1.5 / 500)
    np.testing.assert_array_equal(source.train.labels, source.train.clean_labels)


def test_train_examples_keeps_the_first():
    whole, part = data.load("digits"), data.load("digits", train_examples=7)
    np.testing.assert_array_equal(part.train.ids, whole.train.ids[:7])
    np.testing.assert_array_equal(part.test.ids, whole.test.ids)
    assert len(data.load("digits", train_examples=10**6).train) == len(whole.train)


# --- folder


def paint(path, color=(204, 51, 51), mode="RGB", size=(12, 10), format=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path, format)


def make_folder(root, counts, prefix=""):
    for label, (name, count) in enumerate(counts.items()):
        for i in range(count):
            paint(root / name / f"{prefix}{i:02}.png", (20 * i, 40 * label, 90))
    return root


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "images", {"cat": 6, "dog": 6})


def load(root, **changes):
    return data.load("folder", data_dir=str(root), image_size=8, **changes)


def names_of(source):
    return {*source.train.ids, *source.test.ids}


def pixels(split):
    batches = evaluation_batches(split, batch_size=50, image_shape=(8, 8, 3))
    return np.concatenate([x for x, _ in batches.as_numpy_iterator()])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_snapshot_inputs_are_bytes_that_count_as_the_floats(precision, root):
    photo = np.random.default_rng(0).integers(0, 256, (33, 27, 3), "uint8")
    for i, path in enumerate(sorted(root.rglob("*.png"))):
        Image.fromarray(np.roll(photo, 5 * i)).save(path)
    config = Config(
        **{"dataset": "folder", "data_dir": str(root), "image_size": 8},
        **{"batch_size": 4, "backbone": "small_cnn", "precision": precision},
    )
    experiment = Experiment(config)
    kept, split = experiment.snapshots().data, experiment.meta_split
    floats = pixels(split)
    assert kept.dtype == "uint8" and np.ptp(kept) > 100
    np.testing.assert_array_equal(kept, floats)
    model = experiment.model
    measure = clid_of(model.classifier, None, 0.5)
    values = [mean_clid(measure, x, 5) for x in (kept, floats)]
    assert values[0] == values[1]
    weights = [model.weigh(x, split.labels) for x in (kept, floats)]
    np.testing.assert_array_equal(*weights)


ODD_IMAGES = {
    "grey.png": {"mode": "L"},
    "grey and alpha.png": {"mode": "LA"},
    "alpha.png": {"mode": "RGBA"},
    "palette.png": {"mode": "P"},
    "cmyk.jpg": {"mode": "CMYK"},
    "grey.jpeg": {"mode": "L"},
    "is a png.jpg": {"format": "png"},
    "SHOUTED.JPG": {"format": "jpeg"},
    "naïve – 猫.png": {},
    "deeper/inside.png": {},
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_folder_reads_every_kind_of_jpeg_and_png(root, name):
    paint(root / "cat" / name, **ODD_IMAGES[name])
    source = load(root)
    assert f"cat/{name}" in names_of(source)
    for split in (source.train, source.test):
        at = split.ids == f"cat/{name}"
        expected = Image.open(root / "cat" / name).convert("RGB").getpixel((0, 0))
        for image in pixels(split)[at]:
            np.testing.assert_allclose(image[0, 0], expected, atol=6)


def corrupt(path, kind):
    paint(path, format="jpeg", size=(60, 60))
    whole = path.read_bytes()
    contents = {
        **{"text": b"no image", "empty": b"", "cut": whole[: len(whole) // 2]},
        "start of a PNG": b"\x89PNG\r\n",
    }
    path.write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "start of a PNG"])
def test_corrupt_image_is_named_or_left_out(root, kind, caplog):
    corrupt(root / "cat" / "broken.jpg", kind)
    with pytest.raises(UserError, match=r"cat/broken\.jpg.*--on_bad_image=skip"):
        load(root)
    source = load(root, on_bad_image="skip")
    assert "cat/broken.jpg" not in names_of(source) and len(names_of(source)) == 12
    assert "broken.jpg" in caplog.text


def bomb(side=20_000):
    """A PNG of but some bytes, whose header claims that many pixels a side."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tiff"])
def test_pixels_are_counted_and_limited_before_any_is_decoded(
    suffix, root, monkeypatch
):
    path = root / "cat" / f"large.{suffix}"
    paint(path, size=(13, 11))
    assert decode.count_pixels(path.read_bytes()) == 13 * 11
    assert len(names_of(load(root, max_pixels=13 * 11))) == 13
    decoded, whole = [], check._decode
    monkeypatch.setattr(check, "_decode", lambda file: decoded.append(whole(file)))
    with pytest.raises(UserError, match=f"more than --max_pixels=142.*large.{suffix}"):
        load(root, max_pixels=142)
    assert {int(size) for size in decoded} == {12 * 10 * 3}


def test_a_bomb_is_not_decoded(root):
    (root / "cat" / "bomb.png").write_bytes(bomb())
    assert decode.count_pixels(bomb()) == 20_000**2
    with pytest.raises(decode.TooManyPixels, match="400,000,000 pixels are more than"):
        with decode.room_for(bomb(), decode.MAX_PIXELS):
            pass
    with pytest.raises(UserError, match="more than --max_pixels=200000000.*bomb.png"):
        load(root)


def test_images_of_a_csv_file_are_limited_too(root):
    (root / "cat" / "bomb.png").write_bytes(bomb())
    names = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    rows = [f"{name},{name.parent}" for name in names]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    how = {"data_dir": root / "labels.csv", "image_column": "file"}
    with pytest.raises(UserError, match="cat/bomb.png; mend or remove"):
        data.load("csv", **how)
    source = data.load("csv", on_bad_image="skip", **how)
    assert len(source.train) + len(source.test) == 12


def test_an_image_that_grew_since_it_was_checked_is_not_decoded(root):
    source = load(root, max_pixels=120)
    paint(root / "cat" / "00.png", size=(13, 11))
    split = source.train if "cat/00.png" in source.train.ids else source.test
    with pytest.raises(tf.errors.InvalidArgumentError):
        pixels(split)


def test_threads_hold_no_more_than_a_budget_but_for_one_that_is_alone():
    budget, seen = threads.Budget(10), []

    def work(amount):
        with budget.take(amount):
            seen.append(budget.taken)
            return amount

    amounts = [3, 4, 25, 6, 10, 1, 7] * 20
    assert [*threads.in_threads(work, amounts)] == amounts
    assert max(taken for taken in seen if taken != 25) <= 10
    assert budget.taken == 0


def test_class_left_empty_by_skipping_is_named(root):
    corrupt(root / "zebra" / "only.jpg", "text")
    with pytest.raises(UserError, match="zebra holds no"):
        load(root, on_bad_image="skip")


def test_hidden_and_other_files_are_ignored(root):
    for hidden in (".DS_Store.png", "._00.png", ".thumbs/00.png"):
        paint(root / "cat" / hidden)
    paint(root / ".cache" / "00.png")
    (root / "cat" / "notes.txt").write_text("not an image")
    source = load(root)
    assert source.class_names == ("cat", "dog") and len(names_of(source)) == 12


def test_links_out_of_the_folder_are_not_followed(root, tmp_path, caplog):
    paint(tmp_path / "outside" / "secret.png")
    os.symlink(tmp_path / "outside" / "secret.png", root / "cat" / "link.png")
    os.symlink(root / "dog" / "00.png", root / "cat" / "inside.png")
    names = names_of(load(root))
    assert "cat/link.png" not in names and "cat/inside.png" in names
    assert "Left out 1 links" in caplog.text


def test_folder_may_be_given_as_the_current_one_or_a_link(root, tmp_path, monkeypatch):
    os.symlink(root, tmp_path / "link")
    assert len(names_of(load(tmp_path / "link"))) == 12
    monkeypatch.chdir(root)
    assert len(names_of(load("."))) == 12


def test_held_out_split_follows_the_seed_and_stays_when_images_come_and_go(tmp_path):
    root = make_folder(tmp_path, {"cat": 20, "dog": 10})
    first, again, other = (load(root, holdout=0.2, seed=seed) for seed in (0, 0, 1))
    assert not set(first.train.ids) & set(first.test.ids)
    np.testing.assert_array_equal(first.test.ids, again.test.ids)
    assert set(first.test.ids) != set(other.test.ids)
    (root / "cat" / "07.png").rename(root / "cat" / "another.png")
    now = load(root, holdout=0.2, seed=0)
    changed = {"cat/07.png", "cat/another.png"}
    assert set(now.test.ids) - changed == set(first.test.ids) - changed


def test_something_is_always_held_out_of_each_class(root):
    assert np.bincount(load(root, holdout=0.0).test.labels).tolist() == [1, 1]
    shutil.rmtree(root / "cat")
    paint(root / "cat" / "only.png")
    with pytest.raises(UserError, match="1 images"):
        load(root)


def test_train_and_test_folders_are_used_as_they_are(tmp_path):
    make_folder(tmp_path / "train", {"cat": 3, "dog": 3, "owl": 3})
    make_folder(tmp_path / "test", {"cat": 2, "owl": 1}, prefix="t")
    source = load(tmp_path)
    assert source.class_names == ("cat", "dog", "owl")
    assert list(source.test.labels) == [0, 0, 2]  # no dog to test on
    assert list(source.test.ids) == ["cat/t00.png", "cat/t01.png", "owl/t00.png"]
    paint(tmp_path / "test" / "yak" / "00.png")
    with pytest.raises(UserError, match="yak"):
        load(tmp_path)


def lay_out(root, *folders):
    """Makes folders, of two images each where they end in a class."""
    for name in folders:
        for label in ("cat", "dog") if name.endswith("/") else ("",):
            make_folder(root / name, {label: 2}, prefix=name.strip("/"))
    return root


@pytest.mark.parametrize(
    "folders, trained, tested, words",
    [
        (["training/", "testing/"], "training", "testing", "tested on those in"),
        (["Train/", "valid/"], "Train", "valid", "tested on those in"),
        (["train/", "val/", "test/"], "train", "test", "/val is not read"),
        (["train/", "test"], "train", None, "/test is not read"),
        (["TRAIN/", "validation/", ".git/"], "TRAIN", "validation", ""),
        (["train", "bus", "test"], "", None, "but for a part of each, to test on"),
    ],
)
def test_usual_layouts_are_understood_and_said(
    folders, trained, tested, words, tmp_path
):
    source = load(lay_out(tmp_path, *folders))
    assert {pathlib.Path(p).parents[1] for p in source.train.inputs} == {
        tmp_path / trained
    }
    tests = {pathlib.Path(p).parents[1] for p in source.test.inputs}
    assert tests == {tmp_path / (trained if tested is None else tested)}
    assert source.test_is_given == (tested is None)
    assert words in source.reading
    said = f"Trained on the class folders in {tmp_path / trained}"
    assert "".join(account(source).split()).startswith("".join(said.split()))


@pytest.mark.parametrize(
    "folders, words",
    [
        (["test/"], "has test/ and no train/ with a folder for each"),
        (["test/", "cat", "dog"], "has test/ and no train/"),
        (["train", "test"], "has test/, train/ and no train/"),
        (["train/", "cow", "owl"], "has images in cow/, owl/ beside those in train/"),
        (["train/", "training/"], "has both train and training"),
        (["train/", "test/", "testing/"], "has both test and testing"),
        (["train/", "val/", "valid/"], "has both val and valid"),
    ],
)
def test_ambiguous_layouts_are_refused(folders, words, tmp_path):
    with pytest.raises(UserError, match=words):
        load(lay_out(tmp_path, *folders))


def test_splits_that_are_links_are_refused(tmp_path):
    lay_out(tmp_path / "outside", "train/", "test/")
    root = lay_out(tmp_path / "photos", "train/")
    (root / "test").symlink_to(tmp_path / "outside" / "test")
    with pytest.raises(UserError, match="photos/test is a link"):
        load(root)
    (root / "test").unlink()
    shutil.rmtree(root / "train")
    (root / "train").symlink_to(tmp_path / "outside" / "train")
    with pytest.raises(UserError, match="photos/train is a link"):
        load(root)


def test_a_folder_that_may_not_be_read_is_named(root, monkeypatch):
    scan = os.scandir

    def refuse(path="."):
        if str(path).endswith("dog"):  # nothing is refused to the root of a machine
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="images/dog cannot be read .Permission denied"):
        load(root)


def test_part_of_a_folder_keeps_its_classes(tmp_path):
    root = make_folder(tmp_path, {"cat": 30, "dog": 30})
    part, again = (load(root, train_examples=20) for _ in range(2))
    assert np.bincount(part.train.labels).min() >= 4
    np.testing.assert_array_equal(part.train.ids, again.train.ids)


def test_folders_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(UserError, match="--data_dir= is no folder"):
        data.load("folder")
    with pytest.raises(UserError, match="missing is no folder"):
        load(tmp_path / "missing")
    with pytest.raises(UserError, match="no sub-folder"):
        load(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="one class alone, 'cat'"):
        load(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="cat holds no image .JPEG, PNG"):
        load(tmp_path)


# --- TFDS

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
        ("no_such_data", "unknown: use digits, folder"),
        ("../elsewhere", "no name of a data set"),
    ],
)
def test_tfds_that_is_not_there_says_how_to_get_it(
    name, complaint, tmp_path, no_network
):
    with pytest.raises(UserError, match=complaint):
        data.load(name, data_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())
