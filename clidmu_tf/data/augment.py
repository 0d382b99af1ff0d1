"""Image augmentation as a pure function of an image and its seed.

An augmentation is a function `augment(images, seeds) -> images`:

- `images`: float32 tensor of shape `(b, h, w, c)`, values in `[0, 255]`;
- `seeds`: int32 tensor of shape `(b, 2)`, one pair per image;
- the result has the shape and dtype of `images`.

What becomes of an image depends on that image and its own seed pair alone, to the
bit. So a run that is cut, resumed or sharded sees the same images. Keras's layers
cannot promise that: RandomCrop draws one offset and RandAugment one list of operations
for a whole batch (whatever seed it is handed), Equalization pools its histogram.
"""

import functools
import math
import zlib

import keras
import tensorflow as tf

from clidmu_tf.data import draws
from clidmu_tf.errors import UserError

PADDING = 4  # pixels that a crop moves an image by, at most


def flip(images, seeds):
    """Mirrors each image left to right with probability one half.

    Args:
        images: Float tensor of shape `(b, h, w, c)`.
        seeds: int32 tensor of shape `(b, 2)`.

    Returns:
        Tensor of the shape and dtype of `images`.

    Example:

    ```python
    import tensorflow as tf
    from clidmu_tf.data import augment
    images = tf.random.uniform((4, 32, 32, 3), maxval=255.0)
    seeds = tf.constant([[0, 0], [0, 1], [0, 2], [0, 3]])  # (epoch, index)
    mirrored = augment.flip(images, seeds)
    ```
    """
    chosen = is_mirrored(seeds)
    if images.shape[0] == 1:  # where() computes both, at the cost of decoding a JPEG
        return tf.cond(chosen[0], lambda: tf.reverse(images, [2]), lambda: images)
    return tf.where(chosen[:, None, None, None], tf.reverse(images, [2]), images)


def is_mirrored(seeds):
    """Which images `flip` mirrors, `(b,)` boolean, by their seeds `(b, 2)`."""
    return _uniform(seeds, 1, "flip")[:, 0] < 0.5


def reflect_pad_crop(padding=PADDING):
    """Pads images by reflection and cuts a random window of the old size.

    The usual augmentation for CIFAR (He et al., 2016, "Deep residual learning",
    section 4.2), with the border mirrored instead of black.

    Args:
        padding: Pixels per side, from 1 to less than the images' height and width.

    Returns:
        A function `augment(images, seeds) -> images`.

    Raises:
        ValueError: If `padding` is no positive integer or too large for the images.

    Example:

    ```python
    import tensorflow as tf
    from clidmu_tf.data import augment
    crop = augment.reflect_pad_crop(4)
    images = crop(tf.zeros((2, 32, 32, 3)), tf.constant([[0, 0], [0, 1]]))
    ```
    """
    if not isinstance(padding, int) or padding < 1:
        raise ValueError(f"padding must be a positive integer; received {padding!r}.")

    def crop(images, seeds):
        if padding >= min(size or math.inf for size in images.shape[1:3]):
            raise ValueError(
                f"Images must exceed the padding, {padding}; received {images.shape}."
            )
        return shift(images, shifts_of(seeds, padding))

    return crop


def shifts_of(seeds, padding):
    """How far `reflect_pad_crop` shifts images, `(b, 2)` int32, by their seeds."""
    places = _uniform(seeds, 2, "crop") * (2 * padding + 1)
    return tf.cast(places, tf.int32) - padding


def shift(images, shifts):
    """Shifts images by whole pixels, down and across, with their border mirrored."""
    window = images
    for axis in (1, 2):
        last = tf.shape(images)[axis] - 1
        places = shifts[:, axis - 1, None] + tf.range(last + 1)
        inside = last - tf.abs(last - tf.abs(places))  # reflected at both ends
        window = tf.gather(window, inside, axis=axis, batch_dims=1)
    return tf.ensure_shape(window, images.shape)


