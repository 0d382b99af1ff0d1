"""Augmentation: each image by its own seed, bit for bit, and what each step does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from clidmu_tf.data import augment
from clidmu_tf.errors import UserError

pytestmark = pytest.mark.slow

FULL = "flip,crop,randaugment"
SPECS = ["flip", "crop", "randaugment", FULL]
SHAPES = [(8, 8, 1), (32, 32, 3)]


def images(n, shape=(32, 32, 3), seed=0):
    """Smooth images with some noise, whole numbers from 0 to 255."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(40, 200, shape[1])[None, None, :, None]
    values = ramp + rng.normal(0, 25, (n, *shape))
    return np.clip(np.round(values), 0, 255).astype("float32")


def seeds(n, first=7):
    return np.stack([np.full(n, first), np.arange(n)], axis=1).astype("int32")


def operation(name, strength, x, sign=1.0):
    """One operation of RandAugment on a whole batch."""
    result = augment._operations(strength)[name](
        tf.constant(x), tf.fill([len(x)], sign)
    )
    return augment._to_pixels(result).numpy()


def pillow(image):
    return Image.fromarray(image.astype("uint8").squeeze())


class TestEveryAugmentation:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("spec", SPECS)
    def test_an_image_depends_on_itself_and_its_seed_alone(self, spec, shape):
        function = tf.function(augment.build(spec), reduce_retracing=True)
        x, s = images(12, shape), seeds(12)
        whole = function(x, s).numpy()
        assert not np.array_equal(whole, x)
        for i in range(12):
            alone = function(x[i : i + 1], s[i : i + 1]).numpy()
            np.testing.assert_array_equal(alone[0], whole[i])
        order = np.random.default_rng(0).permutation(12)[:7]
        np.testing.assert_array_equal(function(x[order], s[order]), whole[order])

    @pytest.mark.parametrize("spec", SPECS)
    def test_eager_and_graph_agree_and_global_seeds_do_not_matter(self, spec):
        function = augment.build(spec)
        tf.random.set_seed(1)
        eager = function(images(16), seeds(16))
        tf.random.set_seed(2)
        graph = tf.function(augment.build(spec))(images(16), seeds(16))
        np.testing.assert_array_equal(eager, graph)

    @pytest.mark.parametrize("part", [0, 1])
    @pytest.mark.parametrize("spec", SPECS)
    def test_both_halves_of_the_seed_count(self, spec, part):
        x, s = np.repeat(images(1), 16, axis=0), seeds(16)
        other = s.copy()
        other[:, part] += 100
        first, second = (augment.build(spec)(x, k).numpy() for k in (s, other))
        changed = (first != second).any(axis=(1, 2, 3))
        assert changed.sum() >= 3

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("spec", SPECS)
    def test_in_a_tf_data_pipeline_shapes_stay_and_values_stay_in_range(
        self, spec, shape
    ):
        function = augment.build(spec)
        x, s = images(50, shape), seeds(50)
        data = tf.data.Dataset.from_tensor_slices((x, s)).batch(16)
        data = data.map(function, num_parallel_calls=2)
        assert data.element_spec.shape.as_list() == [None, *shape]
        assert data.element_spec.dtype == tf.float32
        found = np.concatenate(list(data.as_numpy_iterator()))
        np.testing.assert_array_equal(found, function(x, s))
        assert found.min() >= 0 and found.max() <= 255

    @pytest.mark.parametrize("spec", SPECS)
    def test_an_empty_batch_stays_empty(self, spec):
        found = tf.function(augment.build(spec))(images(0), seeds(0))
        assert found.shape == (0, 32, 32, 3)


class TestFlip:
    def test_half_of_the_images_are_exact_mirrors_and_the_rest_untouched(self):
        x = images(400, (6, 5, 2))
        found = augment.flip(x, seeds(400)).numpy()
        mirrored = (found == x[:, :, ::-1]).all(axis=(1, 2, 3))
        same = (found == x).all(axis=(1, 2, 3))
        assert (mirrored ^ same).all()
        assert 150 < mirrored.sum() < 250


