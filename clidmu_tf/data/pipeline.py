"""The input pipeline: what a batch holds is a function of seed and position alone."""

import numpy as np
import tensorflow as tf

from clidmu_tf.data.decode import decode, limited
from clidmu_tf.data.records import Records
from clidmu_tf.errors import UserError

INT32 = 2**31 - 1
# Added to the seed for each further view of an example.
VIEW_SEED = 10**7
# And for batches that go beside the labelled ones, not with them.
META_SEED = 10**6
UNLABELED_SEED = 2 * 10**6


def training_batches(
    split,
    *,
    batch_size,
    seed,
    image_shape,
    augment=None,
    views=None,
    mirror=False,
    start_step=0,
    num_shards=1,
    shard_index=0,
    replicas_per_shard=1,
    with_index=None,
):
    """Endless training batches from a step on.

    Every epoch visits whole batches of a fresh permutation. The order depends on
    the seed and the epoch, augmentation and the window that is cut on the seed, the
    epoch and the example's own index: never on where the run was cut, or over how many
    devices. Only what a batch holds is read and decoded.

    Args:
        split: A `Split`.
        batch_size: Examples a step, over all replicas.
        seed: Decides order, windows and augmentation.
        image_shape: `(height, width, channels)` that images in files are brought to:
            whole, or where the split has a `resize_size` a random window of them.
        augment: `(images, seeds) → images` for float32 batches in 0..255 and int32
            seeds `(b, 2)`, or `None`.
        views: Several such in place of `augment`, for as many views of each example;
            `None` for one.
        mirror: Whether random windows are mirrored left to right with probability one
            half: cheaper than to `augment` for it once they are resized.
        start_step: Steps done before.
        num_shards: Number of workers.
        shard_index: Which worker this is.
        replicas_per_shard: Replicas of each worker.
        with_index: `(x, index) → x`, told which examples a batch holds, int64;
            `None` where nobody asks.

    Returns:
        A `tf.data.Dataset` of `(x, y)`, float32 in 0..255 and int64: one batch a
        replica, those of a worker's replicas in turn. With `views`, x is a tuple.

    Raises:
        UserError: The batch is larger than the data, or can't be cut evenly.
    """
    examples, replicas = len(split), num_shards * replicas_per_shard
    if batch_size > examples:
        raise UserError(
            f"batch_size={batch_size} is larger than the data, {examples} examples."
        )
    if batch_size % replicas:
        raise UserError(
            f"batch_size={batch_size} does not divide by the {replicas} replicas."
        )
    augments = [augment] if views is None else list(views)
    steps, per_replica = examples // batch_size, batch_size // replicas
    first_epoch, done = divmod(start_step, steps)
    mine = slice(
        shard_index * replicas_per_shard, (shard_index + 1) * replicas_per_shard
    )

    def batches_of(epoch):
        """The epoch's batches of indices, those of this worker's replicas in turn."""
        order = order_of(epoch, examples, seed)[: steps * batch_size]
        order = tf.reshape(order, (steps, replicas, per_replica))[:, mine]
        order = tf.reshape(order, (-1, per_replica))
        windows = range(len(augments)) if split.resize_size else ()
        draws = [window_draws(epoch, view) for view in windows]
        order = tf.data.Dataset.from_tensor_slices(order)
        return order.map(
            lambda index: (
                index,
                epoch * examples + index,
                *(tf.gather(numbers, index) for numbers in draws),
            )
        )

    def window_draws(epoch, view):
        """What places and mirrors each example's window, all of an epoch at once."""
        seeds = seeds_of(seed + 2 + view * VIEW_SEED, epoch[None])
        return tf.random.stateless_uniform([examples, 3], seeds[0])

    def window(draws):
        return {"place": draws[:2], "mirrored": draws[2] < 0.5 if mirror else None}

    def finish(images, number):
        """The views of images, each of an image of its own or all of the only one."""
        found = []
        for view, augment in enumerate(augments):
            x = images[view % len(images)]
            if augment is not None:
                x = augment(x, seeds_of(seed + 1 + view * VIEW_SEED, number))
            found.append(tf.ensure_shape(x, (x.shape[0], *image_shape)))
        return tuple(found) if views is not None else found[0]

    batches = tf.data.Dataset.range(first_epoch, np.iinfo("int64").max)
    batches = batches.flat_map(batches_of).skip(done * replicas_per_shard)
    return _batches(
        split, batches, per_replica, image_shape, window, finish, with_index
    )


