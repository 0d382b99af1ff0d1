"""Your own Keras model on a folder of images, many of them in the wrong sub-folder.

    python examples/own_images.py [FOLDER]

The images and the served model go to FOLDER, or to a temporary one that is removed.
"""

import pathlib
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import clidmu_tf as clidmu

temporary = tempfile.TemporaryDirectory()
folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else temporary.name)

# --- grainy stripes as PNG files, one sub-folder a class; a third misfiled for training

rng = np.random.default_rng(0)
STRIPES = {"across": (1, 0), "aslant": (0.7, 0.7), "down": (0, 1)}
for split, count, misfiled in [("train", 600, 0.35), ("test", 300, 0.0)]:
    true = rng.integers(0, 3, count)
    filed = clidmu.noise.asymmetric(true, misfiled, seed=0)
    print(f"{split}: {count} images, {np.mean(filed != true):.0%} in the wrong folder")
    for i in range(count):
        along = np.tensordot(list(STRIPES.values())[true[i]], np.indices((16, 16)), 1)
        stripes = np.sin(along * rng.uniform(1, 1.4) + rng.uniform(0, 6))
        image = 128 + 50 * stripes + rng.normal(0, 40, (16, 16))
        path = folder / split / list(STRIPES)[filed[i]] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, image.clip(0, 255)[..., None], scale=False)

# --- read as ever, and train one network twice: plainly, and in CLID-MU

how = {"image_size": (16, 16), "color_mode": "grayscale", "verbose": False}
read = keras.utils.image_dataset_from_directory
train = read(folder / "train", batch_size=None, seed=0, **how).cache()
train = train.shuffle(600, seed=0).batch(50)
test = read(folder / "test", **how)


def build_classifier():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((16, 16, 1)), keras.layers.Rescaling(1 / 128, offset=-1)]
    layers += [keras.layers.Conv2D(n, 3, 2, activation="relu") for n in (16, 32)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(64, "relu")]
    return keras.Sequential([*layers, keras.layers.Dense(3)])


loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# So few images are soon learnt by heart: CLID, which commits sooner, is ahead here.
plain = build_classifier()
model = clidmu.CLIDMU(build_classifier(), meta_objective="clid")
for name, net, more in [
    ("cross-entropy", plain, {"loss": loss}),
    ("CLID-MU", model, {}),
]:
    net.compile(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"], **more)
    net.fit(train, epochs=40, shuffle=False, verbose=0)  # shuffled above
    print(f"test accuracy, {name:<13}  {net.evaluate(test, verbose=0)[1]:.3f}")

# --- one folder to serve from, which needs TensorFlow alone

model.export(folder / "served", verbose=False)
served = tf.saved_model.load(str(folder / "served"))
right = [np.argmax(served.serve(x), axis=1) == y for x, y in test]
print(f"test accuracy, served         {np.mean(np.concatenate(right)):.3f}")
temporary.cleanup()
