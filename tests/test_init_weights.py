"""Initial weights from a file, as the recipes with pre-trained networks need them."""

import keras
import numpy as np
import pytest

from clidmu_tf.errors import UserError
from clidmu_tf.nets import backbones
from clidmu_tf.runs import models

pytestmark = pytest.mark.slow

SHAPE = (32, 32, 3)


def same(first, second):
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_saved_application_becomes_the_body(tmp_path):
    trained = keras.applications.MobileNetV2(SHAPE, weights=None, include_top=False)
    trained.save(tmp_path / "trained.keras")
    classifier = backbones.build("MobileNetV2", SHAPE, num_classes=3, seed=1)
    body, head = classifier.layers[-2:]
    before = head.get_weights()
    assert not same(body, trained)
    models.load_weights(classifier, str(tmp_path / "trained.keras"))
    assert same(body, trained)
    assert np.array_equal(head.get_weights()[0], before[0])


@pytest.mark.parametrize("name", ["trained.keras", "trained.weights.h5"])
def test_a_classifier_of_other_classes_gives_all_but_its_head(name, tmp_path, caplog):
    caplog.set_level("INFO", "clidmu_tf")
    trained = backbones.build("small_cnn", SHAPE, num_classes=7, seed=1)
    if name.endswith("h5"):
        trained.save_weights(tmp_path / name)
    else:
        trained.save(tmp_path / name)
    classifier = backbones.build("small_cnn", SHAPE, num_classes=3, seed=2)
    head = classifier.layers[-1].get_weights()
    models.load_weights(classifier, str(tmp_path / name))
    pairs = zip(classifier.layers[:-1], trained.layers[:-1], strict=True)
    assert all(same(mine, theirs) for mine, theirs in pairs)
    assert np.array_equal(classifier.layers[-1].get_weights()[0], head[0])
    assert "Took the weights of block1_conv, " in caplog.text


def test_another_network_is_refused(tmp_path):
    backbones.build("small_cnn", SHAPE, num_classes=3).save(tmp_path / "other.keras")
    classifier = backbones.build("MobileNetV2", SHAPE, num_classes=3, seed=1)
    with pytest.raises(UserError, match="does not fit --backbone=MobileNetV2"):
        models.load_weights(classifier, str(tmp_path / "other.keras"))


def test_weights_that_fit_but_for_a_layer_are_refused_and_none_taken(tmp_path):
    trained = backbones.build("small_cnn", (32, 32, 1), num_classes=3, seed=1)
    trained.save_weights(tmp_path / "trained.weights.h5")
    classifier = backbones.build("small_cnn", SHAPE, num_classes=3, seed=2)
    before = classifier.get_weights()
    with pytest.raises(UserError, match="no weights for the layer 'block1_conv'"):
        models.load_weights(classifier, str(tmp_path / "trained.weights.h5"))
    assert all(map(np.array_equal, classifier.get_weights(), before))
