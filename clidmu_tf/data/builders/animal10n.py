"""Animal-10N: ten animals of five pairs that people confuse."""

import functools
import posixpath
import re

from clidmu_tf.data.builders import files
from clidmu_tf.data.builders.manual import ManualBuilder

NAMES = (
    "cat",
    "lynx",
    "wolf",
    "coyote",
    "cheetah",
    "jaguar",
    "chimpanzee",
    "orangutan",
    "hamster",
    "guinea pig",
)


class Animal10n(ManualBuilder):
    """Animal-10N (Song, Kim, Lee, ICML 2019), 64x64 images, about 8 % wrong labels."""

    HOMEPAGE = "https://dm.kaist.ac.kr/datasets/animal-10n"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds training/ and testing/, either with images named LABEL_ID.jpg, or with
one folder for each class, named as the class (cat, guinea_pig) or by its number."""
    CLASS_NAMES = NAMES
    # The home page, which also has the order of the classes.
    PUBLISHED = {"": {"train": 50_000, "test": 5_000}}

    def needed(self, root):
        return ["training", "testing"]

    def splits(self, root):
        return {
            "train": functools.partial(images, root, "training"),
            "test": functools.partial(images, root, "testing"),
        }


def images(root, folder):
    """Yields the images of a folder, and of its sub-folders, one a class."""
    for name in files.files(root, folder):
        if files.is_folder(root, name):
            label = class_of(posixpath.basename(name))
            yield from (entry(inner, label) for inner in files.files(root, name))
        else:
            found = re.match(r"(\d+)_", posixpath.basename(name))
            yield entry(name, int(found[1]) if found else None)


def class_of(folder):
    """The label that the name of a folder stands for, or `None`."""
    name = re.sub(r"[\s_-]+", " ", folder.lower())
    if name in NAMES:
        return NAMES.index(name)
    return int(name) if name.isdecimal() else None


def entry(name, label):
    """The entry of an image with such a label, if it is one."""
    if label is None:
        return files.Entry(name, -1, files.NO_LABEL)
    is_class = 0 <= label < len(NAMES)
    return files.Entry(name, label, "" if is_class else files.OUT_OF_RANGE)
