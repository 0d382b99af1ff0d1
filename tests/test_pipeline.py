"""What a batch holds is a function of seed and position alone."""

import itertools
import time

import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.data import Split, evaluation_batches, training_batches
from clidmu_tf.data import augment as augmentations
from clidmu_tf.errors import UserError

SHAPE = (6, 6, 1)
EXAMPLES, BATCH = 23, 4
STEPS = EXAMPLES // BATCH


@pytest.fixture
def split():
    """Each image is noise but for its corner, which tells which example it is."""
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *SHAPE), "uint8")
    images[:, 0, 0, 0] = np.arange(EXAMPLES)
    labels = np.arange(EXAMPLES) * 10
    return Split(images, labels, None, np.arange(EXAMPLES).astype(str))


def take(split, count, **settings):
    """The first batches, as two arrays: `(count, b, …)` images and labels."""
    settings = {"batch_size": BATCH, "seed": 5, "image_shape": SHAPE} | settings
    batches = training_batches(split, **settings)
    batches = itertools.islice(batches.as_numpy_iterator(), count)
    return [np.stack(part) for part in zip(*batches, strict=True)]


def visited(split, count, **settings):
    """Which example stands where, `(count, b)`."""
    return take(split, count, **settings)[1] // 10


def test_images_go_with_their_labels(split):
    x, y = take(split, STEPS)
    assert x.dtype == "float32" and y.dtype == "int64"
    np.testing.assert_array_equal(x.reshape(-1, *SHAPE), split.inputs[y.ravel() // 10])


@pytest.mark.parametrize(
    "start, augment",
    [(1, ""), (STEPS - 1, ""), (STEPS, "flip"), (3 * STEPS + 2, "flip,randaugment")],
)
def test_start_step_goes_on_with_the_same_stream(split, start, augment):
    settings = {"augment": augmentations.build(augment)}
    through = take(split, start + 4, **settings)
    resumed = take(split, 4, start_step=start, **settings)
    for whole, rest in zip(through, resumed, strict=True):
        np.testing.assert_array_equal(whole[start:], rest)


@pytest.mark.parametrize("workers, replicas", [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_replicas_share_out_the_batches_of_one_device(split, workers, replicas):
    count, settings = STEPS + 2, {"augment": augmentations.build("flip")}
    whole = take(split, count, **settings)
    shards = [
        take(
            split,
            count * replicas,
            num_shards=workers,
            shard_index=shard,
            replicas_per_shard=replicas,
            **settings,
        )
        for shard in range(workers)
    ]
    for i, expected in enumerate(whole):
        # A worker's replicas come in turn: (steps · r, b) → (steps, r · b).
        parts = [shard[i].reshape(count, -1, *expected.shape[2:]) for shard in shards]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


def test_every_epoch_visits_distinct_examples_in_a_new_order(split):
    epochs = visited(split, 30 * STEPS).reshape(30, -1)
    assert all(len(set(epoch)) == STEPS * BATCH for epoch in epochs)
    # What does not fill a batch changes, so nothing is left out for good.
    seen = np.bincount(epochs.ravel(), minlength=EXAMPLES)
    assert seen.min() > 15


def test_every_place_of_an_epoch_is_as_likely_for_every_example(split):
    epochs = visited(split, 400 * STEPS).reshape(400, -1)
    assert len({tuple(epoch) for epoch in epochs}) == 400
    expected = 400 / EXAMPLES
    for place in (0, STEPS * BATCH - 1):
        counts = np.bincount(epochs[:, place], minlength=EXAMPLES)
        assert ((counts - expected) ** 2 / expected).sum() < 48.3  # p = 0.001, 22 dof


def test_orders_of_two_epochs_are_unrelated():
    index = np.arange(50_000)
    split = Split(index[:, None, None, None].astype("uint8"), index, None, index)
    shape, size = (1, 1, 1), len(index)
    _, epochs = take(split, 12, batch_size=size, image_shape=shape)
    correlations = np.corrcoef(epochs) - np.eye(12)
    # Of 66 pairs of random orders the largest is about 3 / sqrt(50,000) = 0.013.
    assert np.abs(correlations).max() < 0.025


def test_order_follows_the_seed(split):
    first, again, other = (visited(split, STEPS, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def seeds_seen(split, epochs, **settings):
    """The augmentation's seeds by (epoch, example)."""

    def show(images, seeds):
        return tf.tile(tf.cast(seeds, tf.float32)[:, :, None, None], [1, 3, 6, 1])

    settings = {"batch_size": BATCH} | settings
    steps = EXAMPLES // settings["batch_size"]
    x, y = take(split, epochs * steps, augment=show, **settings)
    epoch = np.repeat(np.arange(epochs), steps * settings["batch_size"])
    return dict(
        zip(
            zip(epoch, y.ravel(), strict=True),
            map(tuple, x[:, :, :2, 0, 0].reshape(-1, 2)),
            strict=True,
        )
    )


def test_augmentation_seed_is_that_of_seed_epoch_and_example(split):
    small, large = (seeds_seen(split, 3, batch_size=size) for size in (2, 8))
    both = set(small) & set(large)
    assert len(both) > 30 and all(small[key] == large[key] for key in both)
    assert len(set(small.values())) == len(small)
    other = seeds_seen(split, 3, seed=6)
    assert not set(other.values()) & set(small.values())


def test_order_does_not_hang_on_how_fast_each_batch_is(split):
    def slow_at_first(images, seeds):
        def wait(images):
            if images[0, 0, 0, 0] % 2:
                time.sleep(0.02)
            return images

        return tf.ensure_shape(
            tf.numpy_function(wait, [images], tf.float32), images.shape
        )

    plain, delayed = take(split, 12), take(split, 12, augment=slow_at_first)
    for expected, found in zip(plain, delayed, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_batches_that_cannot_be_are_refused(split):
    with pytest.raises(UserError, match="batch_size=24 is larger than the data, 23"):
        take(split, 1, batch_size=24)
    with pytest.raises(UserError, match="batch_size=4 does not divide by the 3"):
        take(split, 1, replicas_per_shard=3)


def test_one_batch_may_be_all_the_data(split):
    assert sorted(visited(split, 1, batch_size=EXAMPLES)[0]) == list(range(EXAMPLES))


def test_evaluation_is_in_order_with_a_short_last_batch(split):
    found = list(
        evaluation_batches(split, batch_size=10, image_shape=SHAPE).as_numpy_iterator()
    )
    assert [len(y) for _, y in found] == [10, 10, 3]
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), split.labels)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), split.inputs)


def test_evaluation_of_nothing_is_nothing(split):
    empty = split.take(np.array([], int))
    assert not list(evaluation_batches(empty, batch_size=4, image_shape=SHAPE))


def write_images(folder, images):
    """Writes PNG files; returns their paths."""
    paths = [str(folder / f"{i}.png") for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        tf.io.write_file(path, tf.io.encode_png(image))
    return np.array(paths)


def test_files_give_the_batches_that_arrays_give(split, tmp_path):
    paths = write_images(tmp_path, split.inputs)
    files = Split(paths, split.labels, None, split.ids)
    settings = {"augment": augmentations.build("flip")}
    for found, expected in zip(
        take(files, STEPS + 2, **settings),
        take(split, STEPS + 2, **settings),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_files_of_any_size_become_one_size_with_whole_values(tmp_path):
    images = [np.full((h, w, 1), 90, "uint8") for h, w in [(3, 7), (20, 4), (8, 8)]]
    images.append(np.arange(4, dtype="uint8").reshape(2, 2, 1) * 51)
    split = Split(write_images(tmp_path, images), np.arange(4), None, np.arange(4))
    ((x, _),) = evaluation_batches(split, batch_size=4, image_shape=(8, 8, 3))
    np.testing.assert_array_equal(x[:3], np.full((3, 8, 8, 3), 90))
    expected = np.asarray(tf.image.resize(images[3], (8, 8))).round()
    np.testing.assert_array_equal(x[3], np.repeat(expected, 3, axis=-1))


def test_half_of_the_random_windows_are_exact_mirrors(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, 8, 10, 1), "uint8")
    paths, labels = write_images(tmp_path, images), np.arange(EXAMPLES)
    files = Split(paths, labels, None, labels, resize_size=8)
    settings = {"image_shape": (6, 6, 1)}
    plain, _ = take(files, 10 * STEPS, **settings)
    found, _ = take(files, 10 * STEPS, mirror=True, **settings)
    resumed, _ = take(files, 2, mirror=True, start_step=STEPS + 1, **settings)
    np.testing.assert_array_equal(resumed, found[STEPS + 1 : STEPS + 3])
    same = (found == plain).all(axis=(2, 3, 4))
    mirrored = (found == plain[:, :, :, ::-1]).all(axis=(2, 3, 4))
    assert (same ^ mirrored).all()
    assert 0.4 < mirrored.mean() < 0.6
    # All 3 x 5 windows come up, and nothing else does.
    windows = np.lib.stride_tricks.sliding_window_view(images[..., 0], (6, 6), (1, 2))
    places = (windows[:, :, :, None] == plain.reshape(-1, 6, 6)).all(axis=(-2, -1))
    assert places.any(axis=(0, 3)).all()
    assert places.any(axis=(0, 1, 2)).all()
