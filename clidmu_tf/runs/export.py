"""SavedModels that answer raw images, with nothing of this package needed."""

import pathlib
import shutil

import keras
import tensorflow as tf

from clidmu_tf.data.decode import fit
from clidmu_tf.errors import UserError
from clidmu_tf.nets.features import probabilities_of


def export(classifier, path, image_shape, class_names, resize_size=0):
    """Writes a SavedModel: raw `uint8` images in, probabilities and labels out.

    Its signature `serving_default` takes `images`, `(n, height, width, channels)` of
    any size, which it brings to its own, and returns `probabilities`
    `(n, num_classes)` and `labels` `(n,)`, indices into the class names, one a line
    in `assets.extra/labels.txt`.

    Args:
        classifier: A Keras classifier of raw images that ends in a Dense layer.
        path: Folder to write, replaced where it is there; a folder `part` beside
            it holds it while it is written.
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
        images = tf.ensure_shape(images, (None, *image_shape))
        scores = tf.cast(classifier(images, training=False), tf.float32)
        probabilities = probabilities_of(classifier, scores)
        labels = tf.argmax(probabilities, axis=-1)
        return {"probabilities": probabilities, "labels": labels}

    archive = keras.export.ExportArchive()
    archive.track(classifier)
    archive.add_endpoint(
        "serving_default",
        serve,
        [tf.TensorSpec((None, None, None, image_shape[-1]), tf.uint8, name="images")],
    )
    part = pathlib.Path(path).with_name("part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        archive.write_out(part, verbose=False)
        (part / "assets.extra").mkdir()
        (part / "assets.extra" / "labels.txt").write_text("\n".join(class_names) + "\n")
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(part, ignore_errors=True)
        # Of TensorFlow's own errors the last words alone are for a reader.
        reason = str(error).split("; ")[-1].split(" [Op:")[0]
        raise UserError(
            f"Could not export to {path} ({reason}): make room and run the same again; "
            "what was saved before is intact."
        ) from error


def load(path):
    """Returns the exported function: images → probabilities and labels.

    Raises:
        UserError: There is no such model.
    """
    try:
        loaded = tf.saved_model.load(str(path))
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"There is no model in {path}: export it with --task=export."
        ) from error
    serve = loaded.signatures["serving_default"]

    def call(images):
        # The model must outlive the function that is taken from it.
        assert loaded is not None
        return serve(images=tf.constant(images))

    return call
