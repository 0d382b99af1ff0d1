"""What people do with the package, written as they would: their own models and data."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import clidmu_tf as clidmu

pytestmark = pytest.mark.slow

layers = keras.layers


def sgd(rate=0.05):
    return keras.optimizers.SGD(rate, momentum=0.9)


# --- callbacks on held-out noisy labels


@pytest.fixture(scope="module")
def digits():
    """Digits as rows of pixels, and labels of which about 54 % are wrong."""
    bunch = load_digits()
    x = (bunch.data / 16).astype("float32")
    x, test_x, y, test_y = train_test_split(x, bunch.target, random_state=0)
    return x, clidmu.noise.symmetric(y, 0.6, seed=0), test_x, test_y


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=3),
    ],
)
def test_callbacks_that_watch_val_loss_do_not_end_a_run_that_gets_better(
    callback, digits
):
    x, noisy_y, test_x, test_y = digits
    found = []
    for callbacks in ([], [callback]):
        keras.utils.set_random_seed(0)
        classifier = keras.Sequential(
            [keras.Input((64,)), layers.Dense(64, "relu"), layers.Dense(10)]
        )
        model = clidmu.CLIDMU(classifier)
        model.compile(sgd(), metrics=["accuracy"])
        model.fit(
            x,
            noisy_y,
            epochs=30,
            batch_size=50,
            validation_split=0.2,
            callbacks=callbacks,
            verbose=0,
        )
        found.append(model.evaluate(test_x, test_y, verbose=0, return_dict=True))
    plain, watched = (scores["accuracy"] for scores in found)
    assert plain > 0.85 and watched > plain - 0.03
