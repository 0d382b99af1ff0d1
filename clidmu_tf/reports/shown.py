"""What a page shows of an example: a picture, a text, or the columns of a row."""

import base64
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import ArrayLike

from clidmu_tf.engine.given import as_arrays, each_batch, is_batches
from clidmu_tf.engine.network import count

THUMBNAIL = 96  # pixels
TEXT = 240  # characters
FIELDS = 8
VALUE = 40  # characters


def shown(example: Any) -> dict[str, Any]:
    """What a template shows of an example, as `picture`, `text` or `fields`.

    Args:
        example: An image `(height, width, 1 or 3)` with values in 0..255, a text, or a
            dict of values by name.
    """
    if isinstance(example, str):
        return {"text": _short(example, TEXT)}
    if isinstance(example, dict):
        fields = [(str(k), _short(_value(v), VALUE)) for k, v in example.items()]
        more = len(fields) - FIELDS
        rest = [("", f"and {more} more")] if more > 0 else []
        return {"fields": fields[:FIELDS] + rest}
    return {"picture": thumbnail(example)}


def examples_at(x: Any, positions: np.ndarray) -> list[Any]:
    """The examples at these positions, each as `shown` takes it.

    Args:
        x: Inputs as `clidmu.audit` takes them.
        positions: `(k,)`.

    Raises:
        ValueError: There are fewer.
    """
    if isinstance(x, pd.DataFrame):
        return x.iloc[positions].to_dict("records")
    if is_batches(x):
        return _kinds(_from_batches(x, positions))
    x = as_arrays(x)
    size, last = count(x), int(np.max(positions, initial=-1))
    if last >= size:
        raise ValueError(
            f"x must hold the inputs that were audited; received {size}, and the table "
            f"names number {last}."
        )
    return _kinds(keras.tree.map_structure(lambda a: np.asarray(a)[positions], x))


def _from_batches(batches, positions):
    """The inputs at these positions of batches, which are read up to the last."""
    wanted, found, row = {int(p) for p in positions}, {}, 0
    for batch in each_batch(batches):
        x = as_arrays(keras.utils.unpack_x_y_sample_weight(batch)[0])
        size = len(keras.tree.flatten(x)[0])
        for i in sorted(wanted & {*range(row, row + size)}):
            found[i] = keras.tree.map_structure(
                lambda a, at=i - row: np.asarray(a)[at], x
            )
        row += size
        if len(found) == len(wanted):
            break
    rows = [found[int(p)] for p in positions]
    return keras.tree.map_structure(lambda *values: np.stack(values), *rows)


def _kinds(x):
    """Examples from arrays: images, texts or rows, whichever they look like."""
    if isinstance(x, tuple):
        x = {f"input {i}": part for i, part in enumerate(x, 1)}
    if isinstance(x, dict):
        parts = {name: _values(part) for name, part in x.items()}
        return [
            dict(zip(parts, row, strict=True))
            for row in zip(*parts.values(), strict=True)
        ]
    if x.dtype.kind in "OSU" and x.size == len(x):
        return [_text(value) for value in x.reshape(-1)]
    if x.ndim == 4 and x.shape[-1] in (1, 3):
        return [*_in_bytes(x)]
    if x.ndim == 3 and min(x.shape[1:]) > 1:
        return [*_in_bytes(x[..., None])]
    return [{str(i): value for i, value in enumerate(row)} for row in _values(x)]


def _values(array):
    """Of each example its values, or its one value."""
    rows = array.reshape(len(array), -1)
    return rows[:, 0] if rows.shape[1] == 1 else rows


def _in_bytes(images):
    """Images in 0..255, whether their values were in 0..1, around zero, or there."""
    images = images.astype("float32")
    low, high = images.min(), images.max()
    if low < 0:
        return (images - low) * 255 / max(high - low, 1e-9)
    return images * 255 if high <= 1 else images


def _value(value):
    if np.ndim(value):
        values = [_value(v) for v in np.ravel(value)[: FIELDS + 1]]
        return " ".join(values[:FIELDS]) + (" …" if len(values) > FIELDS else "")
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return _text(value)


def _text(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _short(text, length):
    return text if len(text) <= length else text[: length - 1] + "…"


def thumbnail(image: ArrayLike) -> dict[str, Any]:
    """A picture as a data URI, and its size: no larger than it need be.

    Args:
        image: `(height, width, channels)` with values in 0..255.
    """
    height, width = np.shape(image)[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    if scale < 1:
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        image = tf.image.resize(image, size, antialias=True)
    pixels = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    encoded = tf.io.encode_png(pixels).numpy()
    return {"uri": data_uri("image/png", encoded), "is_small": scale == 1}


def data_uri(kind: str, content: bytes) -> str:
    """A file as an address that holds it whole."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
