"""Preparing: what it says, what it leaves, and that it may be cut off."""

import contextlib
import fcntl
import functools
import io
import json
import logging
import resource
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import layouts
from clidmu_tf import data
from clidmu_tf.data import threads
from clidmu_tf.data.builders import Webvision, files, manual
from clidmu_tf.errors import UserError
from clidmu_tf.runs import tasks as run
from clidmu_tf.runs.config import Config


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return layouts.animal10n(tmp_path_factory.mktemp("animals") / "root")


def prepared_bytes(path):
    """Every prepared record file, and the report."""
    files = [*path.glob("*.tfrecord*"), path / "bad_images.txt"]
    return {file.name: file.read_bytes() for file in files}


# --- what is said


def test_prepare_prints_what_it_found_and_how_to_train(copy, tmp_path, capsys):
    config = Config(
        task="prepare",
        dataset="animal10n",
        data_dir=str(tmp_path),
        manual_dir=str(copy.root),
    )
    folder = tmp_path / "animal10n" / "1.0.0"
    for _ in range(2):  # the second finds it prepared
        run.TASKS["prepare"](config)
        lines = capsys.readouterr().out.splitlines()
        rows = [line.split() for line in lines]
        assert ["train", "5", "50,000", str(len(copy.bad))] in rows
        assert ["test", "5", "5,000", "0"] in rows
        assert ["train", *files.NO_IMAGE.split(), "3"] in rows
        assert f"Each is named in {folder / 'bad_images.txt'}" in lines
        assert f"The data lie in {folder}" in lines
        flags = f"--flagfile=configs/animal10n.cfg --data_dir={tmp_path}"
        assert f"Train with: python train.py {flags}" in lines


def test_training_unprepared_data_names_the_command(tmp_path):
    with pytest.raises(UserError) as error:
        data.load("webvision/mini", data_dir=str(tmp_path), image_size=8)
    command = "python train.py --task=prepare --dataset=webvision/mini"
    assert command in str(error.value)
    assert f"--data_dir={tmp_path}" in str(error.value)


def refused(name="animal10n", **arguments):
    with pytest.raises(UserError) as error:
        data.prepare(name, **arguments)
    return str(error.value)


def test_mistakes_are_named_with_the_way_out(copy, tmp_path):
    root, out = copy.root, tmp_path / "tfds"
    assert "--manual_dir=gone is no folder" in refused(manual_dir="gone", data_dir=out)
    lists = refused("webvision/mini", manual_dir=root, data_dir=out)
    assert "info/synsets.txt, info/train_filelist_google.txt, info/val_file" in lists
    assert "webvision/maxi" in refused("webvision/maxi", manual_dir=root)
    assert "--dataset=cifar10_n" in refused("cifar10_n", manual_dir=root)
    assert "--dataset=nothing" in refused("nothing", manual_dir=root)
    assert not out.exists()
    out.write_text("a file")
    assert "could not be prepared" in refused(manual_dir=root, data_dir=out)


def test_lists_without_images_are_refused_and_leave_nothing(tmp_path):
    copy = layouts.animal10n(tmp_path / "root")
    for path in (copy.root / "testing").iterdir():
        path.unlink()
    message = refused(manual_dir=copy.root, data_dir=tmp_path / "tfds")
    assert "no good image of the split test" in message
    assert not list((tmp_path / "tfds").rglob("*.tfrecord*"))


def test_a_list_that_leads_out_is_missing(tmp_path):
    copy = layouts.webvision(tmp_path / "root")
    path = copy.root / "info" / "val_filelist.txt"
    path.rename(tmp_path / "elsewhere.txt")
    path.symlink_to(tmp_path / "elsewhere.txt")
    message = refused("webvision/mini", manual_dir=copy.root, data_dir=tmp_path / "out")
    assert "lacks info/val_filelist.txt of webvision" in message


def test_wrong_number_of_classes_is_refused(tmp_path):
    copy = layouts.webvision(tmp_path / "root")
    copy.text("info/synsets.txt", ["n00000000 tench"])
    message = refused("webvision/mini", manual_dir=copy.root, data_dir=tmp_path / "out")
    assert "names 1 classes of webvision, which has 50" in message


def test_one_warning_has_both_counts(copy, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "clidmu_tf"):
        data.prepare("animal10n", manual_dir=copy.root, data_dir=tmp_path)
    told = [r.getMessage() for r in caplog.records if "published" in r.getMessage()]
    assert len(told) == 1
    both = "train has 5, published are 50,000; test has 5, published are 5,000"
    assert both in told[0]


# --- what is stored