def batches_of_indices(examples, batch_size, seed, start_step=0):
    """Endless batches of indices, in the order that `training_batches` goes by.

    Args:
        examples: How many there are.
        batch_size: Indices a batch; what does not fill a batch is left out.
        seed: Decides the order.
        start_step: Batches to leave out.

    Returns:
        A `tf.data.Dataset` of `(batch_size,)` int64.
    """
    steps = examples // batch_size
    first_epoch, done = divmod(start_step, steps)

    def batches_of(epoch):
        order = order_of(epoch, examples, seed)[: steps * batch_size]
        return tf.data.Dataset.from_tensor_slices(
            tf.reshape(order, (steps, batch_size))
        )

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo("int64").max)
    return epochs.flat_map(batches_of).skip(done)


def order_of(epoch, examples, seed):
    """The permutation of an epoch, `(examples,)` int64: of seed and epoch alone."""
    # Not index_shuffle, which has but a few hundred orders, whatever the seed.
    keys = tf.random.stateless_uniform(
        [examples], seeds_of(seed, epoch[None])[0], None, None, tf.int64
    )
    return tf.cast(tf.argsort(keys, stable=True), tf.int64)


def evaluation_batches(split, *, batch_size, image_shape):
    """Every example once, in order; the last batch may be short.

    Args:
        split: A `Split`.
        batch_size: Examples at a time.
        image_shape: `(height, width, channels)` that images in files are brought to:
            whole, or where the split has a `resize_size` the window in their middle.

    Returns:
        A finite `tf.data.Dataset` of `(x, y)`, float32 in 0..255 and int64.
    """
    batches = tf.data.Dataset.range(len(split)).batch(batch_size)
    batches = batches.map(lambda index: (index, index))
    return _batches(split, batches, batch_size, image_shape)


def _batches(
    split,
    batches,
    batch_size,
    image_shape,
    window=None,
    finish=None,
    with_index=None,
):
    """Turns batches of `(index, number)` into batches of images and labels.

    Args:
        split: A `Split`.
        batches: A `tf.data.Dataset` of the examples' indices, of numbers that tell the
            examples of all epochs apart, both `(b,)` int64, and where windows are cut
            at random of the draws that decide on them, `(b, 3)`.
        batch_size: Their size; the last may be smaller.
        image_shape: As for `training_batches`.
        window: draws → what `decode` cuts the window by; without draws it lies in
            the middle.
        finish: (images, numbers) → the view or views, of batches of images; `None` to
            evaluate.
        with_index: As for `training_batches`.
    """
    name = with_index or (lambda x, index: x)
    labels = tf.constant(split.labels, tf.int64)
    parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    if split.in_memory:
        images = tf.constant(split.inputs)

        def load(index, number):
            x = tf.gather(images, index)
            x = tf.cast(x, tf.float32) if x.dtype == tf.uint8 else x
            x = finish([x], number) if finish else x
            return name(x, index), tf.gather(labels, index)

        return batches.map(load, **parallel).prefetch(tf.data.AUTOTUNE)

    if isinstance(split.inputs, Records):
        fetch, contents_of = split.inputs.images, tf.identity
    else:
        paths = tf.constant(split.inputs)
        fetch, contents_of = lambda index: tf.gather(paths, index), tf.io.read_file

    def load_one(source, label, index, number, *draws):
        cuts = [window(numbers) for numbers in draws] or [{}]
        contents = limited(contents_of(source), split.max_pixels)
        images = [
            decode(contents, image_shape, split.resize_size, **cut) for cut in cuts
        ]
        if finish is None:
            return name(images[0], index), label
        x = finish([image[None] for image in images], number[None])
        return name(tf.nest.map_structure(lambda view: view[0], x), index), label

    # Read a batch at a time, but decode and augment image by image: what one image
    # needs stays in the processor's cache, and few images are under way at once.
    batches = batches.map(
        lambda index, *others: (
            fetch(index),
            tf.gather(labels, index),
            index,
            *others,
        ),
        **parallel,
    )
    images = batches.unbatch().map(load_one, **parallel)
    endless = finish is not None  # and so of one size
    # One thread puts batches together: with more of them it takes longer, even alone.
    batches = images.batch(batch_size, drop_remainder=endless)
    return batches.prefetch(tf.data.AUTOTUNE)


def seeds_of(seed, numbers):
    """Two int32 seeds for each number, from a seed and that number."""
    low = tf.cast(numbers % INT32, tf.int32)
    high = tf.fill(tf.shape(low), tf.constant(seed % INT32, tf.int32))
    return tf.stack([high, low], axis=-1)
