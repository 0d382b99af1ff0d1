"""From the bytes of an image file to the pixels that the network sees.

One rule for training, evaluation and the exported model. Without `resize_size` the
whole image becomes `image_shape`, whatever its proportions were. With it a window is
cut: what resizing the shorter side to `resize_size` and cutting `image_shape` out of
that comes to, to within a pixel, but only the window is decoded and resized.

An image of twice the size or more is first made 2, 4 or 8 times smaller, each pixel the
mean of a block, which a JPEG decoder does on its way and saves time by. The rest of the
way is bilinear, which would leave most pixels of a large image unseen.
"""

import contextlib
import io

import numpy as np
import tensorflow as tf

from clidmu_tf.data.threads import Budget

# Above what cameras make, and below what would take a machine's memory.
MAX_PIXELS = 200_000_000
CENTRE = (0.5, 0.5)
LARGEST_REDUCTION = 3  # JPEG decoders halve up to three times
# What is decoded of whole images at any time, over all threads: three bytes each.
UNDER_WAY = Budget(MAX_PIXELS)


class TooManyPixels(ValueError):
    """An image has more pixels than are decoded."""


def decode(contents, image_shape, resize_size=0, place=CENTRE, mirrored=None):
    """Decodes an image file, straight to the window that is asked for.

    Args:
        contents: Scalar string tensor, the bytes of a file that `read_pixels` reads;
            grey, CMYK and 16-bit images become 8-bit ones of as many channels as are
            asked for.
        image_shape: `(height, width, channels)` of the result.
        resize_size: Shorter side of the image that the window is cut from; 0 takes
            the whole image.
        place: Where the window lies, down and across, each from 0 to below 1.
        mirrored: Boolean scalar tensor, whether left and right change places; `None`
            for no.

    Returns:
        A float32 tensor of `image_shape`, whole values in 0..255.
    """
    channels = image_shape[-1]

    def from_jpeg():
        full = tf.io.extract_jpeg_shape(contents)[:2]
        halvings = _halvings(full, image_shape, resize_size)
        window = _window(_reduced(full, halvings), image_shape, resize_size, place)
        return tf.switch_case(
            halvings,
            [
                lambda ratio=2**k: tf.io.decode_and_crop_jpeg(
                    contents, window, channels=channels, ratio=ratio
                )
                for k in range(LARGEST_REDUCTION + 1)
            ],
        )

    def from_others():
        image = read_pixels(contents, channels)
        return tf.cast(tf.round(_cut(image, image_shape, resize_size, place)), tf.uint8)

    image = tf.cond(tf.io.is_jpeg(contents), from_jpeg, from_others)
    if mirrored is not None:  # now, while a pixel is a byte: later it costs four times
        image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    image = tf.round(tf.image.resize(image, image_shape[:2]))
    return tf.ensure_shape(image, image_shape)


def read_pixels(contents, channels):
    """Decodes a whole image of any kind: JPEG, PNG, WebP, GIF, BMP or TIFF.

    Args:
        contents: Scalar string tensor; of several frames the first counts.
        channels: 1 or 3.

    Returns:
        A uint8 tensor `(height, width, channels)`.
    """
    image = tf.cond(
        _is_png(contents) | tf.io.is_jpeg(contents),
        lambda: tf.io.decode_image(contents, channels, expand_animations=False),
        lambda: tf.numpy_function(
            lambda data: _by_pillow(data, channels), [contents], tf.uint8
        ),
    )
    return tf.ensure_shape(image, (None, None, channels))


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def count_pixels(contents):
    """How many pixels an image file has: by its header, which decoders go by as well.

    Args:
        contents: As for `read_pixels`.

    Returns:
        A scalar int64 tensor.
    """

    def of_png():
        # Those of the first chunk; of a file that ends before it, none.
        start = tf.strings.substr(contents, 0, 24) + b"\0" * 24
        sides = tf.strings.substr(start, 16, 8)
        return tf.io.decode_raw(sides, tf.int32, little_endian=False)

    def of_others():
        return tf.cond(
            tf.io.is_jpeg(contents),
            lambda: tf.io.extract_jpeg_shape(contents)[:2],
            lambda: tf.numpy_function(_size_by_pillow, [contents], tf.int32),
        )

    size = tf.cond(_is_png(contents), of_png, of_others)
    return tf.reduce_prod(tf.cast(size, tf.int64))


