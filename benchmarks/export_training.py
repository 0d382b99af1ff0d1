"""Writes a whole training as compiled programs and one file of data.

    python -m benchmarks.export_training exported/ --flagfile=configs/digits.cfg
    python -m benchmarks.train_exported exported/     anywhere with numpy and jaxlib

The programs are those of the run's own Keras model: `step_KIND.hlo`, a training step
of each kind there is, optimizers, schedule and metrics included, and `predict.hlo`.
`run.npz` holds the first value of every variable, the images, packed, and for each
epoch the order and the augmentation that the package draws. What packing loses is lost
to both sides: `--check_steps` steps of `model.fit` on the unpacked images are made
here, and what became of the variables is written to `check.npz`.
"""

import argparse
import dataclasses
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from benchmarks import packed_images
from clidmu_tf.data import augment, pipeline
from clidmu_tf.engine.checkpoints import variables_of
from clidmu_tf.runs import config as config_module
from clidmu_tf.runs.experiment import Experiment

PREDICTED = 500  # images at a time


def parts_of(config):
    """The padding of the crop and whether images are mirrored first."""
    words = [word.strip() for word in config.augment.split(",") if word.strip()]
    if words not in ([], ["flip"], ["flip", "crop"], ["crop"]):
        raise SystemExit(
            f"--augment={config.augment} cannot be exported: flip, crop, or both can."
        )
    return augment.PADDING if "crop" in words else 0, "flip" in words


def schedule(config, examples, epochs):
    """Of each example of each epoch, in order: index, mirrored, shifts."""
    padding, flips = parts_of(config)
    count = examples // config.batch_size * config.batch_size
    found = {"index": [], "mirrored": [], "shifts": []}
    for epoch in range(epochs):
        epoch = tf.constant(epoch, tf.int64)
        index = pipeline.order_of(epoch, examples, config.seed)[:count]
        seeds = pipeline.seeds_of(config.seed + 1, epoch * examples + index)
        mirrored = augment.is_mirrored(seeds) if flips else tf.zeros([count], tf.bool)
        shifts = tf.zeros([count, 2], tf.int32)
        if padding:
            shifts = augment.shifts_of(seeds, padding)
        small = np.uint16 if examples < 2**16 else np.uint32
        found["index"].append(index.numpy().astype(small))
        found["mirrored"].append(mirrored.numpy())
        found["shifts"].append(shifts.numpy().astype("int8"))
    return {name: np.stack(parts) for name, parts in found.items()}


def training_step(model, kind, names):
    """A step as a function of the data alone; it returns every variable's new value."""
    compute = model.pure_step(kind)

    def step(images, labels, index, mirrored, shifts):
        x = tf.cast(tf.gather(images, index), tf.float32)
        x = tf.where(mirrored[:, None, None, None], tf.reverse(x, [2]), x)
        x = augment.shift(x, shifts)
        y = tf.gather(labels, index)
        logs = model.train_step((x, y), {}, kind=kind, compute=compute)
        values = variables_of(model)
        return [logs["loss"], *(values[name].value.read_value() for name in names)]

    return step


def write_program(path, function, arguments, names):
    """Writes a function's HLO; returns what its parameters are, in order.

    Args:
        path: The file.
        function: Of tensors and of variables that it reads.
        arguments: Tensors of the shapes that it is called with.
        names: Of each variable's handle, by its id, the variable's name.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)
    captured = compiled.get_concrete_function(*arguments).captured_inputs
    hlo = compiled.experimental_get_compiler_ir(*arguments)(stage="hlo_serialized")
    path.write_bytes(hlo)
    constants = {}
    for i, tensor in enumerate(captured):
        if id(tensor) not in names:
            names[id(tensor)] = f"{path.stem}.constant.{i}"
            constants[names[id(tensor)]] = tensor.numpy()
    return [names[id(tensor)] for tensor in captured], constants


def as_packed(source):
    """A run's data as packing leaves them, and their arrays by part and name."""
    parts, arrays = {}, {}
    for part in ("train", "test"):
        split = getattr(source, part)
        packed = packed_images.pack(np.asarray(split.inputs))
        parts[part] = dataclasses.replace(split, inputs=packed_images.unpack(packed))
        arrays |= {f"{part}/{name}": array for name, array in packed.items()}
        arrays[f"{part}_labels"] = split.labels.astype("int32")
    return dataclasses.replace(source, **parts), arrays


def programs_of(model, source, kinds, batch_size):
    """Functions by name, and what each is called with: steps, and prediction."""
    arguments = (
        tf.constant(source.train.inputs),
        tf.constant(source.train.labels, tf.int32),
        tf.zeros([batch_size], tf.int32),
        tf.zeros([batch_size], tf.bool),
        tf.zeros([batch_size, 2], tf.int32),
    )
    names = list(variables_of(model))
    for kind in dict.fromkeys(kinds):
        yield f"step_{kind}", training_step(model, kind, names), arguments

    def predict(x):
        return tf.argmax(model.served(tf.cast(x, tf.float32)), axis=-1)

    yield "predict", predict, (tf.zeros([PREDICTED, *source.image_shape], tf.uint8),)


def export(folder, config, check_steps):
    """Writes the programs, `run.npz` and `check.npz` of a run into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source, arrays = as_packed(Experiment(config).source)
    experiment = Experiment(config, source=source)
    model = experiment.model
    if model.memory() or experiment.meta_arguments() or model.num_networks > 1:
        raise SystemExit(f"--method={config.method} needs more than batches of images.")
    steps = experiment.described.steps * config.epochs
    kinds = [model.step_kind(step) for step in range(steps)]
    variables = variables_of(model)
    values = {name: v.numpy() for name, v in variables.items()}
    handles = {id(v.value.handle): name for name, v in variables.items()}
    for name, *program in programs_of(model, source, kinds, config.batch_size):
        given, constants = write_program(folder / f"{name}.hlo", *program, handles)
        arrays[f"given/{name}"] = np.array(given)
        values |= constants
    plan = schedule(config, len(source.train), config.epochs)
    np.savez_compressed(
        folder / "run.npz",
        kinds=np.array(kinds),
        names=np.array(list(variables)),
        batch_size=config.batch_size,
        **arrays,
        **{f"variable/{name}": value for name, value in values.items()},
        **{f"plan/{name}": array for name, array in plan.items()},
    )
    total = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {total:.1f} MB")
    model.fit(
        **experiment.fit_arguments(), epochs=1, steps_per_epoch=check_steps, verbose=0
    )
    after = {name: v.numpy() for name, v in variables.items()}
    np.savez(folder / "check.npz", steps=check_steps, **after)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--flagfile", required=True, help="the run's settings")
    parser.add_argument("--data_dir", default="", help="in place of the settings'")
    parser.add_argument("--epochs", type=int, default=0, help="0: as in the settings")
    parser.add_argument("--check_steps", type=int, default=20)
    arguments = parser.parse_args()
    config = config_module.read(arguments.flagfile)
    changes = {"data_dir": arguments.data_dir, "epochs": arguments.epochs}
    config = config.replace(**{n: value for n, value in changes.items() if value})
    export(arguments.folder, config, arguments.check_steps)


if __name__ == "__main__":
    main()