def rand_augment(num_ops=2, magnitude=10):
    """RandAugment: random operations, one after another, of one fixed strength.

    Each image gets `num_ops` operations, drawn with repetition from the list of the
    paper: identity, auto-contrast, equalize, rotate, solarize, color, posterize,
    contrast, brightness, sharpness, shear-x, shear-y, translate-x and translate-y.
    Images with one channel have no color, so that one is left out. Strength at
    magnitude 10: rotate 30 degrees, shear 0.3, translate 0.3 of the side, blend
    (color, contrast, brightness, sharpness) 1 ± 0.9, posterize to 4 bits, solarize
    everything; in between in proportion. Signs are random. At magnitude 0 only
    auto-contrast and equalize change an image. Pixels that move in from outside are
    reflected ones, as in Keras's layers.

    Like the 8-bit originals, every operation returns whole numbers from 0 to 255.

    Args:
        num_ops: How many operations per image, at least 1.
        magnitude: Strength in `[0, 10]`.

    Returns:
        A function `augment(images, seeds) -> images` for 1 or 3 channels.

    Raises:
        ValueError: For settings out of range or images with other channels.

    Example:

    ```python
    import tensorflow as tf
    from clidmu_tf.data import augment
    strong = augment.rand_augment(num_ops=2, magnitude=10)
    images = tf.random.uniform((2, 32, 32, 3), maxval=255.0)
    images = strong(images, tf.constant([[0, 0], [0, 1]]))
    ```

    Reference:
        Cubuk et al., 2020, "RandAugment", section 3.
    """
    if not isinstance(num_ops, int) or num_ops < 1:
        raise ValueError(f"num_ops must be a positive integer; received {num_ops!r}.")
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude must lie in [0, 10]; received {magnitude}.")
    operations = _operations(magnitude / 10)

    def augment(images, seeds):
        channels = images.shape[-1]
        if channels not in (1, 3):
            raise ValueError(
                "RandAugment takes images with 1 or 3 channels; received shape "
                f"{images.shape}."
            )
        pool = [
            op for name, op in operations.items() if channels == 3 or name != "color"
        ]
        drawn = tf.reshape(
            _uniform(seeds, 2 * num_ops, "randaugment"), [-1, num_ops, 2]
        )
        choices = tf.cast(drawn[:, :, 0] * len(pool), tf.int32)
        signs = tf.where(drawn[:, :, 1] < 0.5, -1.0, 1.0)
        result = _to_pixels(images)
        for i in range(num_ops):
            result = _apply_chosen(pool, result, choices[:, i], signs[:, i])
        return tf.ensure_shape(result, images.shape)

    return augment


AUGMENTATIONS = {
    "flip": lambda: flip,
    "crop": reflect_pad_crop,
    "randaugment": rand_augment,
}


def build(spec):
    """Builds an augmentation from its name, such as `"flip,crop,randaugment"`.

    Args:
        spec: Names from `AUGMENTATIONS`, separated by commas, in the order in which
            they are applied; each at most once. Numbers after a colon are a name's
            arguments: `"randaugment:3:5"` is `rand_augment(3, 5)`.

    Returns:
        A function `augment(images, seeds) -> images`, or `None` for an empty `spec`.

    Raises:
        UserError: For a name that is unknown or given twice.

    Example:

    ```python
    import tensorflow as tf
    from clidmu_tf.data import augment
    dataset = tf.data.Dataset.from_tensor_slices(
        (tf.zeros((8, 32, 32, 3)), tf.zeros((8, 2), tf.int32))
    )
    dataset = dataset.batch(4).map(augment.build("flip,crop"))
    ```
    """
    if not spec.strip():
        return None
    words = [word.strip() for word in spec.split(",")]
    names = [word.split(":")[0] for word in words]
    for i, word in enumerate(names):
        if word not in AUGMENTATIONS:
            raise UserError(
                f"Unknown augmentation {word!r} in {spec!r}; choose from "
                f"{', '.join(AUGMENTATIONS)}."
            )
        if word in names[:i]:  # it would draw the same numbers, and flip back
            raise UserError(f"{word!r} stands twice in {spec!r}; drop one.")
    steps = [_step(word) for word in words]

    def augment(images, seeds):
        for step in steps:
            images = step(images, seeds)
        return images

    return augment


def _step(word):
    name, *numbers = word.split(":")
    try:
        return AUGMENTATIONS[name](*map(int, numbers))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{word!r} is no augmentation ({error}): write {name}, or its whole "
            "numbers after colons, such as randaugment:3:5."
        ) from None


def _uniform(seeds, count, purpose):
    """Draws `count` numbers in [0, 1) from each seed pair: shape (b, count).

    The purpose changes the seeds, so that augmentations draw independently.
    """
    key = zlib.crc32(purpose.encode()) >> 1  # fits into int32
    return draws.uniform(tf.bitwise.bitwise_xor(seeds, key), count)


def _apply_chosen(pool, images, choices, signs):
    """Applies `pool[choices[i]]` to image i; an operation sees its own images only."""
    if images.shape[0] == 1:
        branches = [functools.partial(op, images, signs) for op in pool]
        return _to_pixels(tf.switch_case(choices[0], branches))
    parts = tf.dynamic_partition(images, choices, len(pool))
    part_signs = tf.dynamic_partition(signs, choices, len(pool))
    places = tf.dynamic_partition(tf.range(tf.size(choices)), choices, len(pool))
    results = [op(part, s) for op, part, s in zip(pool, parts, part_signs, strict=True)]
    return _to_pixels(tf.dynamic_stitch(places, results))


def _to_pixels(images):
    """Whole numbers from 0 to 255: their sums are exact, in whatever order."""
    return tf.clip_by_value(tf.round(images), 0.0, 255.0)


