"""The classifiers are the published networks, reproducible, and safe to save."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.errors import UserError
from clidmu_tf.nets import backbones

pytestmark = pytest.mark.slow


def images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


def trainable_count(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def kinds(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def until(model, layer_name):
    return keras.Model(model.input, model.get_layer(layer_name).output)


def preprocessed(model):
    """What an application's own network is given."""
    (body,) = kinds(model, keras.Model)
    return keras.Model(model.input, body._inbound_nodes[-1].input_tensors[0])


# 10 classes, colour images, batch normalisation without its moving averages. The
# totals are those of the papers' tables (0.27M, 0.46M, 11.2M, 21.3M, 1.5M, 36.5M).
@pytest.mark.parametrize(
    "name, parameters, weighted_layers",
    [
        ("resnet20", 269_722, 20),
        ("resnet32", 464_154, 32),
        ("preact_resnet18", 11_172_170, 18 + 3),
        ("preact_resnet34", 21_280_330, 34 + 3),
        ("wrn_28_2", 1_467_610, 28 + 1),
        ("wrn_28_10", 36_479_194, 28 + 1),
    ],
)
def test_size_and_depth_are_the_published_ones(name, parameters, weighted_layers):
    # Wide ResNets count their three projections but not the Dense layer, the others
    # count Dense but not the projections of their last three stages.
    model = backbones.build(name, (32, 32, 3), 10)
    assert trainable_count(model) == parameters
    assert len(kinds(model, (keras.layers.Conv2D, keras.layers.Dense))) == (
        weighted_layers
    )


def test_small_networks_are_small():
    digits = backbones.build("digits_cnn", (8, 8, 1), 10)
    small = backbones.build("small_cnn", (32, 32, 3), 10)
    convolutions = 9 * (1 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 64 + 64)
    assert trainable_count(digits) == convolutions + 64 * 10 + 10
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128)
    assert trainable_count(small) == convolutions + 128 * 10 + 10


def test_stages_halve_the_image():
    model = backbones.build("preact_resnet18", (32, 32, 3), 10)
    sizes = [until(model, f"stage{s}_block2_add").output.shape[1:] for s in range(1, 5)]
    assert sizes == [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]


def test_resnet_shortcut_is_every_second_pixel_with_zero_new_channels():
    model = backbones.build("resnet20", (8, 8, 3), 10)
    gamma = model.get_layer("stage2_block1_conv2_norm").gamma
    gamma.assign(tf.zeros_like(gamma))
    x = images(2, 8, 8, 3)
    before = until(model, "stage1_block3_relu")(x).numpy()
    after = until(model, "stage2_block1_relu")(x).numpy()
    np.testing.assert_array_equal(after[..., 8:24], before[:, ::2, ::2])
    assert before.any() and not after[..., :8].any() and not after[..., 24:].any()


def test_preact_block_without_its_residual_is_the_identity():
    model = backbones.build("wrn_28_2", (8, 8, 3), 10)
    kernel = model.get_layer("stage1_block2_conv2").kernel
    kernel.assign(tf.zeros_like(kernel))
    x = images(2, 8, 8, 3)
    before = until(model, "stage1_block1_add")(x).numpy()
    after = until(model, "stage1_block2_add")(x).numpy()
    np.testing.assert_array_equal(after, before)
    assert before.min() < 0  # no activation after the addition


@pytest.mark.parametrize("name", backbones.names())
def test_ours_ends_in_linear_logits_on_flat_features_without_max_pooling(name):
    model = backbones.build(name, (8, 8, 2), 7)
    head = model.layers[-1]
    assert (head.name, head.activation, head.dtype) == (
        "logits",
        keras.activations.linear,
        "float32",
    )
    assert len(head.input.shape) == 2
    assert model.output_shape == (None, 7)
    assert not kinds(model, keras.layers.MaxPooling2D)


@pytest.mark.parametrize(
    "name", ["digits_cnn", "small_cnn", "resnet20", "preact_resnet18", "wrn_28_2"]
)
def test_gradients_are_finite_and_reach_every_variable(name):
    model = backbones.build(name, (8, 8, 3), 3)
    x, y = images(4, 8, 8, 3), [0, 1, 2, 0]

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        return tape.gradient(loss, model.trainable_variables)

    for variable, gradient in zip(model.trainable_variables, gradients(), strict=True):
        assert np.isfinite(gradient).all() and np.any(gradient), variable.path


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "wrn_28_2"])
def test_derivative_of_the_gradient_by_an_example_weight_is_its_own_gradient(name):
    # What a meta step differentiates. The gradient is linear in the weights, so the
    # gradient with all weight on one example is the exact answer.
    model = backbones.build(name, (8, 8, 3), 3)
    kernel = model.trainable_variables[0]
    direction = np.random.default_rng(1).normal(size=kernel.shape).astype("float32")
    x, y = images(4, 8, 8, 3), [0, 1, 2, 0]

    @tf.function
    def slope_and_its_derivative(weights):
        with tf.GradientTape() as outer:
            outer.watch(weights)
            with tf.GradientTape() as inner:
                logits = model(x, training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
                loss = tf.reduce_sum(weights * losses)
            slope = tf.reduce_sum(inner.gradient(loss, kernel) * direction)
        return slope, outer.gradient(slope, weights)

    _, derivative = slope_and_its_derivative(tf.constant([0.3, 0.9, 0.1, 0.6]))
    expected = [slope_and_its_derivative(one)[0] for one in tf.eye(4)]
    np.testing.assert_allclose(derivative, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "EfficientNetB0"])
