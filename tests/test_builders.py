"""The TFDS builders: what is good is all there, what is bad is named, once."""

import functools
import os
import pathlib
import sys
import tempfile

import pytest
import tensorflow_datasets as tfds

import layouts
from clidmu_tf import data
from clidmu_tf.data.builders import Animal10n, Clothing1m, Food101n, Webvision, files
from clidmu_tf.errors import UserError

pytestmark = pytest.mark.slow

CASES = {
    "webvision/mini": (layouts.webvision, {}),
    "webvision/google": (layouts.webvision, {}),
    "webvision/full": (layouts.webvision, {}),
    "clothing1m/full": (layouts.clothing1m, {}),
    "animal10n": (layouts.animal10n, {}),
    "animal10n by class": (layouts.animal10n, {"by_class": True}),
    "food101n": (layouts.food101n, {}),
    "food101n alone": (layouts.food101n, {"with_test": False}),
}
OPENED = []
sys.addaudithook(lambda name, arguments: name == "open" and OPENED.append(arguments[0]))


class Case:
    """A prepared small copy."""

    def __init__(self, key, folder):
        write, options = CASES[key]
        self.name = key.split()[0]
        self.copy = write(folder / "root", **options)
        self.data_dir = folder / "tfds"
        OPENED.clear()
        self.prepared = data.prepare(
            self.name, manual_dir=self.copy.root, data_dir=self.data_dir
        )
        self.opened = [str(path) for path in OPENED]

    def expected(self):
        good = self.copy.good
        if not self.name.startswith("webvision"):
            return good
        if self.name == "webvision/mini":
            return {s: good[s] for s in ("train", "validation", "imagenet_validation")}
        train = good["train"] | good["google"]
        if self.name == "webvision/full":
            train |= good["flickr"]
        validation = good["validation"] | good["validation_of_all"]
        return {"train": train, "validation": validation}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp("copy"))


def stored(name, data_dir):
    """`{split: {id: (label, bytes)}}` of what was prepared, and its class names."""
    builder = tfds.builder(name, data_dir=data_dir)
    decoders = {"image": tfds.decode.SkipDecoding()}
    found = {}
    for split, dataset in builder.as_dataset(decoders=decoders).items():
        rows = list(tfds.as_numpy(dataset))
        found[split] = {
            r["id"].decode(): (int(r["label"]), bytes(r["image"])) for r in rows
        }
        assert len(found[split]) == len(rows)
    return found, builder.info.features["label"].names


def report_of(prepared):
    lines = prepared.report.read_text().splitlines()
    return [tuple(line.split("\t")) for line in lines]


def test_good_images_are_all_there_with_label_id_and_their_own_bytes(case):
    found, _ = stored(case.name, case.data_dir)
    assert found == case.expected()
    assert case.prepared.counts == {split: len(rows) for split, rows in found.items()}


def test_each_is_decoded_to_three_channels(case):
    for dataset in tfds.load(case.name, data_dir=case.data_dir).values():
        for example in dataset:
            assert example["image"].shape[-1] == 3


def test_bad_ones_are_named_once_in_one_report(case):
    rows = report_of(case.prepared)
    assert set(rows) == case.copy.bad
    assert case.prepared.bad.total() == len(rows)
    # A label out of range comes twice in WebVision's list: 1000 and -1.
    repeated = [row for row in set(rows) if rows.count(row) > 1]
    assert {reason for _, reason, _ in repeated} <= {files.OUT_OF_RANGE}


def test_nothing_outside_of_the_root_is_read(case):
    inside = [path for path in case.opened if str(case.copy.root) in path]
    assert len(inside) > len(case.copy.good)
    assert not [p for p in case.opened if "outside" in os.path.realpath(p)]


def test_class_names_are_the_published_ones(tmp_path):
    data.prepare(
        "webvision",
        manual_dir=layouts.webvision(tmp_path / "w").root,
        data_dir=tmp_path,
    )
    names = stored("webvision/mini", tmp_path)[1]
    assert len(names) == 50
    assert names[:2] == ["n00000000 tench", "n00000001 goldfish"]
    assert Clothing1m(data_dir=tmp_path).info.features["label"].names[-1] == "Underwear"
    assert Animal10n(data_dir=tmp_path).info.features["label"].int2str(4) == "cheetah"


