"""Second derivatives through normalisation layers."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.nets.second_derivatives import twice_differentiable

pytestmark = pytest.mark.slow

MOMENTS = tf.nn.moments


def variance_hessian(x):
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            _, variance = keras.ops.moments(x, axes=[0])
        slopes = inner.gradient(variance, x)
    return variance, slopes, outer.jacobian(slopes, x)


def test_the_hessian_of_a_variance():
    x = tf.constant(np.random.default_rng(0).normal(size=5))
    exact = 2 * (np.eye(5) / 5 - 1 / 25)
    variance, slopes, hessian = variance_hessian(x)
    assert np.abs(hessian - exact).max() > 0.05  # what this module is for
    with twice_differentiable():
        same = variance_hessian(x)
    np.testing.assert_allclose(same[0], variance, rtol=1e-12)
    np.testing.assert_allclose(same[1], slopes, atol=1e-12)
    np.testing.assert_allclose(same[2], exact, atol=1e-12)


def test_nothing_is_left_behind():
    with pytest.raises(ZeroDivisionError), twice_differentiable():
        with twice_differentiable():
            assert tf.nn.moments is not MOMENTS
        assert tf.nn.moments is not MOMENTS
        1 / 0  # noqa: B018
    assert tf.nn.moments is MOMENTS


def test_other_threads_keep_tensorflows_function():
    x, found = tf.constant([1.0, 2.0, 4.0]), []
    with twice_differentiable():
        thread = threading.Thread(target=lambda: found.append(variance_hessian(x)[2]))
        thread.start()
        thread.join()
    np.testing.assert_allclose(found[0], 2 / 3 * np.eye(3), rtol=1e-6)
    assert tf.nn.moments is MOMENTS


def test_replicas_may_leave_in_the_order_they_came():
    first, second = twice_differentiable(), twice_differentiable()
    order = [threading.Event() for _ in range(2)]

    def other():
        with second:
            order[0].set()
            order[1].wait(60)
            assert tf.nn.moments is not MOMENTS

    thread = threading.Thread(target=other)
    with first:
        thread.start()
        order[0].wait(60)
    order[1].set()
    thread.join()
    assert tf.nn.moments is MOMENTS
