"""Classifiers by name, each with its own preprocessing inside.

Our own networks downsample with strided convolutions: the second derivative of max
pooling, which the meta step needs, is not reliable under XLA.
"""

import contextlib
import functools
import importlib
import inspect
import random

import keras
from keras import layers, ops

from clidmu_tf.errors import UserError

# Of the CIFAR-10 training images, per colour channel, for values in 0..255.
CIFAR_MEAN = (125.3, 123.0, 113.9)
CIFAR_STD = (63.0, 62.1, 66.7)


def names():
    """Returns the names of our own networks for images, sorted.

    `build` knows these, those for texts and rows of numbers, and every
    `keras.applications` class besides.
    """
    return sorted(_NETWORKS)


def build(name, input_shape, num_classes, seed=0, vocabulary_size=0):
    """Builds a classifier for images with raw values in 0..255, for texts or numbers.

    | name | network |
    | --- | --- |
    | `digits_cnn` | three convolutions, about 57,000 parameters, for 8x8 images |
    | `digits_cnn_plain` | the same without dropout, which learns labels by heart |
    | `small_cnn` | three convolutions, about 95,000 parameters, for trial runs |
    | `resnet20`, `resnet32` | the CIFAR form, with parameter-free shortcuts (1) |
    | `preact_resnet18`, `preact_resnet34` | the CIFAR form: 3x3 stem (2) |
    | `wrn_28_2`, `wrn_28_10` | Wide ResNet, no dropout (3) |
    | `ResNet50`, `MobileNetV2`, … | any `keras.applications` class, untrained |
    | `embedding_bag` | texts: mean of word vectors, a hidden layer |
    | `text_cnn` | texts: one convolution, its maximum over the text (4) |
    | `mlp` | numbers: two hidden layers |

    Our networks normalise colour images with the statistics of CIFAR-10 and scale all
    others to [-1, 1]; an application gets its module's `preprocess_input`, and three
    equal channels in place of a single one. The layers of our residual blocks are
    named `stage1_block1_…`.

    Args:
        name: One of `names()`, or the name of a `keras.applications` class.
        input_shape: Height, width and channels of an image, of any size and number in
            our networks; or `(d,)`: word indices of a text, or numbers.
        num_classes: Number of classes, 2 or more.
        seed: Decides the initial weights and the dropout masks. Python's, NumPy's
            and Keras's own random state are left as they were.
        vocabulary_size: Of texts, the number of different word indices.

    Returns:
        A Functional `keras.Model` from images, float32 or uint8, of shape
        `(n, *input_shape)` to float32 logits of shape `(n, num_classes)`. Its last
        layer is a linear `Dense` named `"logits"`, the input of which is `(n, d)`.

    Raises:
        UserError: The name is unknown, or the network cannot take such images.

    Example:

    ```python
    import numpy as np
    from clidmu_tf.nets import backbones

    model = backbones.build("resnet20", (32, 32, 3), num_classes=10)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    logits = model(images)  # (4, 10)
    ```

    References:
        1. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
           section 4.2, option A.
        2. He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016,
           figure 4 (e).
        3. Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, table 1.
        4. Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014.
    """
    kind = "text" if vocabulary_size else "row" if len(input_shape) == 1 else "image"
    if name == "auto":
        name = {"text": "embedding_bag", "image": "digits_cnn", "row": "mlp"}[kind]
    fitting = _ROW_NETWORKS.get(kind, {})
    if kind != "image" and name not in fitting:
        raise UserError(
            f"the backbone {name!r} does not take {_KINDS[kind]}: use "
            f"{' or '.join(fitting)}."
        )
    others = {n for networks in _ROW_NETWORKS.values() for n in networks}
    if kind == "image" and name in others:
        raise UserError(
            f"the backbone {name!r} takes no images: use {', '.join(_NETWORKS)}, or a "
            "keras.applications class."
        )
    if name in fitting:
        inputs = keras.Input(input_shape, name=kind, dtype=_DTYPES[kind])
        body = functools.partial(fitting[name], vocabulary_size)
        return _classifier(name, inputs, body, num_classes, seed)
    if len(input_shape) != 3:
        raise UserError(
            "input_shape must be (height, width, channels); received "
            f"{tuple(input_shape)}. Grey images have 1 channel."
        )
    body = _NETWORKS.get(name) or _application(name, input_shape)
    inputs = keras.Input(input_shape, name="image")
    return _classifier(name, inputs, body, num_classes, seed)


def _classifier(name, inputs, body, num_classes, seed):
    with _seeded(seed):
        features = body(inputs)
        logits = layers.Dense(num_classes, dtype="float32", name="logits")(features)
    return keras.Model(inputs, logits, name=name)


