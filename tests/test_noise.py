"""Label noise: exact rates and transition matrices, and what it may depend on."""

import numpy as np
import pytest

from clidmu_tf import noise

N, C = 60_000, 6
LABELS = np.random.default_rng(1).integers(0, C, N)
INPUTS = np.random.default_rng(2).normal(size=(N, 4, 4, 1))
GROUPS = (0, 1, 0, 1, 0, 2)  # class 5 is alone

# Each kind as a function of labels, rate, seed and inputs (of the same length).
KINDS = {
    "symmetric": lambda y, r, s, x: noise.symmetric(y, r, s, C),
    "asymmetric": lambda y, r, s, x: noise.asymmetric(y, r, s, C),
    "flip2": lambda y, r, s, x: noise.flip2(y, r, s, C),
    "hierarchical": lambda y, r, s, x: noise.hierarchical(y, r, s, GROUPS),
    "instance": lambda y, r, s, x: noise.instance(y, r, s, x, C),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def transitions(labels, noisy):
    """Row c: how often label c became each class."""
    counts = np.zeros((C, C))
    np.add.at(counts, (labels, noisy), 1)
    return counts / counts.sum(axis=1, keepdims=True)


def assert_matches(found, expected):
    """Frequencies within 4.5 standard deviations of what about N / C draws give."""
    bound = 4.5 * np.sqrt(expected * (1 - expected) / (0.95 * N / C))
    assert (np.abs(found - expected) <= bound).all(), found


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.6, 1.0])
class TestTransitions:
    def test_symmetric_redraws_over_all_classes(self, rate):
        noisy = noise.symmetric(LABELS, rate, seed=0)
        expected = (1 - rate) * np.eye(C) + rate / C
        assert_matches(transitions(LABELS, noisy), expected)

    def test_asymmetric_flips_to_the_next_class(self, rate):
        noisy = noise.asymmetric(LABELS, rate, seed=0)
        expected = (1 - rate) * np.eye(C) + rate * np.roll(np.eye(C), 1, axis=1)
        assert_matches(transitions(LABELS, noisy), expected)

    @pytest.mark.parametrize("mapping", [{0: 3, 4: 1}, [3, 1, 2, 3, 1, 5]])
    def test_asymmetric_follows_a_mapping(self, rate, mapping):
        noisy = noise.asymmetric(LABELS, rate, seed=0, mapping=mapping)
        expected = np.eye(C)
        expected[0] = (1 - rate) * np.eye(C)[0] + rate * np.eye(C)[3]
        expected[4] = (1 - rate) * np.eye(C)[4] + rate * np.eye(C)[1]
        assert_matches(transitions(LABELS, noisy), expected)

    def test_flip2_splits_the_rate_over_two_other_classes(self, rate):
        found = transitions(LABELS, noise.flip2(LABELS, rate, seed=0))
        # The two targets of each class show where everything is flipped.
        targets = transitions(LABELS, noise.flip2(LABELS, 1.0, seed=0)) > 0
        assert (targets.sum(axis=1) == 2).all() and not targets.diagonal().any()
        assert_matches(found, (1 - rate) * np.eye(C) + rate / 2 * targets)

    def test_hierarchical_stays_within_the_superclass(self, rate):
        noisy = noise.hierarchical(LABELS, rate, seed=0, groups=GROUPS)
        same = np.equal.outer(GROUPS, GROUPS) & ~np.eye(C, dtype=bool)
        others = same.sum(axis=1, keepdims=True)
        expected = np.where(
            others > 0,
            (1 - rate) * np.eye(C) + rate * same / np.maximum(others, 1),
            np.eye(C),
        )
        assert_matches(transitions(LABELS, noisy), expected)

    def test_instance_mistakes_each_class_at_the_rate(self, rate):
        noisy = noise.instance(LABELS, rate, seed=0, inputs=INPUTS)
        kept = transitions(LABELS, noisy).diagonal()
        assert_matches(kept, np.full(C, 1 - rate))


