"""Folders of images: which are read, which are refused, what is held out."""

import os
import pathlib
import shutil
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from clidmu_tf import data
from clidmu_tf.data import check, decode, threads
from clidmu_tf.data.pipeline import evaluation_batches
from clidmu_tf.engine.callbacks import clid_of, mean_clid
from clidmu_tf.errors import UserError
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.datasets import account
from clidmu_tf.runs.experiment import Experiment

pytestmark = pytest.mark.slow


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
