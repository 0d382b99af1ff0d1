"""WebVision 1.0: what Google and Flickr found for the names of ImageNet's classes."""

import functools
import itertools

import tensorflow_datasets as tfds

from clidmu_tf.data.builders import files
from clidmu_tf.data.builders.manual import ManualBuilder

CLASSES = 1000
MINI_CLASSES = 50


class Webvision(ManualBuilder):
    """WebVision 1.0 (Li et al., arXiv:1708.02862), labelled by the search query.

    `mini` is the Google half of the first 50 classes, `google` that of all 1,000,
    `full` both halves. The validation images were labelled by people. Where the folder
    also has the ILSVRC-2012 validation images, `mini` gets them as a further split.
    """

    HOMEPAGE = "https://data.vision.ee.ethz.ch/cvl/webvision/dataset2017.html"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
The folder holds info/synsets.txt, info/train_filelist_google.txt,
info/train_filelist_flickr.txt (for full), info/val_filelist.txt, and the images as
google/q0001/….jpg, flickr/q0001/….jpg and val_images_256/val000001.jpg. If it has
imagenet/val/n01440764/….JPEG, a folder for each of the first 50 classes, by WordNet id
or by number, they become the split imagenet_validation of mini."""
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="mini", description="Google, 50 classes"),
        tfds.core.BuilderConfig(name="google", description="Google, 1,000 classes"),
        tfds.core.BuilderConfig(name="full", description="Google and Flickr"),
    ]
    # Google and full: the paper's section 2; validation: 50 images a class, as in
    # ILSVRC-2012; mini: as counted by those who train on it since Chen et al.,
    # "Understanding and Utilizing Deep Neural Networks Trained with Noisy Labels",
    # ICML 2019.
    PUBLISHED = {
        "mini": {"train": 65_944, "validation": 2_500, "imagenet_validation": 2_500},
        "google": {"train": 980_449, "validation": 50_000},
        "full": {"train": 2_439_574, "validation": 50_000},
    }

    @property
    def num_classes(self):
        return MINI_CLASSES if self.config_name == "mini" else CLASSES

    def needed(self, root):
        return ["info/synsets.txt", *self._train_lists(), "info/val_filelist.txt"]

    def class_names(self, root):
        names = [f"{key} {words.split(',')[0]}" for key, words in synsets(root)]
        return names[: self.num_classes] if len(names) == CLASSES else names

    def splits(self, root):
        kept = self.num_classes
        found = {
            "train": functools.partial(training, root, self._train_lists(), kept),
            "validation": functools.partial(
                files.labelled,
                root,
                "info/val_filelist.txt",
                CLASSES,
                kept,
                prefix="val_images_256",
            ),
        }
        if self.config_name == "mini" and files.is_folder(root, "imagenet/val"):
            found["imagenet_validation"] = functools.partial(imagenet_entries, root)
        return found

    def _train_lists(self):
        halves = ["google", "flickr"] if self.config_name == "full" else ["google"]
        return [f"info/train_filelist_{half}.txt" for half in halves]


def synsets(root):
    """Yields the WordNet id and the words of each class, in the labels' order."""
    for line in files.lines(root, "info/synsets.txt"):
        wordnet_id, _, words = line.partition(" ")
        yield wordnet_id, words


def training(root, lists, kept_classes):
    """Yields the entries of the training lists."""
    return itertools.chain.from_iterable(
        files.labelled(root, name, CLASSES, kept_classes) for name in lists
    )


def imagenet_entries(root):
    """Yields the ILSVRC-2012 validation images of the mini classes."""
    mini = itertools.islice(synsets(root), MINI_CLASSES)
    for label, (wordnet_id, _) in enumerate(mini):
        for folder in (wordnet_id, str(label)):
            for name in files.files(root, f"imagenet/val/{folder}"):
                yield files.Entry(name, label)