def limited(contents, max_pixels):
    """Returns a file's contents, and fails where they are of more pixels than that."""
    check = tf.debugging.assert_less_equal(
        count_pixels(contents), tf.constant(max_pixels, tf.int64)
    )
    with tf.control_dependencies([check]):
        return tf.identity(contents)


@contextlib.contextmanager
def room_for(contents, max_pixels):
    """Waits until there is room to decode an image file whole, and holds it.

    Args:
        contents: As for `read_pixels`.
        max_pixels: The most that it may have.

    Raises:
        TooManyPixels: It has more.
        tf.errors.OpError: It is no image.
    """
    count = int(count_pixels(contents))
    if count > max_pixels:
        raise TooManyPixels(f"{count:,} pixels are more than {max_pixels:,}.")
    with UNDER_WAY.take(count):
        yield


def _is_png(contents):
    return tf.equal(tf.strings.substr(contents, 0, 4), b"\x89PNG")


def _size_by_pillow(data):
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return np.array(image.size, "int32")
    except PIL.Image.DecompressionBombError:  # its own limit, at 179 million
        return np.array([2**31 - 1] * 2, "int32")


def _by_pillow(data, channels):
    # TensorFlow reads some of these, but no TIFF, and no BMP or GIF of every kind.
    import PIL.Image

    with PIL.Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith(("I", "F")):  # 16 bits, which Pillow would cut off
            pixels = np.asarray(image, "float32")
            scale = 257 if pixels.max() > 255 else 1
            image = PIL.Image.fromarray((pixels / scale).astype("uint8"))
        pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def fit(images, image_shape, resize_size=0):
    """Brings decoded images to size by the rule of `decode`, the window in the middle.

    Args:
        images: `(n, h, w, channels)`, of any one size.
        image_shape: `(height, width, channels)` of the result.
        resize_size: Shorter side of the images that the window is cut from, or 0.

    Returns:
        A float32 tensor `(n, height, width, channels)`, whole values in 0..255.
    """
    images = tf.round(_cut(images, image_shape, resize_size, CENTRE))
    return tf.round(tf.image.resize(images, image_shape[:2]))


def _cut(images, image_shape, resize_size, place):
    """The window of `images`, `(…, h, w, c)`, reduced but not yet to size."""
    full = tf.shape(images)[-3:-1]
    halvings = _halvings(full, image_shape, resize_size)
    size = _reduced(full, halvings)
    height, width = tf.unstack(tf.bitwise.left_shift(size, halvings))
    images = tf.cond(
        halvings > 0,
        lambda: tf.image.resize(images[..., :height, :width, :], size, method="area"),
        lambda: tf.cast(images, tf.float32),
    )
    window = _window(size, image_shape, resize_size, place)
    top, left, height, width = tf.unstack(window)
    return images[..., top : top + height, left : left + width, :]


def _halvings(full, image_shape, resize_size):
    """How often an image may be halved without falling short of what is asked for."""
    wanted = resize_size or image_shape[:2]
    times = tf.reduce_min(full // wanted)
    steps = [2 ** (k + 1) for k in range(LARGEST_REDUCTION)]
    return tf.reduce_sum(tf.cast(times >= steps, tf.int32))


def _reduced(full, halvings):
    """The image's size in whole blocks; what is left at the end belongs to none."""
    return tf.bitwise.right_shift(full, halvings)


def _window(size, image_shape, resize_size, place):
    """Top, left, height and width of the window in an image of this size."""
    if not resize_size:
        return tf.concat([[0, 0], size], axis=0)
    scale = tf.cast(tf.reduce_min(size), tf.float32) / resize_size
    extent = tf.round(scale * tf.constant(image_shape[:2], tf.float32))
    extent = tf.clip_by_value(tf.cast(extent, tf.int32), 1, size)
    room = tf.cast(size - extent + 1, tf.float32)
    corner = tf.cast(tf.floor(room * place), tf.int32)
    return tf.concat([corner, extent], axis=0)
