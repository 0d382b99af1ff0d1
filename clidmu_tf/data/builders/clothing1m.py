"""Clothing1M: a million shop images, labelled by the words around them."""

import functools
import itertools

import numpy as np
import tensorflow_datasets as tfds

from clidmu_tf.data.builders import files
from clidmu_tf.data.builders.manual import ManualBuilder

# Decides which images are in the class-balanced subset.
BALANCED_SEED = 0
# In the order of category_names_eng.txt.
NAMES = (
    "T-Shirt",
    "Shirt",
    "Knitwear",
    "Chiffon",
    "Sweater",
    "Hoodie",
    "Windbreaker",
    "Jacket",
    "Down Coat",
    "Suit",
    "Shawl",
    "Dress",
    "Vest",
    "Underwear",
)
NOISY, CLEAN = "noisy_label_kv.txt", "clean_label_kv.txt"
KEYS = {
    "train": ("noisy_train_key_list.txt", NOISY),
    "clean_train": ("clean_train_key_list.txt", CLEAN),
    "validation": ("clean_val_key_list.txt", CLEAN),
    "test": ("clean_test_key_list.txt", CLEAN),
}


class Clothing1m(ManualBuilder):
    """Clothing1M (Xiao et al., CVPR 2015), 14 classes, about 38 % of the labels wrong.

    `train` has the noisy labels, the other splits those of people. `balanced` keeps as
    many noisy training images of each class as the rarest class has, always the same
    ones. The usual recipe trains on such a subset: DivideMix (Li, Socher, Hoi, ICLR
    2020, section 4.2) draws 1,000 class-balanced batches an epoch.
    """

    HOMEPAGE = "https://github.com/Cysu/noisy_label"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds noisy_label_kv.txt, clean_label_kv.txt, noisy_train_key_list.txt,
clean_train_key_list.txt, clean_val_key_list.txt, clean_test_key_list.txt, and the
unpacked images as images/0/…/….jpg."""
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="full", description="All noisy images"),
        tfds.core.BuilderConfig(name="balanced", description="Equally many a class"),
    ]
    CLASS_NAMES = NAMES
    # The paper's section 5.1. How many the rarest class has was not published.
    PUBLISHED = {
        "full": {
            "train": 1_000_000,
            "clean_train": 47_570,
            "validation": 14_313,
            "test": 10_526,
        },
        "balanced": {"clean_train": 47_570, "validation": 14_313, "test": 10_526},
    }

    def needed(self, root):
        return [NOISY, CLEAN, *(keys for keys, _ in KEYS.values())]

    def splits(self, root):
        found = {
            split: functools.partial(keyed, root, keys, labels)
            for split, (keys, labels) in KEYS.items()
        }
        if self.config_name == "balanced":
            found["train"] = functools.partial(balanced, found["train"])
        return found


def keyed(root, keys, labels):
    """Yields the entries of a list of keys, whose labels are in another list."""
    # At most a million, and so some hundred megabytes, whatever the images weigh.
    label_of = dict(map(files.split_label, files.lines(root, labels)))
    for key in files.lines(root, keys):
        label = label_of.get(key)
        if label is None:
            yield files.Entry(key, -1, files.NO_LABEL)
        elif not 0 <= label < len(NAMES):
            yield files.Entry(key, label, files.OUT_OF_RANGE)
        else:
            yield files.Entry(key, label)


def balanced(make_entries):
    """Yields as many entries of each class as the rarest has, and all the bad ones."""
    found = files.once(make_entries)
    labels = np.fromiter((-1 if e.problem else e.label for e in found), np.int16)
    least = np.bincount(labels[labels >= 0])
    least = least[least > 0].min(initial=len(labels))
    order = np.random.default_rng(BALANCED_SEED).permutation(len(labels))
    kept = labels < 0
    for label in range(len(NAMES)):
        kept[order[labels[order] == label][:least]] = True
    return itertools.compress(files.once(make_entries), kept)
