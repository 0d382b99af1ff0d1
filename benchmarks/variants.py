"""The training steps that `benchmarks.step_time` compares, each in its own process.

All train ResNet-20 on the same random images by SGD with momentum; the meta steps
are the paper's (no class balance, no penalty), with a meta batch of its own.
"""

import argparse
import dataclasses
import functools
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import clidmu_tf as clidmu
from benchmarks import interleave
from clidmu_tf.core.meta_gradient import local_forward
from clidmu_tf.engine.distributed import Alone, distributed_forward
from clidmu_tf.engine.network import values_of
from clidmu_tf.nets import backbones
from clidmu_tf.runs import strategies

IMAGE_SHAPE, CLASSES = (32, 32, 3), 10


class NotShared(clidmu.CLIDMU):
    """The plain nested-tape form: the real update goes forward once more."""

    def forward(self):
        forward = local_forward(self.network.apply)

        def forward_twice(theta, state, x):
            def gradient(u):
                # Reads the weights anew, or TensorFlow would merge both passes.
                theta = values_of(self.network.trainable_variables)
                return forward(theta, state, x).pullback(u)

            return forward(theta, state, x)._replace(gradient=gradient)

        return forward_twice


class ForwardMode(clidmu.CLIDMU):
    """The meta-gradient by a Jacobian-vector product in place of a third tape."""

    def forward(self):
        return distributed_forward(self.network.apply, Alone(), jit_compile=False)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A training step.

    Attributes:
        label: What the table calls it.
        build: `() → model`, compiled.
        forwards: Its cost in forward passes by count, where that is plain to see.
        strategy: Name of the `tf.distribute` strategy.
        devices: Logical devices of a process, which share its global batch.
        workers: Processes, each with a batch of its own.
    """

    label: str
    build: Callable
    forwards: float | None = None
    strategy: str = "none"
    devices: int = 1
    workers: int = 1


def keras_model(jit):
    model = backbones.build("resnet20", IMAGE_SHAPE, CLASSES)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(_sgd(), loss, jit_compile=jit)
    return model


def cross_entropy_model():
    model = clidmu.CrossEntropy(backbones.build("resnet20", IMAGE_SHAPE, CLASSES))
    model.compile(_sgd(), jit_compile=False)
    return model


def meta_model(kind=clidmu.CLIDMU, jit=False, **settings):
    classifier = backbones.build("resnet20", IMAGE_SHAPE, CLASSES)
    settings = {"class_balance": False, "prior_penalty": 0.0, **settings}
    model = kind(classifier, meta_objective="clid", seed=0, **settings)
    model.compile(_sgd(), keras.optimizers.Adam(1e-3), jit_compile=jit)
    return model


def default_model():
    model = clidmu.CLIDMU(backbones.build("resnet20", IMAGE_SHAPE, CLASSES), seed=0)
    model.compile(_sgd(), jit_compile=False)
    return model


def _sgd():
    return keras.optimizers.SGD(0.05, momentum=0.9)


def _meta(**settings):
    return functools.partial(meta_model, **settings)


MULTI_WORKER = "127.0.0.1, a batch each, sharing the cores"
VARIANTS = {
    "plain": Variant("plain Keras step", functools.partial(keras_model, False), 3),
    "cross_entropy": Variant("CrossEntropy step", cross_entropy_model, 3),
    "default": Variant("CLIDMU's default step", default_model, 3),
    "meta": Variant("meta step", _meta(), 10),
    "not_shared": Variant("meta step, forward not shared", _meta(kind=NotShared), 11),
    "forward_mode": Variant("meta step, forward mode", _meta(kind=ForwardMode)),
    "interval": Variant(
        "meta step, meta_interval=5", _meta(meta_interval=5), (10 + 4 * 3) / 5
    ),
    "last_block": Variant(
        "meta step, virtual_scope='last_block'", _meta(virtual_scope="last_block")
    ),
    "head": Variant("meta step, virtual_scope='head'", _meta(virtual_scope="head"), 4),
    "plain_xla": Variant("plain Keras step, XLA", functools.partial(keras_model, True)),
    "meta_xla": Variant("meta step, XLA", _meta(jit=True)),
    "mirrored": Variant(
        "meta step, 2 logical devices, mirrored",
        _meta(),
        strategy="mirrored",
        devices=2,
    ),
    "worker": Variant(
        f"meta step, 1 worker ({MULTI_WORKER})", _meta(), strategy="multi_worker"
    ),
    "workers": Variant(
        f"meta step, 2 workers ({MULTI_WORKER})",
        _meta(),
        strategy="multi_worker",
        workers=2,
    ),
}


class StepTimer(keras.callbacks.Callback):
    """Seconds of each step, from one step's end to the next."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the device
        self.seconds.append(time.perf_counter() - self.start)


def batches(size, seed):
    """The same batch of random images and labels, again and again."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (size, *IMAGE_SHAPE)).astype("float32")
    options = tf.data.Options()
    # Of files there are none; each worker takes its part of the same batch.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    found = tf.data.Dataset.from_tensors((x, rng.integers(0, CLASSES, size)))
    return found.repeat().with_options(options)


def prepare(variant, batch_size):
    """Returns `run(steps)`, for `interleave.serve`."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * variant.devices
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = strategies.make(variant.strategy)
    with strategies.scope(strategy):
        model = variant.build()
    size, meta = batch_size * variant.workers, {}
    if isinstance(model, clidmu.CLIDMU) and not model.judged_by_labels:
        meta["meta_data"] = batches(size, seed=1).map(lambda x, y: x)
    timer = StepTimer()

    def run(steps):
        model.fit(
            batches(size, seed=0),
            steps_per_epoch=steps,
            callbacks=[timer],
            verbose=0,
            **meta,
        )
        return timer.seconds

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("batch_size", type=int)
    arguments = parser.parse_args()
    variant = VARIANTS[arguments.variant]
    interleave.serve(lambda: prepare(variant, arguments.batch_size))


if __name__ == "__main__":
    main()
