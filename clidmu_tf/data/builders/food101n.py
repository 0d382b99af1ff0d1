"""Food-101N: what the web shows for the 101 dishes of Food-101."""

import functools
import pathlib

from clidmu_tf.data.builders import files
from clidmu_tf.data.builders.manual import ManualBuilder

HOME = "Food-101N_release"
CLASSES_LIST = f"{HOME}/meta/classes.txt"
TRAIN_LIST = f"{HOME}/meta/imagelist.tsv"
VERIFIED_LIST = f"{HOME}/meta/verified_val.tsv"
TEST_LIST = "food-101/meta/test.txt"
VERIFIED = 4_741


class Food101n(ManualBuilder):
    """Food-101N (Lee et al., CVPR 2018), 101 classes, about 20 % of the labels wrong.

    Its published task trains on all images and tests on those of Food-101. Where these
    are not in the folder, the images that people checked for validation are taken out
    of the training images, and those with a right label become the split `validation`.
    """

    HOMEPAGE = "https://kuanghuei.github.io/Food-101N/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds Food-101N_release/ with meta/classes.txt, meta/imagelist.tsv,
meta/verified_val.tsv and images/CLASS/….jpg; and, to test on, Food-101 as
food-101/meta/test.txt and food-101/images/CLASS/….jpg."""
    NUM_CLASSES = 101
    # The home page; Food-101 has 250 test images a class (Bossard et al., ECCV 2014).
    PUBLISHED = {"": {"train": 310_009, "test": 25_250}}

    @property
    def published(self):
        counts = super().published
        if "validation" not in self.info.splits:
            return counts
        return {"train": counts["train"] - VERIFIED}

    def needed(self, root):
        return [CLASSES_LIST, TRAIN_LIST] + [VERIFIED_LIST] * (
            not files.exists(root, TEST_LIST)
        )

    def class_names(self, root):
        return rows(root, CLASSES_LIST)

    def splits(self, root):
        if files.exists(root, TEST_LIST):
            return {
                "train": functools.partial(entries, root, TRAIN_LIST),
                "test": functools.partial(test_entries, root),
            }
        return {
            "train": functools.partial(entries, root, TRAIN_LIST, but=VERIFIED_LIST),
            "validation": functools.partial(entries, root, VERIFIED_LIST),
        }


def rows(root, name):
    """The lines of a list, without its heading."""
    return [
        line
        for line in files.lines(root, name)
        if line.split("\t")[0] not in ("class_name", "class_name/key")
    ]


def entries(root, name, but=None):
    """Yields the images of a list of Food-101N, unless people found the label wrong.

    Args:
        root: The folder.
        name: The list: `class/key`, then, where people checked it, a tab and 1 or 0.
        but: List of images to leave out.
    """
    left_out = {row.split("\t")[0] for row in rows(root, but)} if but else set()
    read = reader(root, f"{HOME}/images")
    for row in rows(root, name):
        key, _, verified = row.partition("\t")
        if key not in left_out and verified != "0":
            yield read(key)


def test_entries(root):
    """Yields the test images of Food-101, whose list has no file endings."""
    read = reader(root, "food-101/images")
    for key in rows(root, TEST_LIST):
        yield read(f"{key}.jpg")


def reader(root, folder):
    """Makes the function from `class/file` to an entry."""
    labels = {name: label for label, name in enumerate(rows(root, CLASSES_LIST))}

    def read(key):
        name = str(pathlib.PurePosixPath(folder, key))
        label = labels.get(key.partition("/")[0])
        if label is None:
            return files.Entry(name, -1, files.OUT_OF_RANGE)
        return files.Entry(name, label)

    return read
