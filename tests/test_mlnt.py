"""MLNT's iterations: each starts anew, and goes by the one before."""

import keras
import numpy as np

import clidmu_tf as clidmu

X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
Y = np.arange(24) % 3


def values(model, name):
    return model._copy(model.slots, name)[0]


def test_an_iteration_without_a_teacher_is_itself_the_mentor_of_the_next():
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = clidmu.MLNT(
        classifier, seed=0, feature_epochs=1, iteration_epochs=1, start_step=500
    )
    model.compile(keras.optimizers.SGD(0.1))
    first = classifier.get_weights()
    model.fit(X, Y, batch_size=12, epochs=2, verbose=0)
    trained = classifier.get_weights()
    model.begin_epoch(2)
    for own, mentor, start, now in zip(
        trained, values(model, "mentor"), first, classifier.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(own, mentor)
        np.testing.assert_array_equal(start, now)