def test_prepare_size_brings_the_shorter_side_down_and_never_up(tmp_path):
    copy = layouts.animal10n(tmp_path / "root")
    large, small = Image.new("RGB", (90, 61)), Image.new("RGB", (90, 40), "red")
    for name, image in (("large", large), ("small", small)):
        file = io.BytesIO()
        image.save(file, "PNG")
        copy.write(f"training/1_{name}.png", file.getvalue())
    found = data.prepare("animal10n", manual_dir=copy.root, data_dir=tmp_path, size=45)
    stored = {
        example["id"].decode(): bytes(example["image"])
        for example in tfds.as_numpy(
            tfds.load(
                "animal10n",
                split="train",
                data_dir=tmp_path,
                decoders={"image": tfds.decode.SkipDecoding()},
            )
        )
    }
    resized = Image.open(io.BytesIO(stored["training/1_large.png"]))
    assert (resized.size, resized.format) == ((round(90 * 45 / 61), 45), "JPEG")
    kept = (copy.root / "training/1_small.png").read_bytes()
    assert stored["training/1_small.png"] == kept
    assert all(min(Image.open(io.BytesIO(i)).size) <= 45 for i in stored.values())
    assert found.counts["train"] == 7
    # Another size would be another data set: it does not take this one's place.
    other = refused(manual_dir=copy.root, data_dir=tmp_path)
    assert "--prepare_size=45; received 0" in other


def test_images_of_too_many_pixels_are_left_out_by_their_headers(
    copy, tmp_path, monkeypatch
):
    decoded, to_store = [], files.to_store

    def note(data, size):
        decoded.append(area(data))
        return to_store(data, size)

    monkeypatch.setattr(files, "to_store", note)
    sizes = {
        split: {name: area(image) for name, (_, image) in images.items()}
        for split, images in copy.good.items()
    }
    limit = max(min(areas.values()) for areas in sizes.values())
    made = data.prepare(
        "animal10n", manual_dir=copy.root, data_dir=tmp_path, max_pixels=limit
    )
    large = {
        f"{split}\t{files.TOO_LARGE}\t{name}"
        for split, areas in sizes.items()
        for name, size in areas.items()
        if size > limit
    }
    assert large and large <= set(made.report.read_text().splitlines())
    assert max(decoded) <= limit


def area(data):
    with contextlib.suppress(OSError), Image.open(io.BytesIO(data)) as image:
        return image.width * image.height
    return 0


def test_an_animated_gif_is_stored_as_its_first_frame():
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    stored = Image.open(io.BytesIO(files.to_store(file.getvalue(), 0)))
    assert stored.format == "PNG"
    assert np.array_equal(np.array(stored.convert("RGB")), np.array(frames[0]))


def test_sorting_on_disk_or_in_memory_comes_to_the_same_files(
    copy, tmp_path, monkeypatch
):
    found = []
    for name, size in (("memory", 2**30), ("disk", 1)):
        monkeypatch.setattr(manual, "BUFFER_BYTES", size)
        out = tmp_path / name
        made = data.prepare("animal10n", manual_dir=copy.root, data_dir=out)
        found.append(prepared_bytes(made.path))
    assert found[0] == found[1]


# --- cut off, and begun again


def test_a_preparation_that_was_cut_off_starts_again(copy, tmp_path, monkeypatch):
    whole = data.prepare("animal10n", manual_dir=copy.root, data_dir=tmp_path / "a")
    examine, calls = files.examine, []

    def interrupted(entry, **arguments):
        calls.append(entry)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return examine(entry, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files, "examine", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.prepare("animal10n", manual_dir=copy.root, data_dir=tmp_path / "b")
    # What a killed process, which can clear nothing, leaves behind.
    left = tmp_path / "b" / "animal10n" / "incomplete.ABCDEF_1.0.0"
    left.mkdir()
    (left / "bucket_000.tmp").write_bytes(b"half")
    again = data.prepare("animal10n", manual_dir=copy.root, data_dir=tmp_path / "b")
    assert prepared_bytes(again.path) == prepared_bytes(whole.path)
    assert not list(again.path.parent.glob("incomplete*"))


def test_a_half_written_file_of_all_configs_is_cleared(tmp_path):
    copy = layouts.webvision(tmp_path / "root")
    prepared = tmp_path / "out" / "webvision"
    left = prepared / ".config" / "incomplete.ABCDEF.metadata.json"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    prepare = functools.partial(
        data.prepare, "webvision/mini", manual_dir=copy.root, data_dir=tmp_path / "out"
    )
    with open(left.parent / ".preparing", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # by who prepares another config meanwhile
        prepare()
        assert left.exists()
    shutil.rmtree(prepared / "mini")
    prepare()
    assert not left.exists()


def test_two_at_once_are_refused(copy, tmp_path):
    folder = tmp_path / "animal10n"
    folder.mkdir()
    with open(folder / ".preparing", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refused(manual_dir=copy.root, data_dir=tmp_path)
    assert "is being prepared by another process" in message
    assert data.prepare("animal10n", manual_dir=copy.root, data_dir=tmp_path).counts


def test_a_full_disk_is_said_in_a_sentence_and_leaves_nothing(copy, tmp_path):
    """A file may grow no further, as on a disk that is full."""
    root = shutil.copytree(copy.root, tmp_path / "root", symlinks=True)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), "uint8")
    Image.fromarray(noise).save(root / "training" / "0_noise.png")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, limits[1]))
    try:
        message = refused(manual_dir=root, data_dir=tmp_path / "tfds")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "could not be prepared in" in message and "File too large" in message
    assert "\n" not in message
    left = [p.name for p in (tmp_path / "tfds").rglob("*") if p.is_file()]
    assert left == [".preparing"]
    found = data.prepare("animal10n", manual_dir=root, data_dir=tmp_path / "tfds")
    assert found.counts["train"] == 6


