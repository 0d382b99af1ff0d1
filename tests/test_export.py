"""Exported models: all that a server needs, which has only TensorFlow."""

import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.data.decode import decode
from clidmu_tf.engine import callbacks
from clidmu_tf.errors import UserError
from clidmu_tf.nets import backbones
from clidmu_tf.runs import export

CLASSES = ("nought", "one", "two")
SHAPE = (8, 8, 3)

SERVE = """
    import sys
    for package in ("keras", "clidmu_tf"):
        sys.modules[package] = None  # importing it fails
    import numpy as np
    import tensorflow as tf
    answers = {}
    for name in ("export", "ensemble"):
        serve = tf.saved_model.load(f"{sys.argv[1]}/{name}/1").signatures[
            "serving_default"
        ]
        for size in ("same", "other"):
            images = np.load(f"{sys.argv[1]}/{size}.npy")
            for key, value in serve(images=tf.constant(images)).items():
                answers[f"{name}_{size}_{key}"] = value.numpy()
    np.savez(f"{sys.argv[1]}/answers.npz", **answers)
"""


@pytest.fixture
def classifier():
    return backbones.build("small_cnn", SHAPE, len(CLASSES), seed=1)


def softmax(model, images):
    return keras.ops.convert_to_numpy(
        keras.ops.softmax(model(images.astype("float32"), training=False))
    )


def test_fresh_process_with_tensorflow_alone_serves_raw_images(classifier, tmp_path):
    other = backbones.build("small_cnn", SHAPE, len(CLASSES), seed=2)
    weights = [classifier.get_weights(), other.get_weights()]
    ensemble = callbacks.ensemble(classifier, weights)
    export.export(classifier, tmp_path / "export" / "1", SHAPE, CLASSES)
    export.export(ensemble, tmp_path / "ensemble" / "1", SHAPE, CLASSES)
    generator = np.random.default_rng(0)
    same = generator.integers(0, 256, (5, *SHAPE), "uint8")
    large = generator.integers(0, 256, (1, 13, 11, 3), "uint8")
    np.save(tmp_path / "same.npy", same)
    np.save(tmp_path / "other.npy", large)
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SERVE), str(tmp_path)], check=True
    )
    # An image of another size is made what training makes of such a file.
    tf.io.write_file(f"{tmp_path}/large.png", tf.io.encode_png(large[0]))
    contents = tf.io.read_file(f"{tmp_path}/large.png")
    resized = decode(contents, SHAPE).numpy()[None]
    with np.load(tmp_path / "answers.npz") as answers:
        for name, model in (("export", classifier), ("ensemble", ensemble)):
            for size, images in (("same", same), ("other", resized)):
                found = answers[f"{name}_{size}_probabilities"]
                expected = softmax(model, images)
                np.testing.assert_allclose(found, expected, atol=1e-5)
                np.testing.assert_array_equal(
                    answers[f"{name}_{size}_labels"], found.argmax(axis=1)
                )
    both = classifier(same.astype("float32")) + other(same.astype("float32"))
    np.testing.assert_allclose(
        softmax(ensemble, same), keras.ops.softmax(both), atol=1e-5
    )


def test_class_names_lie_beside_the_model(classifier, tmp_path):
    export.export(classifier, tmp_path / "1", SHAPE, CLASSES)
    names = (tmp_path / "1" / "assets.extra" / "labels.txt").read_text().splitlines()
    assert tuple(names) == CLASSES
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_probabilities_are_not_put_through_a_second_softmax(tmp_path):
    layers = [keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    classifier = keras.Sequential([keras.Input(SHAPE), *layers])
    export.export(classifier, tmp_path / "1", SHAPE, CLASSES)
    images = np.random.default_rng(0).integers(0, 9, (4, *SHAPE), "uint8")
    found = export.load(tmp_path / "1")(images)["probabilities"]
    np.testing.assert_allclose(found, classifier(images.astype("float32")), atol=1e-6)


def test_failed_export_leaves_the_old_one(classifier, tmp_path, monkeypatch):
    path = tmp_path / "export" / "1"
    export.export(classifier, path, SHAPE, CLASSES)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}

    def save(trackable, directory, *args, **kwargs):
        pathlib.Path(directory).mkdir()
        (pathlib.Path(directory) / "saved_model.pb").write_text("half a mod")
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(UserError, match="No space left on device"):
        export.export(classifier, path, SHAPE, CLASSES)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert [p.name for p in path.parent.iterdir()] == ["1"]


def test_nothing_to_load_or_nowhere_to_write_is_named(classifier, tmp_path):
    with pytest.raises(UserError, match="no model in .*--task=export"):
        export.load(tmp_path / "1")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Could not export to .*file"):
        export.export(classifier, tmp_path / "file" / "1", SHAPE, CLASSES)
