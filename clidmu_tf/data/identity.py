"""Which example is which: held out by its name, and known again when data change."""

import collections
import dataclasses
import hashlib

import numpy as np

NAMED = 3  # classes that a sentence names


def hashes(names, seed=0):
    """A number for each name, of that name and the seed alone: `(n,)` uint64."""
    salt = int(seed).to_bytes(8, "little")
    encoded = (str(name).encode("utf-8", "surrogateescape") for name in names)
    digests = (hashlib.blake2b(n, digest_size=8, salt=salt).digest() for n in encoded)
    return np.frombuffer(b"".join(digests), "<u8")


def hold_out(names, labels, share, seed):
    """Returns positions to train on and to test on, about a share of each class.

    On which side an example is depends on its name and the seed alone: to add or remove
    one moves no other. But one of each class is on either side in any case.

    Args:
        names: `(n,)`, what the examples are told apart by.
        labels: `(n,)`, at least two of each that there is.
        share: Probability that an example is held out.
        seed: Decides which.
    """
    draws = hashes(names, seed) / 2.0**64
    is_held = draws < share
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        in_order = of_class[np.argsort(draws[of_class], kind="stable")]
        is_held[in_order[0]], is_held[in_order[-1]] = True, False
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What data are known by again.

    Attributes:
        class_names: `(c,)` strings.
        train_ids: `(n,)` uint64, a hash of what each training example is told apart by.
        train_labels: `(n,)` int32.
        test_ids: `(m,)` uint64.
        test_labels: `(m,)` int32.
    """

    class_names: np.ndarray
    train_ids: np.ndarray
    train_labels: np.ndarray
    test_ids: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def of(cls, source):
        """The fingerprint of a `Source`."""
        found = {"class_names": np.array(source.class_names, str)}
        for name, split in (("train", source.train), ("test", source.test)):
            found[f"{name}_ids"] = hashes(split.names)
            found[f"{name}_labels"] = split.labels.astype("int32")
        return cls(**found)

    def changes(self, now, but_test=False):
        """What has changed since, in words; empty where nothing has.

        Args:
            now: The `Fingerprint` of the data as they are.
            but_test: Whether the examples to test on may be other ones.
        """
        classes = _changes_of_classes(
            self.class_names.tolist(), now.class_names.tolist()
        )
        if classes:  # labels are numbers of classes, and so say nothing now
            return classes
        found = []
        for name, what in (("train", "training"), ("test", "test")):
            columns = (f"{name}_ids", f"{name}_labels")
            parts = [[getattr(one, c) for c in columns] for one in (self, now)]
            words = "" if name == "test" and but_test else _changes(*parts)
            found += [f"{what} examples: {words}"] if words else []
        return "; ".join(found)


def _changes_of_classes(before, now):
    gone = sorted(set(before) - set(now))
    new = sorted(set(now) - set(before))
    words = [("gone", gone), ("new", new)]
    found = [f"classes {word}: {_named(names)}" for word, names in words if names]
    if not found and before != now:
        return "the classes are in another order"
    return "; ".join(found)


def _named(names):
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*map(repr, names[:NAMED]), *more])


def _changes(before, now):
    """Of ids and labels, before and now."""
    if all(np.array_equal(*pair) for pair in zip(before, now, strict=True)):
        return ""
    gone, added = _missing(before[:1], now[:1]), _missing(now[:1], before[:1])
    relabelled = _missing(before, now) - gone
    counts = [(added, "added"), (gone, "gone"), (relabelled, "with other labels")]
    found = [f"{count:,} {words}" for count, words in counts if count]
    return ", ".join(found) or "in another order"


def _missing(columns, others):
    """How many rows of some columns others have too few of."""
    rows, other_rows = (
        collections.Counter(zip(*(column.tolist() for column in part), strict=True))
        for part in (columns, others)
    )
    return (rows - other_rows).total()
