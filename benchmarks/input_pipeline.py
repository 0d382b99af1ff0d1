"""Images per second of the input pipeline, against a bare loop and what a step eats.

    python -m benchmarks.input_pipeline                             # ten minutes
    python -m benchmarks.input_pipeline --images=20000 --side=256   # half an hour

Writes JPEGs as a prepared TFDS data set to a temporary folder and reads batches of 32
windows of 299 x 299 from the images at 320. The bare loop is what `tf.data` does at its
best: files from start to end, decode-and-crop of the middle, resize, batch; no shuffle,
no augmentation, and nothing that could go on after a kill. Ours shuffles perfectly,
cuts random windows, mirrors. All are measured in turn, once a round, so that whatever
else the machine does hits all alike; a ratio is the median of the rounds' ratios.
Processor time tells the cost also where the machine is busy.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds

from benchmarks import report, variants
from clidmu_tf import data
from clidmu_tf.data import augment

SIZE, SHORTER_SIDE, BATCH = 299, 320, 32
SHAPE = (SIZE, SIZE, 3)
STEP_BATCH = 100  # of the training step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=0, help="0: around 400 x 500")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=40, help="of a measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        prepare(folder, arguments.images, arguments.side)
        print(f"{arguments.images} images after {time.monotonic() - start:.0f} s")
        measures = measures_of(folder)
        measured = [
            {"round": number, "variant": name} | measure(arguments.batches)
            for number in range(arguments.rounds)
            for name, measure in measures.items()
        ]
    suffix = f"_{arguments.side}" if arguments.side else ""
    report.write(f"input_pipeline{suffix}", table_of(measured))


def prepare(folder, count, side):
    """Writes a TFDS data set of JPEGs, about 65 kB each around 400 x 500 pixels."""

    def examples(count):
        rng = np.random.default_rng(0)
        for i in range(count):
            scale = rng.uniform(0.8, 1.2)
            size = (side, side) if side else (int(400 * scale), int(500 * scale))
            coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), "uint8")
            image = tf.cast(tf.image.resize(coarse, size, "bicubic"), tf.int32)
            image = tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)
            jpeg = tf.io.encode_jpeg(image, quality=90).numpy()
            yield i, {"image": jpeg, "label": i % 2}

    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="photos",
        version="1.0.0",
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": examples(count), "test": examples(1)},
    )


def measures_of(folder):
    """Name → a function that measures so many batches."""
    paths = sorted(map(str, pathlib.Path(folder).rglob("*-train.tfrecord*")))
    split = data.load(
        "photos", data_dir=folder, image_size=SIZE, resize_size=SHORTER_SIDE
    ).train

    def ours(words="", mirror=True):
        return data.training_batches(
            split,
            batch_size=BATCH,
            seed=0,
            image_shape=SHAPE,
            augment=augment.build(words),
            mirror=mirror,
        )

    datasets = {
        "bare tf.data loop": bare(paths),
        "ours: shuffle, random window": ours(mirror=False),
        "ours: shuffle, random window, flip": ours(),
        "ours: the same and RandAugment": ours("randaugment"),
    }
    found = {name: drain(dataset) for name, dataset in datasets.items()}
    return found | {f"a meta step eats (ResNet-20, 32 x 32, {STEP_BATCH})": train()}


def bare(paths):
    """Sequential reading, decoding of the middle, resizing; whatever is quickest."""

    def load(record):
        features = {"image": tf.io.FixedLenFeature([], tf.string)}
        contents = tf.io.parse_single_example(record, features)["image"]
        shape = tf.io.extract_jpeg_shape(contents)[:2]
        side = tf.cast(tf.reduce_min(shape), tf.float32) * SIZE / SHORTER_SIDE
        side = tf.cast(side, tf.int32)
        window = tf.concat([(shape - side) // 2, [side, side]], axis=0)
        image = tf.io.decode_and_crop_jpeg(contents, window, channels=3)
        return tf.image.resize(image, (SIZE, SIZE))

    records = tf.data.TFRecordDataset(paths).repeat()
    images = records.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def drain(dataset):
    """Measures a data set alone, from a fresh iterator on, once it is under way."""

    def measure(batches):
        iterator = iter(dataset)
        for _ in range(batches // 4):
            next(iterator)
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(batches):
            next(iterator)
        return rates(batches * BATCH, start, cpu)

    return measure


def train():
    """Measures the training step of `benchmarks.step_time`, on images in memory."""
    model = variants.meta_model()
    batches = variants.batches(STEP_BATCH, seed=0)
    settings = {"verbose": 0, "meta_data": batches.map(lambda x, y: x)}
    model.fit(batches, steps_per_epoch=2, **settings)

    def measure(_):
        start, cpu = time.perf_counter(), time.process_time()
        model.fit(batches, steps_per_epoch=5, **settings)
        return rates(5 * STEP_BATCH, start, cpu)

    return measure


def rates(images, start, cpu):
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"images/s": images / seconds, "cpu": 1000 * cpu / images}


def table_of(measured):
    """One row a variant, from one dictionary a measurement."""
    frame = pd.DataFrame(measured)
    first = frame[frame.variant == frame.variant[0]].set_index("round")
    frame["ratio"] = frame["images/s"] / frame["round"].map(first["images/s"])
    frame["cost"] = frame["round"].map(first["cpu"]) / frame["cpu"]
    found = frame.drop(columns="round").groupby("variant", sort=False).median()
    return pd.DataFrame(
        {
            "variant": found.index,
            "images/s": found["images/s"].map("{:.0f}".format).values,
            "ratio to the bare loop": found.ratio.map("{:.2f}".format).values,
            "processor ms/image": found.cpu.map("{:.2f}".format).values,
            "ratio by processor time": found.cost.map("{:.2f}".format).values,
        }
    )


if __name__ == "__main__":
    main()