@every_kind
class TestEveryKind:
    def test_rate_0_changes_nothing_and_returns_a_copy(self, kind):
        noisy = KINDS[kind](LABELS, 0.0, 0, INPUTS)
        np.testing.assert_array_equal(noisy, LABELS)
        assert not np.shares_memory(noisy, LABELS)

    def test_rate_1_leaves_only_what_may_come_out_right(self, kind):
        right = KINDS[kind](LABELS, 1.0, 0, INPUTS) == LABELS
        if kind == "symmetric":
            assert 0.1 < right.mean() < 0.25
        elif kind == "hierarchical":
            np.testing.assert_array_equal(right, LABELS == 5)
        else:
            assert not right.any()

    def test_the_first_labels_have_the_noise_of_the_whole(self, kind):
        whole = KINDS[kind](LABELS[:2000], 0.5, 3, INPUTS[:2000])
        for k in (0, 1, 777):
            part = KINDS[kind](LABELS[:k], 0.5, 3, INPUTS[:k])
            np.testing.assert_array_equal(part, whole[:k])

    def test_the_seed_alone_decides(self, kind):
        first, again, other = (KINDS[kind](LABELS, 0.5, s, INPUTS) for s in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        # Another seed picks other examples, not only other classes for them.
        assert 0.3 < np.mean((first != LABELS) != (other != LABELS)) < 0.6

    def test_a_higher_rate_keeps_the_wrong_labels_of_a_lower_one(self, kind):
        low, high = (KINDS[kind](LABELS, r, 0, INPUTS) for r in (0.4, 0.5))
        was_wrong = low != LABELS
        np.testing.assert_array_equal(high[was_wrong], low[was_wrong])

    def test_inputs_stay_as_they_were(self, kind):
        labels, inputs = LABELS[:500].copy(), INPUTS[:500].copy()
        labels.flags.writeable = inputs.flags.writeable = False
        KINDS[kind](labels, 0.5, 0, inputs)  # would raise on a write
        np.testing.assert_array_equal(labels, LABELS[:500])

    def test_the_dtype_is_kept_and_the_noise_does_not_depend_on_it(self, kind):
        expected = KINDS[kind](LABELS[:500], 0.5, 0, INPUTS[:500])
        for dtype in ("uint8", "int32", "int64"):
            noisy = KINDS[kind](LABELS[:500].astype(dtype), 0.5, 0, INPUTS[:500])
            assert noisy.dtype == dtype
            np.testing.assert_array_equal(noisy, expected)

    def test_a_rate_outside_0_to_1_is_refused(self, kind):
        for rate in (-0.1, 1.5, np.nan):
            with pytest.raises(ValueError, match=rf"rate must .* received {rate}\."):
                KINDS[kind](LABELS[:5], rate, 0, INPUTS[:5])

    def test_labels_that_are_no_class_numbers_are_refused(self, kind):
        for labels, message in (
            (np.zeros((3, 1), int), r"labels must be integers .* \(3, 1\)"),
            (np.zeros(3), "labels must be integers .* float64"),
            (np.array([0, -1, 2]), r"\[0, 6\); received values from -1 to 2"),
            (np.array([0, 1, C]), r"\[0, 6\); received values from 0 to 6"),
        ):
            with pytest.raises(ValueError, match=message):
                KINDS[kind](labels, 0.5, 0, INPUTS[:3])

    def test_a_seed_that_is_no_seed_is_refused(self, kind):
        for seed in (-1, None, 0.5):
            with pytest.raises(ValueError, match=f"seed must .* received {seed}"):
                KINDS[kind](LABELS[:5], 0.5, seed, INPUTS[:5])


class TestInstance:
    def test_wrong_labels_follow_the_inputs(self):
        """Equal inputs of a class share one distribution; other inputs another."""
        prototypes = np.random.default_rng(5).normal(size=(2, 16))
        which = np.arange(N) % 2
        labels = np.zeros(N, int)
        noisy = noise.instance(labels, 1.0, 0, prototypes[which], C)
        first, second = (np.bincount(noisy[which == k], minlength=C) for k in (0, 1))
        difference = np.abs(first - second).sum() / N
        assert difference > 0.3

    def test_log_odds_are_linear_in_the_input(self):
        """So the log odds of two classes, x (A_1 - A_2), change sign with x."""
        x = np.random.default_rng(6).normal(size=3)
        x = (x - x.mean()) / x.std()
        labels = np.zeros(N, int)
        odds = []
        for sign in (1, -1):
            rows = np.tile(sign * x, (N, 1))
            noisy = noise.instance(labels, 1.0, 9, rows, 3)
            ones, twos = np.bincount(noisy, minlength=3)[1:]
            odds.append(np.log(ones / twos))
        assert abs(odds[0]) > 0.2
        np.testing.assert_allclose(odds[0], -odds[1], atol=0.08)

    def test_the_scale_and_offset_of_inputs_do_not_matter(self):
        labels, inputs = LABELS[:3000], INPUTS[:3000]
        plain = noise.instance(labels, 0.5, 0, inputs)
        scaled = noise.instance(labels, 0.5, 0, 256 * inputs + 1024)
        np.testing.assert_array_equal(plain, scaled)

    def test_flat_and_shaped_inputs_are_the_same(self):
        labels, inputs = LABELS[:3000], INPUTS[:3000]
        np.testing.assert_array_equal(
            noise.instance(labels, 0.5, 0, inputs),
            noise.instance(labels, 0.5, 0, inputs.reshape(3000, -1)),
        )

    def test_constant_inputs_are_mistaken_for_all_other_classes_alike(self):
        noisy = noise.instance(LABELS, 1.0, 0, np.full((N, 7), 0.1))
        expected = (1 - np.eye(C)) / (C - 1)
        assert_matches(transitions(LABELS, noisy), expected)

    def test_examples_have_rates_of_their_own(self):
        """Given the seed, q_i is spread about the rate with deviation 0.1."""
        uniform = np.random.default_rng(0).random(N)
        rates = noise._truncated_normal(uniform, 0.5, 0.1)
        np.testing.assert_allclose([rates.mean(), rates.std()], [0.5, 0.1], atol=2e-3)

    @pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 0.9, 1.0])
    def test_own_rates_stay_probabilities_with_the_rate_as_mean(self, rate):
        grid = (np.arange(10_000) + 0.5) / 10_000
        rates = noise._truncated_normal(grid, rate, 0.1)
        assert rates.min() >= -1e-12 and rates.max() <= 1 + 1e-12
        np.testing.assert_allclose(rates.mean(), rate, atol=1e-9)

    def test_one_row_per_label(self):
        with pytest.raises(ValueError, match=r"10 rows; received shape \(9, 4, 4, 1\)"):
            noise.instance(LABELS[:10], 0.5, 0, INPUTS[:9])

    def test_inputs_that_are_not_finite_are_refused(self):
        inputs = INPUTS[:10].copy()
        inputs[3, 0] = np.nan
        with pytest.raises(ValueError, match="inputs must be finite"):
            noise.instance(LABELS[:10], 0.5, 0, inputs)


