"""The input pipeline: what a batch holds is a function of seed and position alone."""

import numpy as np
import tensorflow as tf

from clidmu_tf.errors import UserError

INT32 = 2**31 - 1


def training_batches(
    split,
    *,
    batch_size,
    seed,
    image_shape,
    augment=None,
    start_step=0,
    num_shards=1,
    shard_index=0,
    replicas_per_shard=1,
):
    """Endless training batches from a step on.

    Every epoch visits whole batches of a fresh permutation. The order depends on
    the seed and the epoch, augmentation on the seed, the epoch and the example's own
    index: never on where the run was cut, or over how many devices.

    Args:
        split: A `Split`.
        batch_size: Examples a step, over all replicas.
        seed: Decides order and augmentation.
        image_shape: `(height, width, channels)`; images of files are resized to it.
        augment: `(images, seeds) → images` for float32 batches in 0..255 and int32
            seeds `(b, 2)`, or `None`.
        start_step: Steps done before.
        num_shards: Number of workers.
        shard_index: Which worker this is.
        replicas_per_shard: Replicas of each worker.

    Returns:
        A `tf.data.Dataset` of `(x, y)`, float32 in 0..255 and int64: one batch a
        replica, those of a worker's replicas in turn.

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
    steps, per_replica = examples // batch_size, batch_size // replicas
    first_epoch, done = divmod(start_step, steps)
    mine = slice(
        shard_index * replicas_per_shard, (shard_index + 1) * replicas_per_shard
    )
    read = _reader(split, image_shape)

    def indices(epoch):
        """The epoch's batches, those of this worker's replicas in turn."""
        # Not index_shuffle, which has but a few hundred orders, whatever the seed.
        keys = tf.random.stateless_uniform(
            [examples], _fold(seed, epoch[None])[0], None, None, tf.int64
        )
        order = tf.argsort(keys, stable=True)[: steps * batch_size]
        order = tf.reshape(order, (steps, replicas, per_replica))[:, mine]
        order = tf.cast(tf.reshape(order, (-1, per_replica)), tf.int64)
        order = tf.data.Dataset.from_tensor_slices(order)
        return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(epoch).repeat(), order)

    def load(epoch, index):
        x, y = read(index)
        if augment is not None:
            x = augment(x, _fold(seed + 1, epoch * examples + index))
        return tf.ensure_shape(x, (per_replica, *image_shape)), y

    batches = tf.data.Dataset.range(first_epoch, np.iinfo("int64").max)
    batches = batches.flat_map(indices).skip(done * replicas_per_shard)
    batches = batches.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(split, *, batch_size, image_shape):
    """Every example once, in order; the last batch may be short.

    Args:
        split: A `Split`.
        batch_size: Examples at a time.
        image_shape: `(height, width, channels)`; images of files are resized to it.

    Returns:
        A finite `tf.data.Dataset` of `(x, y)`, float32 in 0..255 and int64.
    """
    batches = tf.data.Dataset.range(len(split)).batch(batch_size)
    batches = batches.map(
        _reader(split, image_shape),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return batches.prefetch(tf.data.AUTOTUNE)


def _reader(split, image_shape):
    """Returns a function of indices: the images there, and their labels."""
    labels = tf.constant(split.labels, tf.int64)
    inputs = tf.constant(split.inputs)

    def read(index):
        found = tf.gather(inputs, index)
        if found.dtype == tf.string:
            found = tf.map_fn(
                lambda path: decode(path, image_shape),
                found,
                fn_output_signature=tf.TensorSpec(image_shape, tf.float32),
            )
        return tf.cast(found, tf.float32), tf.gather(labels, index)

    return read


def decode(path, image_shape):
    """Reads an image file as float32 of this shape, values whole in 0..255."""
    height, width, channels = image_shape
    image = tf.io.decode_image(
        tf.io.read_file(path), channels=channels, expand_animations=False
    )
    image = tf.image.resize(image, (height, width))
    image = tf.clip_by_value(tf.round(image), 0.0, 255.0)
    return tf.ensure_shape(image, image_shape)


def _fold(seed, numbers):
    """Two int32 seeds for each number, from a seed and that number."""
    low = tf.cast(numbers % INT32, tf.int32)
    high = tf.fill(tf.shape(low), tf.constant(seed % INT32, tf.int32))
    return tf.stack([high, low], axis=-1)