def _operations(strength):
    """The operations `(images, signs) -> images` for a strength in [0, 1]."""
    shear = translate = 0.3 * strength
    angle = math.radians(30) * strength

    def blend(degenerate):
        def operation(images, signs):
            factor = 0.9 * strength * signs[:, None, None, None]
            return images + factor * (images - degenerate(images))

        return operation

    def affine(matrix):
        return functools.partial(_affine, matrix=matrix)

    return {
        "identity": lambda images, signs: images,
        "auto_contrast": lambda images, signs: _auto_contrast(images),
        "equalize": lambda images, signs: _equalize(images),
        "rotate": affine(lambda s, h, w: _rotation(s, angle, h, w)),
        "solarize": lambda images, signs: tf.where(
            images < 256 * (1 - strength), images, 255 - images
        ),
        "color": blend(_gray),
        "posterize": lambda images, signs: _posterize(images, 8 - round(4 * strength)),
        "contrast": blend(_mean_gray),
        "brightness": blend(tf.zeros_like),
        "sharpness": blend(_smooth),
        "shear_x": affine(lambda s, h, w: (1, shear * s, 0, 0, 1, 0)),
        "shear_y": affine(lambda s, h, w: (1, 0, 0, shear * s, 1, 0)),
        "translate_x": affine(lambda s, h, w: (1, 0, translate * s * w, 0, 1, 0)),
        "translate_y": affine(lambda s, h, w: (1, 0, 0, 0, 1, translate * s * h)),
    }


def _affine(images, signs, matrix):
    """Samples each image at the places that its 2x3 `matrix(signs, h, w)` names."""
    height, width = (tf.cast(tf.shape(images)[i], tf.float32) for i in (1, 2))
    entries = (*matrix(signs, height, width), 0.0, 0.0)
    transforms = tf.stack([e * tf.ones_like(signs) for e in entries], axis=1)
    return keras.ops.image.affine_transform(
        images, transforms, fill_mode="reflect", data_format="channels_last"
    )


def _rotation(signs, angle, height, width):
    """The 2x3 matrix of a rotation about the centre of the image."""
    # Sine and cosine of a number, not of a tensor: the vectorised ones may differ in
    # the last bit from place to place in a batch.
    cos, sin = math.cos(angle), math.sin(angle) * signs
    x, y = (width - 1) / 2, (height - 1) / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def _auto_contrast(images):
    """Stretches each channel to the full range; a constant channel stays."""
    low = tf.reduce_min(images, axis=[1, 2], keepdims=True)
    high = tf.reduce_max(images, axis=[1, 2], keepdims=True)
    stretched = tf.math.divide_no_nan(255 * (images - low), high - low)
    return tf.where(high > low, stretched, images)


def _equalize(images):
    """Spreads the histogram of each channel evenly; a constant channel stays."""
    shape = tf.shape(images)
    pixels = tf.cast(tf.transpose(images, [0, 3, 1, 2]), tf.int32)
    pixels = tf.reshape(pixels, [shape[0] * shape[3], shape[1] * shape[2]])
    counts = tf.math.bincount(pixels, minlength=256, maxlength=256, axis=-1)
    below = tf.cumsum(counts, axis=1)
    total = below[:, -1:]
    first = tf.reduce_min(tf.where(below > 0, below, total), axis=1, keepdims=True)
    table = tf.where(
        first == total,
        tf.range(256.0),
        255 * tf.cast(below - first, tf.float32) / tf.cast(total - first, tf.float32),
    )
    result = tf.gather(table, pixels, axis=1, batch_dims=1)
    result = tf.reshape(result, tf.gather(shape, [0, 3, 1, 2]))
    return tf.transpose(result, [0, 2, 3, 1])


def _posterize(images, bits):
    step = 2 ** (8 - bits)
    return tf.floor(images / step) * step


def _gray(images):
    """ITU-R 601 luma in whole numbers, with the 16-bit weights of Pillow."""
    if images.shape[-1] == 1:
        return images
    weighted = tf.cast(images, tf.int32) * [19595, 38470, 7471]
    luma = (tf.reduce_sum(weighted, axis=-1, keepdims=True) + 2**15) // 2**16
    return tf.cast(luma, tf.float32)


def _mean_gray(images):
    luma = tf.cast(_gray(images), tf.int32)
    total = tf.reduce_sum(luma, axis=[1, 2, 3], keepdims=True)
    count = tf.shape(images)[1] * tf.shape(images)[2]
    return tf.round(tf.cast(total / count, tf.float32))


def _smooth(images):
    """Pillow's SMOOTH filter, (the 3x3 sum + 4 x the centre) / 13; the rim stays."""
    centre = images[:, 1:-1, 1:-1]
    sums = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    sums = sums[:, :, :-2] + sums[:, :, 1:-1] + sums[:, :, 2:]
    change = tf.round((sums + 4 * centre) / 13) - centre
    return images + tf.pad(change, [[0, 0], [1, 1], [1, 1], [0, 0]])