class TestConstants:
    def test_cifar10_pairs(self):
        names = "airplane automobile bird cat deer dog frog horse ship truck".split()
        pairs = {names[a]: names[b] for a, b in noise.CIFAR10_PAIRS.items()}
        assert pairs == {
            "truck": "automobile",
            "bird": "airplane",
            "deer": "horse",
            "cat": "dog",
            "dog": "cat",
        }

    @pytest.mark.parametrize(
        ("superclass", "classes"),
        [
            (0, [4, 30, 55, 72, 95]),  # beaver dolphin otter seal whale
            (4, [0, 51, 53, 57, 83]),  # apple mushroom orange pear sweet_pepper
            (14, [2, 11, 35, 46, 98]),  # baby boy girl man woman
            (17, [47, 52, 56, 59, 96]),  # maple oak palm pine willow
        ],
    )
    def test_cifar100_superclasses(self, superclass, classes):
        table = np.array(noise.CIFAR100_SUPERCLASSES)
        np.testing.assert_array_equal(np.bincount(table), [5] * 20)
        np.testing.assert_array_equal(np.flatnonzero(table == superclass), classes)


class TestApply:
    options = dict(num_classes=C, inputs=INPUTS[:900], mapping=None, groups=GROUPS)

    @every_kind
    def test_it_is_the_function_of_that_name(self, kind):
        found = noise.apply(kind, LABELS[:900], 0.5, 7, **self.options)
        expected = KINDS[kind](LABELS[:900], 0.5, 7, INPUTS[:900])
        np.testing.assert_array_equal(found, expected)

    def test_a_mapping_is_handed_on(self):
        noisy = noise.apply("asymmetric", [0, 1], 1.0, 0, num_classes=3, mapping={0: 2})
        np.testing.assert_array_equal(noisy, [2, 1])

    def test_none_is_a_copy(self):
        noisy = noise.apply("none", LABELS, 0.5, 0, num_classes=C)
        np.testing.assert_array_equal(noisy, LABELS)
        assert not np.shares_memory(noisy, LABELS)

    @pytest.mark.parametrize(
        ("kind", "options", "message"),
        [
            ("pink", {}, "one of none, symmetric, .* received 'pink'"),
            ("instance", {}, "inputs must have 3 rows; received None"),
            ("hierarchical", {}, "groups must have length 4; received None"),
            ("hierarchical", {"groups": [0] * 5}, "groups must have length 4"),
            ("asymmetric", {"mapping": [1, 0]}, r"length 4: got \[1, 0\]"),
            ("asymmetric", {"mapping": {0: 4}}, r"within \[0, 4\); received 0 -> 4"),
            ("asymmetric", {"mapping": {-1: 0}}, "received -1 -> 0"),
        ],
    )
    def test_wrong_options_are_refused(self, kind, options, message):
        with pytest.raises(ValueError, match=message):
            noise.apply(kind, [0, 1, 2], 0.5, 0, num_classes=4, **options)


@pytest.mark.parametrize(
    ("function", "num_classes", "message"),
    [
        (noise.symmetric, 1, "num_classes must be 2 or more; received 1"),
        (noise.symmetric, None, "num_classes must be 2 or more; received 1"),
        (noise.asymmetric, 1, "num_classes must be 2 or more; received 1"),
        (noise.flip2, 2, "num_classes must be 3 or more; received 2"),
    ],
)
def test_too_few_classes_are_refused(function, num_classes, message):
    with pytest.raises(ValueError, match=message):
        function(np.zeros(4, int), 0.5, 0, num_classes)


def test_more_classes_than_the_dtype_can_hold_are_refused():
    with pytest.raises(ValueError, match="labels of uint8 cannot hold 257 classes"):
        noise.symmetric(np.zeros(4, "uint8"), 0.5, 0, 257)
    assert noise.symmetric(np.zeros(4, "uint8"), 1.0, 0, 256).dtype == "uint8"


def test_groups_that_are_not_integers_are_refused():
    with pytest.raises(ValueError, match="groups must be integers .* float64"):
        noise.hierarchical([0, 1], 0.5, 0, groups=[0.0, 0.0])
