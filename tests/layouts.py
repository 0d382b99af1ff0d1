"""Small copies of the noisy data sets, true to their layouts, with all that goes wrong.

Each writer returns a `Copy`, which knows what a builder must find and what it must not.
"""

import io

import numpy as np
from PIL import Image

from clidmu_tf.data.builders.files import (
    MISSING,
    NO_IMAGE,
    NO_LABEL,
    NOT_UNDERSTOOD,
    OUT_OF_RANGE,
    OUTSIDE,
    TWICE,
)

KINDS = [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG")]


class Copy:
    """A data set in a folder, and what is right and wrong about it.

    Attributes:
        root: The folder.
        secret: A good image outside of it, which is none of ours.
        good: `{split: {id: (label, bytes)}}`.
        bad: `{(split, reason, id)}`.
    """

    def __init__(self, root):
        self.root, self.good, self.bad = root, {}, set()
        self.random = np.random.default_rng(0)
        self.secret = root.parent / "outside" / "secret.jpg"
        self.secret.parent.mkdir(parents=True)
        self.secret.write_bytes(self.encode())

    def encode(self, mode="RGB", file_format="JPEG"):
        """An image file of random size and content."""
        height, width = self.random.integers(20, 60, 2)
        pixels = self.random.integers(0, 256, (height, width, 3), "uint8")
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, file_format)
        return file.getvalue()

    def write(self, name, data=None):
        """Writes a file, by default an image."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.encode() if data is None else data)
        return name

    def text(self, name, lines, end="\n"):
        """Writes a list."""
        self.write(name, "".join(f"{line}{end}" for line in lines).encode())

    def add_good(self, split, pattern, labels):
        """Writes good images: colour, grey, CMYK, and a PNG named .jpg in turn.

        Returns:
            Names and labels.
        """
        found = self.good.setdefault(split, {})
        names = [pattern.format(label=label, i=i) for i, label in enumerate(labels)]
        for i, (name, label) in enumerate(zip(names, labels, strict=True)):
            data = self.encode(*KINDS[i % len(KINDS)])
            found[self.write(name, data)] = (label, data)
        return list(zip(names, labels, strict=True))

    def add_bad(self, split, pattern):
        """Writes files that are no images, and a link that leads out.

        Returns:
            Their names.
        """
        files = {
            "truncated": self.encode()[:-200],
            "empty": b"",
            "text": b"<html>404</html>",
        }
        names = [self.write(pattern.format(n), data) for n, data in files.items()]
        self.bad |= {(split, NO_IMAGE, name) for name in names}
        link = pattern.format("link")
        (self.root / link).symlink_to(self.secret)
        self.bad.add((split, OUTSIDE, link))
        return [*names, link]

    def list_bad(self, split, pattern):
        """As `add_bad`, with what a list can name besides: no file, and ways out."""
        climb = pattern.format("../" * pattern.count("/") + "../outside/secret")
        missing = pattern.format("missing")
        self.bad |= {(split, OUTSIDE, climb), (split, MISSING, missing)}
        return [*self.add_bad(split, pattern), climb, missing]


def webvision(root, imagenet=True):
    """WebVision 1.0. Splits besides mini's: `google` and `flickr` for what the other
    configs train on, `validation_of_all` for what they validate on."""
    copy = Copy(root)
    words = ["tench, Tinca tinca", "goldfish, Carassius auratus"]
    words += [f"thing {i}" for i in range(2, 1000)]
    copy.text("info/synsets.txt", [f"n{i:08d} {w}" for i, w in enumerate(words)])

    good = copy.add_good("train", "google/q{label:04d}/{i}.jpg", [0, 1, 1, 49, 0, 2])
    more = copy.add_good("google", "google/q{label:04d}/{i}.jpg", [50])
    bad = copy.list_bad("train", "google/q0003/{}.jpg") + [str(copy.secret)]
    first, second = good[0][0], good[1][0]
    copy.bad |= {
        ("train", OUTSIDE, str(copy.secret)),
        ("train", TWICE, first),
        ("train", OUT_OF_RANGE, second),
        ("train", NOT_UNDERSTOOD, "google/nothing"),
        ("train", NOT_UNDERSTOOD, "google/null\N{REPLACEMENT CHARACTER}.jpg"),
    }
    listed = [f"{name} {label}" for name, label in good + more]
    listed += [f"{name} 3" for name in bad] + ["google/null\0.jpg 3"]
    listed += [f"{first} 0", f"{second} 1000", f"{second} -1", "google/nothing"]
    copy.text("info/train_filelist_google.txt", listed, end="\r\n")
    found = copy.add_good("flickr", "flickr/q{label:04d}/{i}.jpg", [7, 999])
    copy.text("info/train_filelist_flickr.txt", [f"{n} {c}" for n, c in found])

    found = copy.add_good("validation", "val_images_256/val{i:06d}.jpg", [0, 1, 49])
    found += copy.add_good("validation_of_all", "val_images_256/last{i}.jpg", [999])
    names = [f"{name.split('/')[1]} {label}" for name, label in found]
    copy.text("info/val_filelist.txt", names)
    if imagenet:
        pattern = "imagenet/val/n{label:08d}/ILSVRC2012_val_{i}.JPEG"
        copy.add_good("imagenet_validation", pattern, [0, 49])
        copy.write("imagenet/val/n00000050/no_class_of_mini.JPEG")
    return copy


def clothing1m(root):
    """Clothing1M: three noisy images of class 0, two of classes 1 and 13."""
    copy = Copy(root)
    noisy = copy.add_good("train", "images/0/{i}.jpg", [0, 0, 0, 1, 1, 13, 13])
    bad = copy.list_bad("train", "images/1/{}.jpg") + [str(copy.secret)]
    unknown, strange = copy.write("images/2/a.jpg"), copy.write("images/2/b.jpg")
    first = noisy[0][0]
    copy.bad |= {
        ("train", OUTSIDE, str(copy.secret)),
        ("train", TWICE, first),
        ("train", NO_LABEL, unknown),
        ("train", OUT_OF_RANGE, strange),
    }
    keys = [*(name for name, _ in noisy), *bad, unknown, strange, first]
    copy.text("noisy_train_key_list.txt", keys, end="\r\n")
    labels = [f"{name} {label}" for name, label in noisy] + [f"{n} 5" for n in bad]
    copy.text("noisy_label_kv.txt", [*labels, f"{strange} 14", "nothing"], end="\r\n")
    clean = []
    for split, short in {"clean_train": "train", "validation": "val"}.items():
        found = copy.add_good(split, f"images/{split}/{{i}}.jpg", [0, 5, 13, 2])
        copy.text(f"clean_{short}_key_list.txt", [name for name, _ in found])
        clean += found
    found = copy.add_good("test", "images/test/{i}.jpg", [3, 2])
    copy.text("clean_test_key_list.txt", [name for name, _ in found])
    copy.text("clean_label_kv.txt", [f"{n} {label}" for n, label in clean + found])
    return copy


def animal10n(root, by_class=False):
    """Animal-10N, images named by their label, or in one folder a class."""
    copy = Copy(root)
    for split, folder in {"train": "training", "test": "testing"}.items():
        if not by_class:
            copy.add_good(split, folder + "/{label}_{i}.jpg", [0, 4, 9, 3, 0])
            continue
        for name, label in {"cat": 0, "Guinea Pig": 9, "guinea_pig": 9, "4": 4}.items():
            copy.add_good(split, f"{folder}/{name}/{split}_{{i}}.jpg", [label] * 2)
    copy.write("training/.DS_Store", b"hidden")
    copy.add_bad("train", "training/wolf/{}.jpg" if by_class else "training/2_{}.jpg")
    strange = "training/zebra/1.jpg" if by_class else "training/no_number.jpg"
    copy.bad.add(("train", NO_LABEL, copy.write(strange)))
    strange = "training/10/1.jpg" if by_class else "training/10_1.jpg"
    copy.bad.add(("train", OUT_OF_RANGE, copy.write(strange)))
    # A folder that leads out is looked into no more than a file.
    (root / "training" / "lynx").symlink_to(copy.secret.parent)
    copy.bad.add(("train", NO_LABEL, "training/lynx"))
    return copy


def food101n(root, with_test=True):
    """Food-101N, with the test images of Food-101 beside it, or without."""
    copy = Copy(root)
    home, dishes = "Food-101N_release", [f"dish{i:03d}" for i in range(101)]
    copy.text(f"{home}/meta/classes.txt", ["class_name", *dishes], end="\r\n")
    pattern = f"{home}/images/dish{{label:03d}}/{{i}}.jpg"
    good = copy.add_good("train", pattern, [0, 0, 100, 5, 7, 7])
    bad = copy.list_bad("train", f"{home}/images/dish003/{{}}.jpg")
    strange = copy.write(f"{home}/images/soup/1.jpg")
    first = good[0][0]
    copy.bad |= {("train", TWICE, first), ("train", OUT_OF_RANGE, strange)}
    checked = copy.add_good("validation", f"{home}/images/dish008/{{i}}.jpg", [8, 8])
    wrong = copy.write(f"{home}/images/dish009/1.jpg")

    names = [*(name for name, _ in good), *bad, strange, first]
    held = [*(name for name, _ in checked), wrong]
    keys = [name.removeprefix(f"{home}/images/") for name in names + held]
    copy.text(f"{home}/meta/imagelist.tsv", ["class_name/key", *keys], end="\r\n")
    rows = [f"{key}\t{int(not key.startswith('dish009'))}" for key in keys[-3:]]
    heading = "class_name/key\tverification_label"
    copy.text(f"{home}/meta/verified_val.tsv", [heading, *rows], end="\r\n")
    if with_test:
        # All that was checked is trained on, right or wrong.
        right = copy.good.pop("validation")
        wrong_image = (9, (root / wrong).read_bytes())
        copy.good["train"] |= {**right, wrong: wrong_image}
        found = copy.add_good("test", "food-101/images/dish{label:03d}/{i}.jpg", [1, 2])
        listed = [name[len("food-101/images/") : -4] for name, _ in found]
        copy.text("food-101/meta/test.txt", listed)
    return copy
