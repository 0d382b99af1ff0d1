"""Rows of three classes that have names, and models of them as users write them."""

import keras
import numpy as np

import clidmu_tf as clidmu

layers = keras.layers

WEATHER = ["cold", "mild", "warm"]


def weather():
    """`(120, 4)` rows, their labels by index, about one in eight wrong, and by name."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 120)
    x = (rng.normal(size=(120, 4)) + 3 * np.eye(4)[true]).astype("float32")
    given = clidmu.noise.symmetric(true, 0.2, seed=0)
    return x, given, np.array(WEATHER)[given]


def dense(units=3, activation=None, width=4):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(8, "relu"),
            layers.Dense(units, activation),
        ]
    )


def sgd(rate=0.05):
    return keras.optimizers.SGD(rate, momentum=0.9)


def fitted(x, y, classifier=None, **arguments):
    model = clidmu.CLIDMU(classifier or dense(), **arguments)
    # Eagerly, here and in the tests: to trace takes longer than the few steps do.
    model.compile(sgd(), metrics=["accuracy"], run_eagerly=True)
    model.fit(x, y, batch_size=20, epochs=3, shuffle=False, verbose=0)
    return model


def same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