class TestReflectPadCrop:
    def test_each_image_is_one_window_of_the_reflected_image_and_all_come_up(self):
        n, (h, w), padding = 600, (7, 9), 2
        x = images(1, (h, w, 2))
        padded = np.pad(x[0], ((2, 2), (2, 2), (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), (0, 1))
        windows = np.moveaxis(windows, 2, -1).reshape(-1, 1, h, w, 2)

        crop = augment.reflect_pad_crop(padding)
        found = crop(np.repeat(x, n, axis=0), seeds(n)).numpy()
        matches = (windows == found).all(axis=(2, 3, 4))  # (windows, images)
        np.testing.assert_array_equal(matches.sum(axis=0), np.ones(n))
        # 25 windows, 24 images each: none is missing, none is favoured.
        counts = matches.sum(axis=1)
        assert len(counts) == 25 and counts.min() > 6 and counts.max() < 48

    @pytest.mark.parametrize("padding", [0, -1, 1.5])
    def test_padding_must_be_a_positive_integer(self, padding):
        with pytest.raises(ValueError, match=f"received {padding}"):
            augment.reflect_pad_crop(padding)

    def test_padding_must_be_less_than_the_image(self):
        crop = augment.reflect_pad_crop(8)
        assert crop(images(2, (9, 9, 1)), seeds(2)).shape == (2, 9, 9, 1)
        with pytest.raises(ValueError, match=r"padding, 8; .* \(2, 9, 8, 1\)"):
            crop(images(2, (9, 8, 1)), seeds(2))


class TestRandAugment:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_each_image_gets_its_operations_one_after_the_other(self, shape):
        """The result is op_2(op_1(x)) for one pair of signed operations of the list."""
        x = images(1, shape)
        names = [k for k in augment._operations(1.0) if shape[-1] == 3 or k != "color"]
        moves = [(name, sign) for name in names for sign in (-1.0, 1.0)]
        once = np.concatenate([operation(name, 0.7, x, sign) for name, sign in moves])
        twice = np.concatenate(
            [operation(name, 0.7, once, sign) for name, sign in moves]
        )

        n = 300
        function = augment.rand_augment(num_ops=2, magnitude=7)
        found = function(np.repeat(x, n, axis=0), seeds(n)).numpy()
        matches = (found[:, None] == twice[None]).all(axis=(2, 3, 4))
        assert matches.any(axis=1).all()

    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_operation_of_the_list_comes_up_equally_often(self, shape):
        x = images(1, shape)
        names = [k for k in augment._operations(1.0) if shape[-1] == 3 or k != "color"]
        assert len(names) == (14 if shape[-1] == 3 else 13)
        n = 700
        function = augment.rand_augment(num_ops=1, magnitude=7)
        found = function(np.repeat(x, n, axis=0), seeds(n)).numpy()
        for name in names:
            # Some operations have no sign: both results are then the same.
            counts = [
                (found == operation(name, 0.7, x, sign)).all(axis=(1, 2, 3)).sum()
                for sign in (-1.0, 1.0)
            ]
            signed = not np.array_equal(
                *(operation(name, 0.7, x, s) for s in (-1.0, 1.0))
            )
            assert 20 < (sum(counts) if signed else counts[0]) < 90, name
            assert not signed or min(counts) > 8, name

    @pytest.mark.parametrize("shape", SHAPES)
    def test_at_magnitude_0_only_the_histogram_operations_change_an_image(self, shape):
        x = images(4, shape)
        for name in augment._operations(0.0):
            same = np.array_equal(operation(name, 0.0, x), x)
            assert same == (name not in ("auto_contrast", "equalize")), name

    @pytest.mark.parametrize("magnitude", [0, 10])
    @pytest.mark.parametrize("value", [0, 7, 255])
    def test_a_uniform_image_stays_uniform(self, magnitude, value):
        x = np.full((60, 8, 8, 3), value, "float32")
        function = augment.rand_augment(num_ops=2, magnitude=magnitude)
        found = function(x, seeds(60)).numpy()
        np.testing.assert_array_equal(found, found[:, :1, :1, :1] + 0 * found)
        if magnitude == 0:
            np.testing.assert_array_equal(found, x)

    def test_results_are_whole_numbers_whatever_comes_in(self):
        x = images(60) * np.float32(0.987)
        found = augment.rand_augment()(x, seeds(60)).numpy()
        np.testing.assert_array_equal(found, np.round(found))

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
    def test_the_global_precision_does_not_matter(self, policy):
        expected = augment.rand_augment()(images(60), seeds(60))
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            found = augment.rand_augment()(images(60), seeds(60))
        finally:
            keras.config.set_dtype_policy(before)
        np.testing.assert_array_equal(found, expected)

    def test_wrong_settings_are_refused(self):
        with pytest.raises(ValueError, match="num_ops .* received 0"):
            augment.rand_augment(num_ops=0)
        for magnitude in (-1, 10.5, float("nan")):
            with pytest.raises(ValueError, match=f"magnitude .* received {magnitude}"):
                augment.rand_augment(magnitude=magnitude)
        with pytest.raises(ValueError, match=r"1 or 3 channels; .* \(2, 8, 8, 4\)"):
            augment.rand_augment()(np.zeros((2, 8, 8, 4), "float32"), seeds(2))


class TestOperations:
    """Against Pillow's or NumPy's own words for the same thing."""

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    @pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
    def test_blends_are_those_of_pillow(self, name, sign, shape):
        x = images(3, shape)
        enhance = getattr(ImageEnhance, name)
        expected = [enhance(pillow(image)).enhance(1 + 0.45 * sign) for image in x]
        found = operation(name.lower(), 0.5, x, sign)
        # Pillow cuts fractions off where we round.
        expected = np.reshape([np.asarray(image) for image in expected], x.shape)
        np.testing.assert_allclose(found, expected, atol=1)

    def test_solarize_posterize_and_auto_contrast_are_those_of_pillow(self):
        for x in images(3):
            for name, strength, expected in (
                ("solarize", 1.0, ImageOps.invert(pillow(x))),
                ("solarize", 0.5, ImageOps.solarize(pillow(x), 128)),
                ("posterize", 1.0, ImageOps.posterize(pillow(x), 4)),
                ("posterize", 0.5, ImageOps.posterize(pillow(x), 6)),
                ("auto_contrast", 1.0, ImageOps.autocontrast(pillow(x))),
            ):
                found = operation(name, strength, x[None])[0]
                np.testing.assert_allclose(found, np.asarray(expected), atol=1)

    def test_equalize_flattens_each_channel_for_itself(self):
        x = images(3)
        found = operation("equalize", 1.0, x)
        for i, c in np.ndindex(3, 3):
            old, new = x[i, ..., c].ravel(), found[i, ..., c].ravel()
            assert (new.min(), new.max()) == (0, 255)
            # A value becomes the share of pixels up to it, the lowest one aside.
            share = (old[:, None] >= old).sum(axis=1)
            expected = 255 * (share - share.min()) / (len(old) - share.min())
            np.testing.assert_allclose(new, expected, atol=0.51)

    @pytest.mark.parametrize("sign", [-1, 1])
    def test_translations_move_by_three_tenths_of_the_side(self, sign):
        x = images(2, (10, 20, 3))  # by 3 rows, or by 6 columns
        vertical = operation("translate_y", 1.0, x, float(sign))
        horizontal = operation("translate_x", 1.0, x, float(sign))
        for found, axis, by in ((vertical, 1, 3), (horizontal, 2, 6)):
            pad = [(0, 0)] * 4
            pad[axis] = (by, by)
            padded = np.pad(x, pad, mode="symmetric")
            start = by + sign * by
            window = np.arange(start, start + x.shape[axis])
            np.testing.assert_array_equal(found, np.take(padded, window, axis=axis))

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    @pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y"])
    def test_a_ramp_is_rotated_and_sheared_by_the_right_amount(self, name, sign):
        """A linear image stays linear where nothing is reflected; its slope tells."""
        size, strength = 41, 0.5
        y, x = np.mgrid[:size, :size].astype("float32")
        ramp = (3 * x + 2 * y)[None, :, :, None]
        found = operation(name, strength, ramp, sign)[0, :, :, 0]
        cos, sin = np.cos(np.pi / 12), np.sin(np.pi / 12) * sign
        shear = 0.15 * sign
        slope = {  # the gradient (3, 2) seen through the transposed matrix
            "rotate": (3 * cos + 2 * sin, -3 * sin + 2 * cos),
            "shear_x": (3, 2 + 3 * shear),
            "shear_y": (3 + 2 * shear, 2),
        }[name]
        inner = slice(14, 27)
        dy, dx = np.gradient(found)
        measured = dx[inner, inner].mean(), dy[inner, inner].mean()
        np.testing.assert_allclose(measured, slope, atol=0.05)
        if name == "rotate":  # about the centre
            assert found[20, 20] == ramp[0, 20, 20, 0]


class TestBuild:
    def test_steps_follow_one_another_with_draws_of_their_own(self):
        x, s = images(30), seeds(30)
        by_hand = augment.rand_augment()(
            augment.reflect_pad_crop()(augment.flip(x, s), s), s
        )
        np.testing.assert_array_equal(augment.build(FULL)(x, s), by_hand)
        np.testing.assert_array_equal(
            augment.build(" flip , crop,randaugment ")(x, s), by_hand
        )

    @pytest.mark.parametrize("spec", ["", "  "])
    def test_nothing_to_do_is_none(self, spec):
        assert augment.build(spec) is None

    def test_flips_and_crops_are_drawn_independently(self):
        n = 4000
        flips = augment._uniform(seeds(n), 1, "flip").numpy()[:, 0]
        crops = augment._uniform(seeds(n), 2, "crop").numpy()
        for other in (crops[:, 0], crops[:, 1], np.roll(flips, 1)):
            assert abs(np.corrcoef(flips, other)[0, 1]) < 4 / np.sqrt(n)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("flip,cutout", "'cutout' .* choose from flip, crop, randaugment"),
            ("flip,,crop", "Unknown augmentation ''"),
            ("flip,crop,flip", "'flip' stands twice in 'flip,crop,flip'"),
        ],
    )
    def test_wrong_words_are_refused(self, spec, message):
        with pytest.raises(UserError, match=message):
            augment.build(spec)
