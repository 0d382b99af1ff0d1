"""The split of losses into two groups, and the choice of a clean set by it."""

import warnings

import numpy as np
import pytest

from clidmu_tf.core.mixture import (
    clean_probability,
    cleanest_per_class,
    fit_mixture,
    min_max_scaled,
)
from golden_methods import METHODS


@pytest.mark.parametrize("case", [0, 1, 2])
def test_mixture_is_dividemixs(case):
    golden = {
        name: METHODS[f"dm_gmm{case}_{name}"]
        for name in ("losses", "normalized", "prob", "means", "variances", "weights")
    }
    scaled = min_max_scaled(golden["losses"])
    np.testing.assert_allclose(scaled, golden["normalized"], atol=1e-12)
    if case == 2:  # at 90 % noise: the mean of this epoch and the four before
        scaled = np.mean([scaled, *METHODS["dm_gmm2_history"][-4:]], axis=0)
    else:
        probability = clean_probability(golden["losses"])
        np.testing.assert_allclose(probability, golden["prob"], atol=1e-9)
    mixture = fit_mixture(scaled)
    np.testing.assert_allclose(mixture.probability, golden["prob"], atol=1e-9)
    for name in ("means", "variances", "weights"):
        found = getattr(mixture, name)
        np.testing.assert_allclose(found, golden[name], atol=1e-9, err_msg=name)


@pytest.mark.parametrize("losses", [[], [0.3], [0.3] * 20, [0.0] * 2])
def test_equal_losses_speak_against_no_label(losses):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(clean_probability(losses), np.ones(len(losses)))
        mixture = fit_mixture(np.float32(losses))
    assert all(np.all(np.isfinite(values)) for values in mixture)


@pytest.mark.parametrize(
    "losses",
    [[0.1, 0.2], [0.5, 0.5, 0.5, 2.0], np.float32([0.0] * 50 + [1e30]), [1e-300, 0.0]],
)
def test_probabilities_are_finite_at_extremes(losses):
    probability = clean_probability(losses)
    assert np.all((probability >= 0) & (probability <= 1))
    assert probability[np.argmin(losses)] > 0.5 > probability[np.argmax(losses)]


def test_the_same_seed_gives_the_same_probabilities():
    losses = np.random.default_rng(0).gamma(2.0, size=300)
    np.testing.assert_array_equal(clean_probability(losses), clean_probability(losses))
    unit = clean_probability(losses * 7 + 3)  # neither unit nor origin counts
    np.testing.assert_allclose(unit, clean_probability(losses), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_is_named(bad):
    with pytest.raises(ValueError, match=f"finite; received {bad} at index 2"):
        clean_probability([0.1, 0.2, bad, 0.3])


def test_clean_set_is_balanced_over_the_classes():
    generator = np.random.default_rng(1)
    labels = generator.choice(4, size=400, p=[0.7, 0.2, 0.09, 0.01])
    probability = generator.uniform(size=400)
    chosen = cleanest_per_class(probability, labels, 42, 4)
    counts = np.bincount(labels, minlength=4)
    shares = np.minimum([11, 11, 10, 10], counts)
    assert shares[3] < 10
    np.testing.assert_array_equal(np.bincount(labels[chosen], minlength=4), shares)
    assert np.all(np.diff(chosen) > 0)
    for label in range(4):
        inside = np.isin(np.arange(400), chosen)
        left = probability[(labels == label) & ~inside]
        taken = probability[(labels == label) & inside]
        assert taken.min() >= left.max(initial=0.0)


def test_a_class_without_examples_is_left_out():
    chosen = cleanest_per_class([0.2, 0.9, 0.9, 0.9], [0, 2, 2, 2], 6, 3)
    np.testing.assert_array_equal(chosen, [0, 1, 2])
    assert chosen.dtype == "int64"
    assert cleanest_per_class([], [], 6, 3).shape == (0,)
