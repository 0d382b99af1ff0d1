"""What all data sets have in common that a person obtains and we prepare."""

import abc
import collections
import contextlib
import functools
import logging
import os
import pathlib
import shutil

import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from clidmu_tf.data.builders import beam, files
from clidmu_tf.data.decode import MAX_PIXELS
from clidmu_tf.data.threads import in_threads
from clidmu_tf.errors import UserError

logger = logging.getLogger(__name__)

REPORT = "bad_images.txt"
# Examples that TFDS may keep in memory before it sorts them on disk (its own: 1 GB),
# and the files that it then has open, besides ours.
BUFFER_BYTES = 64 << 20
OPEN_FILES = shuffle.BUCKETS_NUMBER + 256


class ManualBuilder(tfds.core.GeneratorBasedBuilder):
    """A data set that lies in a folder, with lists or folders for its labels.

    A subclass says what is there: `CLASS_NAMES`, or `NUM_CLASSES` and `class_names`,
    then `PUBLISHED`, `needed` and `splits`. Every image is decoded once. Good ones are
    stored with the bytes that they have; bad ones are left out, and `bad_images.txt`
    beside the prepared data names each with its reason. Nothing outside the folder is
    read, also not through links.

    With `beam_options` or a `beam_runner` in the `DownloadConfig`, Apache Beam reads
    the images on as many machines as it has; all must see the folder.

    Args:
        prepare_size: Shorter side in pixels that larger images are brought to, as JPEG
            of quality 95; 0 keeps each file's bytes.
        max_pixels: Images of more pixels are not decoded, but left out.
        **kwargs: As of every TFDS builder: `data_dir`, `config`, `version`.
    """

    VERSION = tfds.core.Version("1.0.0")
    CLASS_NAMES: tuple | None = None
    NUM_CLASSES: int | None = None
    # Of each config ("" where there are none), the published number of images a split.
    PUBLISHED: dict[str, dict[str, int]] = {}
    HOMEPAGE = ""

    def __init__(self, *, prepare_size=0, max_pixels=MAX_PIXELS, **kwargs):
        self.prepare_size, self.max_pixels = prepare_size, max_pixels
        self._with_beam = False
        super().__init__(**kwargs)

    # --- what a subclass says

    @property
    def num_classes(self):
        """How many classes this config has."""
        return len(self.CLASS_NAMES) if self.CLASS_NAMES else self.NUM_CLASSES

    @property
    def published(self):
        """The published number of images of each split, as far as there is one."""
        return self.PUBLISHED[self.config_name]

    @property
    def layout(self):
        """What the folder must hold, on one line."""
        return " ".join(self.MANUAL_DOWNLOAD_INSTRUCTIONS.split())

    def class_names(self, root):
        """Names of the classes, where only the data set's own files have them."""
        return list(self.CLASS_NAMES)

    @abc.abstractmethod
    def needed(self, root):
        """Lists and folders that must be there, relative to the root."""

    @abc.abstractmethod
    def splits(self, root):
        """Of each split a function without arguments that yields its entries."""

    # --- what TFDS asks

    @property
    def config_name(self):
        return self.builder_config.name if self.builder_config else ""

    @property
    def report(self):
        """The file that names what was left out, a line each: split, reason, id."""
        return pathlib.Path(self.data_path) / REPORT

    def _info(self):
        label = tfds.features.ClassLabel(
            names=self.CLASS_NAMES,
            num_classes=None if self.CLASS_NAMES else self.num_classes,
        )
        features = {
            "id": tfds.features.Text(doc="Path relative to the data set's folder."),
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": label,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict(prepare_size=self.prepare_size),
        )

    def download_and_prepare(self, *, download_config=None, **kwargs):
        """Prepares the data set from `download_config.manual_dir`.

        Raises:
            UserError: Lists are missing, no image of a split is good, or another
                process prepares the same.
        """
        config = download_config or tfds.download.DownloadConfig()
        self._with_beam = bool(config.beam_options or config.beam_runner)
        path = pathlib.Path(self.data_path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_alone(path))
            if self.BUILDER_CONFIGS:
                stack.enter_context(_cleared(path.parents[1] / ".config"))
            stack.enter_context(_sorted_on_disk())
            super().download_and_prepare(download_config=config, **kwargs)
        self.warn()

    def check(self, root):
        """Raises a UserError that names the lists and folders that are missing."""
        missing = [n for n in self.needed(root) if not files.exists(root, n)]
        if missing:
            raise UserError(
                f"--manual_dir={root} lacks {', '.join(missing)} of {self.name}: lay "
                f"the data set out as follows. {self.layout}"
            )

    def _split_generators(self, dl_manager):
        root = os.path.realpath(dl_manager.manual_dir)
        self.check(root)
        if self.CLASS_NAMES is None:
            names = self.class_names(root)
            if len(names) != self.num_classes:
                raise UserError(
                    f"--manual_dir={root} names {len(names)} classes of {self.name}, "
                    f"which has {self.num_classes}: put the published list there."
                )
            self.info.features["label"].names = names
        return {
            split: self._generate_examples(split, make_entries, root)
            for split, make_entries in self.splits(root).items()
        }

    def _generate_examples(self, split, make_entries, root):
        examine = functools.partial(
            files.examine,
            root=root,
            size=self.prepare_size,
            max_pixels=self.max_pixels,
        )
        if not self._with_beam:
            return self._read(split, make_entries, examine, root)
        report = f"{self.report}.{split}"
        return beam.examples(split, make_entries, examine, report)

    def _read(self, split, make_entries, examine, root):
        bad = []
        good = 0
        with open(self.report, "a", encoding="utf-8") as report:
            for entry, image in in_threads(examine, files.once(make_entries)):
                if entry.problem:
                    report.write(files.report_line(split, entry) + "\n")
                    bad = bad or [entry]
                else:
                    good += 1
                    yield files.example(entry, image)
        if not good:
            first = f", first {bad[0].id} ({bad[0].problem})" if bad else ""
            raise UserError(
                f"--manual_dir={root} has no good image of the split {split} of "
                f"{self.name}{first}: see that it holds the images that its lists name."
            )

    def _process_pipeline_result(self, pipeline_result):
        """Beam's workers wrote a report a split: joins them."""
        with open(self.report, "a", encoding="utf-8") as report:
            for part in sorted(self.report.parent.glob(f"{REPORT}.*")):
                report.write(part.read_text(encoding="utf-8"))
                part.unlink()

    # --- what was found

    def counts(self):
        """The number of images of each split that were prepared."""
        return {name: split.num_examples for name, split in self.info.splits.items()}

    def bad(self):
        """How many were left out, by (split, reason), and the first few of each."""
        counts, first = collections.Counter(), collections.defaultdict(list)
        with open(self.report, encoding="utf-8") as report:
            for line in report:
                split, reason, name = line.rstrip("\n").split("\t", 2)
                counts[split, reason] += 1
                if len(first[split, reason]) < 3:
                    first[split, reason].append(name)
        return counts, first

    def warn(self):
        """Logs what was left out, and what differs from the published numbers."""
        counts, first = self.bad()
        name = f"{self.name}/{self.config_name}".rstrip("/")
        if counts:
            described = "; ".join(
                f"{split}: {count:,} {reason} ({', '.join(first[split, reason])}"
                f"{', …' if count > len(first[split, reason]) else ''})"
                for (split, reason), count in counts.items()
            )
            logger.warning(
                "Left out %d entries of %s, all named in %s: %s.",
                counts.total(),
                name,
                self.report,
                described,
            )
        found = self.counts()
        differing = [
            f"{split} has {found[split]:,}, published are {count:,}"
            for split, count in self.published.items()
            if found.get(split, count) != count
        ]
        if differing:
            logger.warning(
                "The numbers of images of %s are not the published ones: %s.",
                name,
                "; ".join(differing),
            )


@contextlib.contextmanager
def _alone(path):
    """Keeps others from preparing the same, and clears what a killed try left."""
    import fcntl  # not on Windows, where prepared data can still be read

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / ".preparing", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{path} is being prepared by another process: wait for it to end."
            ) from None
        for left in path.parent.glob(f"incomplete.*_{path.name}"):
            shutil.rmtree(left)
        yield


@contextlib.contextmanager
def _cleared(folder):
    """Clears what killed tries left of the file that a data set's configs share."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".preparing", "w") as lock:
        # Whoever prepares another config, and may just be writing, holds it as well.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob("incomplete.*"):
                left.unlink()
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def _sorted_on_disk():
    """TFDS sorts a split by the hash of its ids, in memory up to a gigabyte.

    Here it starts to use the disk early, so that memory does not grow with the data.
    """
    import resource  # not on Windows either

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = limits
    enough = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    buffer, shuffle.MAX_MEM_BUFFER_SIZE = shuffle.MAX_MEM_BUFFER_SIZE, BUFFER_BYTES
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
    try:
        yield
    finally:
        shuffle.MAX_MEM_BUFFER_SIZE = buffer
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