@contextlib.contextmanager
def _seeded(seed):
    """Seeds what is built inside, for keras.applications takes no seed.

    Keras draws the seed of each initialiser and dropout layer from Python's `random`.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _application(name, input_shape):
    """Returns preprocessing and body of a keras.applications class, as a function."""
    application = getattr(keras.applications, name, None)
    if not inspect.isfunction(application):
        raise UserError(
            f"Unknown backbone {name!r}; ours are {', '.join(names())}, and any "
            "keras.applications class works by its name, such as ResNet50."
        )
    height, width, channels = input_shape
    if channels not in (1, 3):
        raise UserError(
            f"{name} takes images with 1 or 3 channels; received input_shape="
            f"{tuple(input_shape)}. Our own networks take any number."
        )
    module = application.__module__.rpartition(".")[2]
    preprocess = importlib.import_module(
        f"keras.applications.{module}"
    ).preprocess_input

    def features(x):
        if channels == 1:
            x = layers.Concatenate(name="grey_to_rgb")([x, x, x])
        try:
            body = application(
                include_top=False,
                weights=None,
                input_shape=(height, width, 3),
                pooling="avg",
            )
        except ValueError as error:
            raise UserError(
                f"{name} cannot take images of shape {tuple(input_shape)}: {error}"
            ) from error
        return body(preprocess(x))

    return features


def _normalise(x):
    if x.shape[-1] == 3:
        variance = [std**2 for std in CIFAR_STD]
        return layers.Normalization(
            mean=CIFAR_MEAN, variance=variance, name="normalise"
        )(x)
    return layers.Rescaling(1 / 127.5, offset=-1.0, name="normalise")(x)


def _conv(x, filters, size, strides, name):
    return layers.Conv2D(
        filters,
        size,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def _norm_relu(x, name):
    return layers.ReLU(name=f"{name}_relu")(_norm(x, f"{name}_norm"))


def _norm(x, name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def _pool(x):
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _plain(x, filters, strides, dropout=()):
    """Convolution, normalisation, ReLU, once per entry of `filters`."""
    x = _normalise(x)
    for block, (width, stride) in enumerate(zip(filters, strides, strict=True), 1):
        if block > 1 and dropout:
            x = layers.SpatialDropout2D(dropout[block - 2], name=f"block{block}_drop")(
                x
            )
        x = _conv(x, width, 3, stride, f"block{block}_conv")
        x = _norm_relu(x, f"block{block}")
    return x


def _digits_cnn(x):
    return _pool(_plain(x, (32, 64, 64), (1, 2, 1), dropout=(0.1, 0.2)))


def _digits_cnn_plain(x):
    return _pool(_plain(x, (32, 64, 64), (1, 2, 1)))


def _small_cnn(x):
    return _pool(_plain(x, (32, 64, 128), (2, 2, 2)))


def _blocks(depths, widths):
    """Yields name, width and stride of every residual block; stages halve the size."""
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        for block in range(1, depth + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            yield f"stage{stage}_block{block}", width, stride


def _resnet(x, depths, widths):
    x = _conv(_normalise(x), widths[0], 3, 1, "stem_conv")
    x = _norm_relu(x, "stem")
    for name, width, stride in _blocks(depths, widths):
        shortcut = x
        if stride > 1:  # option A: every second pixel, the new channels zero
            shortcut = layers.AveragePooling2D(1, stride, name=f"{name}_shortcut")(x)
            missing = width - x.shape[-1]
            before, after = missing // 2, missing - missing // 2
            shortcut = ops.pad(shortcut, [(0, 0), (0, 0), (0, 0), (before, after)])
        x = _norm_relu(_conv(x, width, 3, stride, f"{name}_conv1"), f"{name}_conv1")
        x = _norm(_conv(x, width, 3, 1, f"{name}_conv2"), f"{name}_conv2_norm")
        x = layers.Add(name=f"{name}_add")([x, shortcut])
        x = layers.ReLU(name=f"{name}_relu")(x)
    return _pool(x)


def _preact_resnet(x, stem, depths, widths):
    x = _conv(_normalise(x), stem, 3, 1, "stem_conv")
    for name, width, stride in _blocks(depths, widths):
        shortcut = x
        x = _norm_relu(x, f"{name}_preact")
        if stride > 1 or shortcut.shape[-1] != width:
            shortcut = _conv(x, width, 1, stride, f"{name}_shortcut")
        x = _norm_relu(_conv(x, width, 3, stride, f"{name}_conv1"), f"{name}_conv1")
        x = _conv(x, width, 3, 1, f"{name}_conv2")
        x = layers.Add(name=f"{name}_add")([x, shortcut])
    return _pool(_norm_relu(x, "last"))


def _wide_resnet(widen, depth=28):
    blocks = (depth - 4) // 6
    return functools.partial(
        _preact_resnet,
        stem=16,
        depths=(blocks,) * 3,
        widths=(16 * widen, 32 * widen, 64 * widen),
    )


_PREACT = functools.partial(_preact_resnet, stem=64, widths=(64, 128, 256, 512))
_CIFAR = functools.partial(_resnet, widths=(16, 32, 64))
_NETWORKS = {
    "digits_cnn": _digits_cnn,
    "digits_cnn_plain": _digits_cnn_plain,
    "small_cnn": _small_cnn,
    "resnet20": functools.partial(_CIFAR, depths=(3, 3, 3)),
    "resnet32": functools.partial(_CIFAR, depths=(5, 5, 5)),
    "preact_resnet18": functools.partial(_PREACT, depths=(2, 2, 2, 2)),
    "preact_resnet34": functools.partial(_PREACT, depths=(3, 4, 6, 3)),
    "wrn_28_2": _wide_resnet(2),
    "wrn_28_10": _wide_resnet(10),
}


def _embedding_bag(words, x):
    x = layers.Embedding(words, 64, mask_zero=True, name="words")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return layers.Dense(64, "relu", name="hidden")(x)


def _text_cnn(words, x):
    x = layers.Embedding(words, 64, name="words")(x)
    x = layers.Conv1D(128, 4, padding="same", activation="relu", name="conv")(x)
    return layers.GlobalMaxPooling1D(name="most")(x)


def _mlp(words, x):
    x = layers.Dense(128, "relu", name="hidden1")(x)
    return layers.Dense(64, "relu", name="hidden2")(x)


_ROW_NETWORKS = {
    "text": {"embedding_bag": _embedding_bag, "text_cnn": _text_cnn},
    "row": {"mlp": _mlp},
}
_DTYPES = {"text": "int32", "row": "float32"}
_KINDS = {"text": "texts", "row": "rows of numbers"}
