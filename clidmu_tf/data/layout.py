"""How a folder of images is laid out: what in it is trained on, what is tested on."""

import dataclasses
import os
import pathlib

from clidmu_tf.errors import UserError, listed

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
TRAIN, TEST = ("train", "training"), ("test", "testing")
VALIDATION = ("val", "valid", "validation")


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a folder's sub-folders are.

    Attributes:
        train: Holds a folder for each class to train on.
        test: Holds those to test on; `None` where a part is to be held out.
        unread: What is left alone, though it has the name of a split.
    """

    train: pathlib.Path
    test: pathlib.Path | None = None
    unread: tuple[pathlib.Path, ...] = ()

    def __str__(self):
        tested = "but for a part of each, to test on"
        if self.test is not None:
            tested = f"tested on those in {self.test}"
        unread = "".join(f"; {path} is not read" for path in self.unread)
        return f"Trained on the class folders in {self.train}, {tested}{unread}."


def layout_of(root):
    """Understands a folder of classes, or of splits in any case and usual name.

    A folder with the name of a split that holds images itself, no folders, is a class
    among others.

    Args:
        root: The folder, a `pathlib.Path`.

    Raises:
        UserError: It can be understood in several ways; the sentence names them.
    """
    folders = sub_folders(root)
    named = [p for p in folders if p.name.lower() in TRAIN + TEST + VALIDATION]
    splits = [path for path in named if sub_folders(path)]
    if not splits and (not named or len(named) < len(folders)):
        return Layout(root)
    train, test, validation = (
        _only(root, [path for path in splits if path.name.lower() in names])
        for names in (TRAIN, TEST, VALIDATION)
    )
    if train is None:
        raise UserError(
            f"--data_dir={root} has {_folders(named)} and no train/ with a folder for "
            "each class: lay it out so, or name a folder of classes."
        )
    beside = [path for path in folders if path not in named and _has_images(path)]
    if beside:
        raise UserError(
            f"--data_dir={root} has images in {_folders(beside)} beside those in "
            f"{train.name}/: move either, since both may be meant as classes."
        )
    for path in splits:
        if path.is_symlink():
            raise UserError(
                f"{path} is a link, and links out of --data_dir are not followed: put "
                "the images there, or name the folder that it leads to."
            )
    read = (train, test or validation)
    return Layout(*read, tuple(path for path in named if path not in read))


def _only(root, paths):
    if len(paths) > 1:
        raise UserError(
            f"--data_dir={root} has both {' and '.join(p.name for p in paths)}: leave "
            "one of them."
        )
    return paths[0] if paths else None


def _folders(paths):
    return listed([f"{path.name}/" for path in paths])


def sub_folders(root):
    """The folders in a folder, sorted, but for hidden ones."""
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] != ".")


def files_in(root):
    """Yields the files in a folder and the folders in it, but for hidden ones.

    Raises:
        OSError: One of the folders cannot be read.
    """

    def refuse(error):
        raise error

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "."]
        paths = (pathlib.Path(folder, name) for name in names if name[0] != ".")
        yield from (path for path in paths if path.is_file())


def is_image(path):
    """Whether a file has the name of an image."""
    return path.suffix.lower() in SUFFIXES


def _has_images(root):
    return any(map(is_image, files_in(root)))