@pytest.mark.parametrize(
    "builder, config, classes, counts",
    [
        (Webvision, "mini", 50, {"train": 65_944, "validation": 2_500}),
        (Webvision, "google", 1000, {"train": 980_449, "validation": 50_000}),
        (Webvision, "full", 1000, {"train": 2_439_574, "validation": 50_000}),
        (Clothing1m, "full", 14, {"train": 1_000_000, "clean_train": 47_570}),
        (Clothing1m, "balanced", 14, {"validation": 14_313, "test": 10_526}),
        (Animal10n, None, 10, {"train": 50_000, "test": 5_000}),
        (Food101n, None, 101, {"train": 310_009, "test": 25_250}),
    ],
)
def test_published_counts(builder, config, classes, counts, tmp_path):
    made = builder(data_dir=tmp_path, config=config)
    assert made.info.features["label"].num_classes == classes
    assert made.published.items() >= counts.items()


def test_balanced_keeps_as_many_of_each_class_always_the_same(tmp_path):
    copy = layouts.clothing1m(tmp_path / "root")
    found = []
    for name in ("one", "two"):
        data.prepare(
            "clothing1m/balanced", manual_dir=copy.root, data_dir=tmp_path / name
        )
        found.append(stored("clothing1m/balanced", tmp_path / name)[0])
    assert found[0] == found[1]
    train = found[0]["train"]
    assert sorted(label for label, _ in train.values()) == [0, 0, 1, 1, 13, 13]
    assert train.items() <= copy.good["train"].items()
    assert found[0]["test"] == copy.good["test"]


def test_any_split_trains_and_any_tests(tmp_path):
    copy = layouts.clothing1m(tmp_path / "root")
    data.prepare("clothing1m/full", manual_dir=copy.root, data_dir=tmp_path)
    load = functools.partial(
        data.load, "clothing1m/full", data_dir=str(tmp_path), image_size=8
    )
    usual, other = load(), load(train_split="clean_train", test_split="validation")
    for source, splits in (
        (usual, ["train", "test"]),
        (other, ["clean_train", "validation"]),
    ):
        for found, split in zip((source.train, source.test), splits, strict=True):
            labels = dict(zip(found.ids, found.labels, strict=True))
            assert labels == {k: c for k, (c, _) in copy.good[split].items()}
    with pytest.raises(UserError, match="--test_split=val is no split of"):
        load(test_split="val")
    with pytest.raises(UserError, match="leave it at"):
        data.load("digits", test_split="validation")


# --- TFDS's own test of a builder


class BuilderCase(tfds.testing.DatasetBuilderTestCase):
    __test__ = False
    WRITE = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.EXAMPLE_DIR = cls.WRITE(folder / "root").root

    def test_session(self, *args, **kwargs):
        return super().test_session(*args, **kwargs)

    test_session.__test__ = False  # a helper of tf.test, by its name a test


class WebvisionTest(BuilderCase):
    __test__ = True
    DATASET_CLASS, WRITE = Webvision, staticmethod(layouts.webvision)
    BUILDER_CONFIG_NAMES_TO_TEST = ["mini"]
    SPLITS = {"train": 6, "validation": 3, "imagenet_validation": 2}


class Clothing1mTest(BuilderCase):
    __test__ = True
    DATASET_CLASS, WRITE = Clothing1m, staticmethod(layouts.clothing1m)
    BUILDER_CONFIG_NAMES_TO_TEST = ["full"]
    SPLITS = {"train": 7, "clean_train": 4, "validation": 4, "test": 2}


class Animal10nTest(BuilderCase):
    __test__ = True
    DATASET_CLASS, WRITE = Animal10n, staticmethod(layouts.animal10n)
    SPLITS = {"train": 5, "test": 5}


class Food101nTest(BuilderCase):
    __test__ = True
    DATASET_CLASS, WRITE = Food101n, staticmethod(layouts.food101n)
    SPLITS = {"train": 9, "test": 2}