def test_seed_decides_weights_and_dropout(name):
    def build(seed):
        return backbones.build(name, (32, 32, 3), 10, seed=seed)

    first, second, other = build(1), build(1), build(2)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first.trainable_variables, other.trainable_variables, strict=True):
        assert np.ptp(a) == 0 or not np.array_equal(a, b), a.path
    x = images(2, 32, 32, 3)
    np.testing.assert_array_equal(first(x, training=True), second(x, training=True))


def test_layers_of_one_shape_start_apart():
    model = backbones.build("resnet20", (32, 32, 3), 10)
    first = model.get_layer("stage1_block1_conv1").kernel
    second = model.get_layer("stage1_block1_conv2").kernel
    assert not np.array_equal(first, second)


def test_kernels_are_he_normal():
    model = backbones.build("preact_resnet18", (32, 32, 3), 10)
    kernel = model.get_layer("stage4_block2_conv1").kernel
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 512)), rtol=0.01)


def test_building_leaves_the_random_state_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    backbones.build("small_cnn", (32, 32, 3), 10, seed=9)
    assert random.random() == expected


def test_ours_normalise_colour_with_cifar_statistics_and_scale_grey():
    x = images(2, 8, 8, 3)
    colour = until(backbones.build("small_cnn", (8, 8, 3), 10), "normalise")
    mean, std = np.array([125.3, 123.0, 113.9]), np.array([63.0, 62.1, 66.7])
    np.testing.assert_allclose(colour(x), (x - mean) / std, atol=1e-6)
    grey = until(backbones.build("digits_cnn", (8, 8, 1), 10), "normalise")
    ends = grey(np.stack([np.zeros((8, 8, 1)), np.full((8, 8, 1), 255)]))
    np.testing.assert_allclose(ends[0], -1)
    np.testing.assert_allclose(ends[1], 1)


@pytest.mark.parametrize(
    "name, module",
    [
        ("VGG16", keras.applications.vgg16),  # caffe: blue first, means removed
        ("DenseNet121", keras.applications.densenet),  # torch: scaled, standardised
        ("MobileNetV2", keras.applications.mobilenet_v2),  # tf: -1 to 1
        ("MobileNetV3Small", keras.applications.mobilenet_v3),  # within the network
    ],
)
def test_application_preprocessing_is_its_modules_own(name, module):
    model = backbones.build(name, (32, 32, 3), 10)
    x = images(2, 32, 32, 3)
    expected = module.preprocess_input(x.astype("float32"))
    np.testing.assert_allclose(preprocessed(model)(x), expected, rtol=1e-6, atol=1e-6)


def test_application_repeats_a_grey_channel():
    model = backbones.build("MobileNetV2", (32, 32, 1), 10)
    x = images(2, 32, 32, 1)
    inside = preprocessed(model)(x)
    expected = np.repeat(x, 3, axis=-1) / 127.5 - 1
    np.testing.assert_allclose(inside, expected, atol=1e-6)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("digits_cnn", (8, 8, 1)),
        ("resnet20", (32, 32, 3)),
        ("wrn_28_2", (32, 32, 3)),
        ("VGG16", (32, 32, 1)),
        ("MobileNetV2", (32, 32, 3)),
    ],
)
def test_saved_model_loads_in_safe_mode_and_answers_alike(name, shape, tmp_path):
    model = backbones.build(name, shape, 10)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = images(3, *shape)
    np.testing.assert_array_equal(loaded(x), model(x))
    np.testing.assert_array_equal(model(x.astype("float32")), model(x))


def test_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match=r"'resnet21'.*digits_cnn.*keras\.applications"):
        backbones.build("resnet21", (32, 32, 3), 10)


@pytest.mark.parametrize("name", ["imagenet_utils", "__doc__", ""])
def test_what_is_no_class_of_applications_is_unknown(name):
    with pytest.raises(UserError, match="Unknown backbone"):
        backbones.build(name, (32, 32, 3), 10)


@pytest.mark.parametrize(
    "name, shape, sentence",
    [
        ("VGG16", (16, 16, 3), "VGG16 .*16.*Input size must be at least 32x32"),
        ("ResNet50", (64, 64, 4), "1 or 3 channels.*64, 64, 4"),
        ("resnet20", (32, 32), r"height, width, channels.*\(32, 32\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, shape, sentence):
    with pytest.raises(UserError, match=sentence):
        backbones.build(name, shape, 10)
