"""SavedModels that answer raw images, with nothing of this package needed."""

import json
import pathlib
import shutil

import keras
import tensorflow as tf

from clidmu_tf.data.decode import fit
from clidmu_tf.errors import UserError
from clidmu_tf.files import write_text
from clidmu_tf.nets.features import probabilities_of


def export(classifier, path, image_shape, class_names, resize_size=0):
    """Writes a SavedModel: raw `uint8` images in, probabilities and labels out.

    Its signature `serving_default` takes `images`, `(n, height, width, channels)` of
    any size, which it brings to its own, and returns `probabilities`
    `(n, num_classes)` and `labels` `(n,)`, indices into the class names, one a line
    in `assets.extra/labels.txt`.

    Args:
        classifier: A Keras classifier of raw images that ends in a Dense layer.
        path: Folder to write, replaced where it is there; folders `part` and `old`
            beside it hold the new one while it is written, and the old one after.
        image_shape: `(height, width, channels)` that the classifier takes.
        class_names: Names of the classes, in order.
        resize_size: Shorter side that images of other sizes are resized to before
            their middle is cut out; 0 resizes them whole.

    Raises:
        UserError: It could not be written.
    """

    def serve(images):
        images = tf.cond(
            tf.reduce_all(tf.shape(images)[1:] == image_shape),
            lambda: tf.cast(images, tf.float32),
            lambda: fit(images, image_shape, resize_size),
        )
        return _answers(classifier, tf.ensure_shape(images, (None, *image_shape)))

    spec = tf.TensorSpec((None, None, None, image_shape[-1]), tf.uint8, name="images")
    _write(path, [classifier], serve, [spec], class_names)


def export_rows(classifier, path, preprocessing, class_names):
    """Writes a SavedModel: raw columns in, probabilities and labels out.

    Its signature `serving_default` takes of each column a vector `(n,)`, texts and
    words as strings (empty where one is missing) and numbers as float32 (NaN). Its name
    is the column's, with `_` in place of what is no letter, digit or `_`;
    `assets.extra/columns.json` has both. What it returns is that of `export`.

    Args:
        classifier: A Keras classifier that ends in a Dense layer.
        path: As for `export`.
        preprocessing: What makes the classifier's inputs of columns.
        class_names: Names of the classes, in order.

    Raises:
        UserError: It could not be written.
    """

    def serve(columns):
        inputs = [columns[name][:, None] for name in preprocessing.served]
        x = preprocessing.model(inputs if len(inputs) > 1 else inputs[0])
        return _answers(classifier, x)

    specs = {
        name: tf.TensorSpec((None,), preprocessing.columns[column], name=name)
        for name, column in preprocessing.served.items()
    }
    files = {"columns.json": json.dumps(preprocessing.served, indent=2) + "\n"}
    models = [preprocessing.model, classifier]
    _write(path, models, serve, [specs], class_names, files)


def _answers(classifier, x):
    scores = tf.cast(classifier(x, training=False), tf.float32)
    probabilities = probabilities_of(classifier, scores)
    labels = tf.argmax(probabilities, axis=-1)
    return {"probabilities": probabilities, "labels": labels}


def _write(path, models, serve, specs, class_names, files=None):
    files = {"labels.txt": "\n".join(class_names) + "\n", **(files or {})}
    archive = keras.export.ExportArchive()
    for model in models:
        archive.track(model)
    archive.add_endpoint("serving_default", serve, specs)
    path = pathlib.Path(path)
    part, old = path.with_name("part"), path.with_name("old")
    try:
        if whole(path) != path:
            whole(path).rename(path)
        for folder in (part, old):
            shutil.rmtree(folder, ignore_errors=True)
        archive.write_out(part, verbose=False)
        (part / "assets.extra").mkdir()
        for name, text in files.items():
            write_text(part / "assets.extra" / name, text)
        if path.exists():
            path.rename(old)
        part.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(part, ignore_errors=True)
        # Of TensorFlow's own errors the last words alone are for a reader.
        reason = str(error).split("; ")[-1].split(" [Op:")[0]
        raise UserError(
            f"Could not export to {path} ({reason}): make room and run the same again; "
            "what was saved before is intact."
        ) from error


def whole(path):
    """Where an export lies whole, also after a kill in the exchange of two of them.

    Args:
        path: A path: the folder where it belongs.
    """
    part, old = path.with_name("part"), path.with_name("old")
    if path.exists() or not old.exists():
        return path
    return part if part.exists() else old  # the new one was whole by then


def load(path, way_out="export it with --task=export"):
    """Returns the exported function: images, or columns by name → probabilities and
    labels.

    Args:
        path: Folder of the export.
        way_out: What to do where there is none.

    Raises:
        UserError: There is no such model.
    """
    try:
        loaded = tf.saved_model.load(str(whole(pathlib.Path(path))))
        serve = loaded.signatures["serving_default"]
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise UserError(f"There is no model in {path}: {way_out}.") from error

    def call(raw):
        # The model must outlive the function that is taken from it.
        assert loaded is not None
        named = raw if isinstance(raw, dict) else {"images": raw}
        return serve(**{name: tf.constant(value) for name, value in named.items()})

    return call
