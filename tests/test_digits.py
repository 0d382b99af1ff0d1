"""The digits that come with scikit-learn: their split, and parts of it."""

import numpy as np
import pytest

from clidmu_tf import data

pytestmark = pytest.mark.slow


def test_digits_split_is_fixed_disjoint_and_stratified():
    source, again = data.load("digits", seed=0), data.load("digits", seed=7)
    train, test = set(source.train.ids), set(source.test.ids)
    assert len(train) + len(test) == 1797 == len(train | test)
    np.testing.assert_array_equal(source.test.ids, again.test.ids)
    shares = [np.bincount(s.labels) / len(s) for s in (source.train, source.test)]
    np.testing.assert_allclose(*shares, atol=1.5 / 500)
    np.testing.assert_array_equal(source.train.labels, source.train.clean_labels)


def test_train_examples_keeps_the_first():
    whole, part = data.load("digits"), data.load("digits", train_examples=7)
    np.testing.assert_array_equal(part.train.ids, whole.train.ids[:7])
    np.testing.assert_array_equal(part.test.ids, whole.test.ids)
    assert len(data.load("digits", train_examples=10**6).train) == len(whole.train)
