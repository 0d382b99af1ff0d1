"""A table of three classes, a small classifier of it, and how two come out alike."""

import keras
import numpy as np

import clidmu_tf as clidmu

layers = keras.layers


def table(n=60, features=4, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, classes, n)
    x = generator.normal(size=(n, features)) + 2 * np.eye(features)[y % features]
    return x.astype("float32"), y


def small_classifier(softmax=False, seed=1):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, "relu"),
            layers.Dense(3, "softmax" if softmax else None),
        ]
    )


def compiled_model(classifier=None, **arguments):
    compile_names = ("metrics", "jit_compile", "run_eagerly", "optimizer")
    given = {n: arguments.pop(n) for n in compile_names if n in arguments}
    given.setdefault("optimizer", keras.optimizers.SGD(0.1, momentum=0.9))
    arguments.setdefault("seed", 5)
    arguments.setdefault("meta_objective", "clid")
    model = clidmu.CLIDMU(classifier or small_classifier(), **arguments)
    model.compile(meta_optimizer=keras.optimizers.Adam(0.01), **given)
    return model


def weights_after(model, *fit_arguments, **fit_keywords):
    keywords = {"batch_size": 20, "shuffle": False, "verbose": 0, "epochs": 2}
    model.fit(*fit_arguments, **{**keywords, **fit_keywords})
    return [*model.classifier.get_weights(), *model.weight_net.get_weights()]


def assert_close(first, second, tolerance=1e-5):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)
