"""Trains small models on some devices and writes what became of them.

Run by the tests in processes of their own, since devices are fixed at start-up:
`python replica.py JOBS`, with jobs as JSON, each the settings and the file to write.
"""

import functools
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

from feeds import LEARNING_RATE, META_LEARNING_RATE


def data():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(32, 6, 6, 1)).astype("float32")
    return x, generator.integers(0, 3, 32)


def make_model(settings):
    import keras

    import clidmu_tf as clidmu
    import feeds
    from clidmu_tf.methods import JOINED, METHODS, method_of

    layers = keras.layers
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(8, "tanh"),
            layers.Dense(3),
        ]
    )
    arguments = {"jit_compile": settings["jit"], "batch_scope": settings["batch_scope"]}
    arguments |= {"metrics": ["accuracy"], "run_eagerly": settings["eager"]}
    if settings["method"] in {**METHODS, **JOINED}:
        method = method_of(settings["method"])
        return feeds.compiled(method, classifier, settings["warmup"], **arguments)
    net = {"wnet": clidmu.WNet(20), "vri": clidmu.VRI((16, 8))}[settings["method"]]
    model = clidmu.CLIDMU(
        classifier,
        net,
        meta_objective="clid",
        warmup_steps=settings["warmup"],
        seed=3,
    )
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
        keras.optimizers.SGD(META_LEARNING_RATE, momentum=0.9),
        **arguments,
    )
    return model


def weights_of(model):
    weights = list(model.classifier.get_weights())
    for part in model.parts().values():
        weights += part.get_weights()
    kept = [*model.slots.values(), *model.memories.values()]
    return weights + [variable.numpy() for variable in kept]


def main(jobs):
    cpus = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration()] * jobs[0][0]["devices"]
    tf.config.set_logical_device_configuration(cpus[0], devices)
    from clidmu_tf.runs import strategies

    # One of a kind: the collectives of two would get into each other's way.
    make = functools.cache(strategies.make)
    for settings, path in jobs:
        train(settings, make(settings["strategy"]), path)


def train(settings, strategy, path):
    import feeds
    from clidmu_tf.engine.callbacks import MetricsLog
    from clidmu_tf.engine.checkpoints import Checkpointer
    from clidmu_tf.runs import strategies

    with strategies.scope(strategy):
        model = make_model(settings)
    x, y = data()

    def batches(shards, index, replicas):
        size = 8 // (shards * replicas)
        rows = np.arange(32).reshape(4, shards, replicas, size)[:, index].reshape(-1)
        found = tf.data.Dataset.from_tensor_slices((x[rows], y[rows]))
        return found.batch(size).repeat()

    together = strategies.distribute(strategy, batches, 8)
    # As in a run: every worker takes part in a checkpoint, the chief writes it.
    folder = pathlib.Path(path).with_suffix("")
    folder.mkdir()
    log = MetricsLog(folder / "metrics.csv")
    saver = Checkpointer(folder, log, writes=strategies.is_chief(strategy))
    examples = settings["examples"]
    history = model.fit(
        *((x[:examples], y[:examples]) if examples else [together]),
        batch_size=settings["batch"] if examples else None,
        shuffle=False,
        steps_per_epoch=None if examples else settings["steps"],
        epochs=2,
        verbose=0,
        callbacks=[log, saver],
        **feeds.further_data(type(model), x, y, settings["batch"]),
    ).history
    weights = {f"w{i}": weight for i, weight in enumerate(weights_of(model))}
    np.savez(path, **weights, **{f"log_{n}": v for n, v in history.items()})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