# --- prepared data that are damaged


@pytest.fixture(scope="module")
def prepared(copy, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("prepared")
    data.prepare("animal10n", manual_dir=copy.root, data_dir=data_dir)
    return data_dir


@pytest.fixture
def folder(prepared, tmp_path):
    """A folder of prepared data, to be damaged."""
    return shutil.copytree(prepared, tmp_path / "data") / "animal10n" / "1.0.0"


@pytest.mark.parametrize(
    "name, contents",
    [
        ("dataset_info.json", b"{"),
        ("dataset_info.json", b"{}"),
        ("dataset_info.json", b"\xff\xfe\0"),
        ("dataset_info.json", None),
        ("features.json", b'{"pythonClassName": "'),
        ("animal10n-test.tfrecord-00000-of-00001", None),
    ],
)
def test_damaged_files_are_named_by_whoever_opens_them(name, contents, folder, copy):
    path, data_dir = folder / name, folder.parents[1]
    path.unlink() if contents is None else path.write_bytes(contents)
    said = "cannot be read .*: remove that folder and prepare it again.$"
    for open_it in (
        lambda: data.load("animal10n", data_dir=data_dir, image_size=8),
        lambda: data.prepare("animal10n", manual_dir=copy.root, data_dir=data_dir),
    ):
        with pytest.raises(UserError, match=f"^The data set in {folder} {said}"):
            open_it()


def test_an_empty_version_folder_is_no_data_set(copy, tmp_path):
    (tmp_path / "animal10n" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match="is not prepared in"):
        data.load("animal10n", data_dir=tmp_path, image_size=8)
    made = data.prepare("animal10n", manual_dir=copy.root, data_dir=tmp_path)
    assert made.counts == {"train": 5, "test": 5}


@pytest.mark.parametrize("is_old", [False, True])
def test_features_of_foreign_classes_are_not_imported(is_old, folder, monkeypatch):
    (folder / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(folder)
    text = (folder / "features.json").read_text()
    own = "tensorflow_datasets.core.features.text_feature.Text"
    if is_old:  # as TFDS wrote it before 4.4
        parts = {"id": {"type": "trap.Text", "content": {}}}
        features = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
        text = json.dumps({"type": features, "content": parts})
    (folder / "features.json").write_text(text.replace(own, "trap.Text"))
    with pytest.raises(UserError, match="class 'trap.Text', which is none of TFDS's"):
        data.load("animal10n", data_dir=folder.parents[1], image_size=8)


# --- the parts


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside", "a/../../outside", "link", "link/secret", "a/../a/b"],
)
def test_locate_never_leads_out(name, tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "b").touch()
    (root / "link").symlink_to(tmp_path)
    assert files.locate(str(root), "a/b") == str(root / "a" / "b")
    assert files.locate(str(root), name) is None


def test_threads_keep_the_order_and_read_but_a_few_ahead():
    pulled, ahead = 0, []

    def items():
        nonlocal pulled
        while pulled < 1000:
            pulled += 1
            yield pulled

    found = []
    for value in threads.in_threads(lambda x: x * x, items()):
        found.append(value)
        ahead.append(pulled - len(found))
    assert found == [x * x for x in range(1, 1001)]
    assert max(ahead) <= threads.AHEAD


def test_once_marks_all_but_the_first_of_each_good_id():
    entries = [files.Entry(name, 0) for name in "abacaba"]
    entries[0] = entries[0]._replace(problem=files.OUT_OF_RANGE)
    marks = [entry.problem for entry in files.once(lambda: iter(entries))]
    first, twice = files.OUT_OF_RANGE, files.TWICE
    assert marks == [first, "", "", "", twice, twice, twice]


def test_prepared_data_need_no_builder_and_no_folder(copy, tmp_path):
    made = data.prepare("animal10n", manual_dir=copy.root, data_dir=tmp_path)
    builder = tfds.builder_from_directory(made.path)
    assert builder.info.features["label"].names[9] == "guinea pig"
    assert Webvision(data_dir=tmp_path, config="mini").info.splits == {}
