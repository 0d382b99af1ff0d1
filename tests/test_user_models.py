"""Classifiers as people have them: one unit, KerasHub's, subclassed, reading texts."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from texts import message
from weather import dense, fitted, same, sgd

pytestmark = pytest.mark.slow

layers = keras.layers


# --- two classes, one unit


def pair(activation):
    """One network with one unit, and with two that say the same, to train the last.

    The logits of two part twice as fast as that of one moves: their rates make up.
    """
    one = dense(1, activation)
    two = dense(2, {"sigmoid": "softmax", None: None}[activation])
    *others, kernel, bias = one.get_weights()
    columns = [np.concatenate([-w / 2, w / 2], axis=-1) for w in (kernel, bias)]
    two.set_weights([*others, *columns])
    for classifier, rate in ((one, 0.1), (two, 0.05)):
        classifier.layers[0].trainable = False
        yield classifier, rate


@pytest.mark.parametrize("objective", ["auto", "clid"])
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_unit_trains_as_two_that_say_the_same(activation, objective, weather):
    x, given, _ = weather
    y, found = (given == 2).astype("int64"), []
    for classifier, rate in pair(activation):
        keras.utils.set_random_seed(2)
        model = clidmu.CLIDMU(classifier, meta_objective=objective, seed=0)
        optimizers = {"optimizer": sgd(rate), "meta_optimizer": sgd(0.1)}
        model.compile(**optimizers, metrics=["accuracy"], run_eagerly=True)
        snapshots = clidmu.SnapshotEnsemble(x, k=2, batch_size=40)
        arguments = {"batch_size": 20, "epochs": 3, "shuffle": False, "verbose": 0}
        history = model.fit(
            x, y, validation_data=(x, y), callbacks=[snapshots], **arguments
        ).history
        issues = clidmu.audit(model, x, y, snapshots=snapshots)
        ensemble = snapshots.ensemble().predict(x, verbose=0)
        found.append((history, issues, model.predict(x, verbose=0), ensemble, model))
    one, two = found
    for name in one[0]:
        np.testing.assert_allclose(one[0][name], two[0][name], rtol=2e-4, atol=2e-5)
    pd.testing.assert_frame_equal(one[1], two[1], rtol=1e-3)
    assert one[2].shape == one[3].shape == (len(x), 1)
    for i in (2, 3):
        second = two[i][:, 1:] - (0 if activation else two[i][:, :1])
        np.testing.assert_allclose(one[i], second, atol=1e-4)
    accuracy = one[4].evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    threshold = 0.5 if activation else 0.0
    assert accuracy == pytest.approx(np.mean((one[2][:, 0] > threshold) == y))


@pytest.mark.parametrize("last", ["layer", "unbuilt", "nested"])
def test_a_single_unit_is_found_however_it_is_written(last, weather, tmp_path):
    x, given, _ = weather
    names = np.where(given == 2, "warm", "not warm")
    if last == "layer":
        classifier = dense(1)
        classifier.add(layers.Activation("sigmoid"))
    elif last == "unbuilt":
        classifier = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(1)])
    else:
        inputs = keras.Input((4,))
        classifier = keras.Model(inputs, dense(1, "sigmoid")(inputs))
    model = fitted(x, names, classifier)
    accuracy = model.evaluate(x, names, verbose=0, return_dict=True)["accuracy"]
    predicted = clidmu.audit(model, x, names).suggested_class
    assert accuracy == pytest.approx(np.mean(predicted == names))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, names, verbose=0) == model.evaluate(x, names, verbose=0)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(x), model.predict(x, verbose=0), rtol=1e-4)


# --- models that others wrote


def hub_classifier(kind):
    """A small classifier of KerasHub with random weights, and inputs for it."""
    import keras_hub  # which takes seconds

    models = keras_hub.models
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    if kind == "text":
        sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8}
        body = models.BertBackbone(
            vocabulary_size=30, intermediate_dim=16, max_sequence_length=12, **sizes
        )
        tokens = rng.integers(1, 30, (24, 12))
        x = {
            "token_ids": tokens,
            "padding_mask": np.ones_like(tokens),
            "segment_ids": np.zeros_like(tokens),
        }
        return models.BertTextClassifier(body, num_classes=3, preprocessor=None), x
    body = models.ResNetBackbone(
        **{"input_conv_filters": [64], "input_conv_kernel_sizes": [3]},
        **{"stackwise_num_filters": [64], "stackwise_num_blocks": [1]},
        **{"stackwise_num_strides": [1], "block_type": "basic_block"},
        image_shape=(8, 8, 3),
    )
    x = rng.uniform(size=(24, 8, 8, 3)).astype("float32")
    return models.ResNetImageClassifier(body, num_classes=3, preprocessor=None), x


@pytest.mark.parametrize("kind", ["text", "image"])
def test_classifiers_of_keras_hub_train_save_export_and_are_audited(kind, tmp_path):
    classifier, x = hub_classifier(kind)
    y = np.arange(24) % 3
    model = clidmu.CLIDMU(classifier)
    model.compile(keras.optimizers.Adam(1e-3), metrics=["accuracy"])
    snapshots = clidmu.SnapshotEnsemble(x, k=2, batch_size=12)
    before = classifier.get_weights()
    model.fit(x, y, epochs=2, batch_size=12, callbacks=[snapshots], verbose=0)
    after = classifier.get_weights()
    moved = [np.any(a != b) for a, b in zip(before, after, strict=True)]
    assert np.mean(moved) > 0.5
    scores = model.predict(x, verbose=0)
    issues = clidmu.audit(model, x, y)
    is_issue = scores.argmax(axis=1) != y
    assert issues.is_label_issue.tolist() == is_issue.tolist()
    assert snapshots.ensemble().predict(x, verbose=0).shape == (24, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    same([loaded.predict(x, verbose=0)], [scores])
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    same([served.serve(x)], [scores])


@keras.saving.register_keras_serializable("user_models")
class Body(keras.Model):
    """A model as people subclass it."""

    def __init__(self, units=None, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(8, "relu")
        self.last = units and layers.Dense(units)

    def call(self, inputs):
        features = self.hidden(inputs)
        return self.last(features) if self.units else features

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_a_subclassed_model_is_refused_with_a_recipe_that_works(weather, tmp_path):
    x, given, _ = weather
    inputs = keras.Input((4,))
    whole = Body(3)
    for classifier in (whole, keras.Model(inputs, whole(inputs))):
        with pytest.raises(ValueError, match="have `call` return the features") as said:
            clidmu.CLIDMU(classifier)
    names = {"keras": keras, "shape": (4,), "num_classes": 3, "body": Body()}
    recipe = str(said.value).splitlines()[-2:]
    exec("\n".join(line.strip() for line in recipe), names)
    model = fitted(x, given, names["classifier"])
    assert model.network.num_features == 8
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    same([loaded.predict(x, verbose=0)], [model.predict(x, verbose=0)])
    assert len(clidmu.audit(loaded, x, given)) == len(x)


# --- models that read texts themselves


TEXTS = {
    "list": lambda texts: texts.tolist(),
    "array": lambda texts: texts,
    "objects": lambda texts: texts.astype(object)[:, None],
    "column": pd.Series,
    "tensor": lambda texts: tf.constant(texts)[:, None],
}


@pytest.mark.parametrize("form", TEXTS)
def test_a_model_that_vectorizes_takes_texts_in_any_form(form, tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    texts = np.array([message(topic, rng) for topic in y])
    names = np.array(["delivery", "payment"])[y]
    keras.utils.set_random_seed(1)
    vectorize = layers.TextVectorization(50, output_sequence_length=6)
    vectorize.adapt(texts)
    classifier = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            vectorize,
            layers.Embedding(50, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    model = clidmu.CLIDMU(classifier)
    model.compile(keras.optimizers.Adam(0.05), metrics=["accuracy"])
    given = TEXTS[form](texts)
    callbacks = [clidmu.SnapshotEnsemble(given, k=2), clidmu.ValidationCLID(given)]
    arguments = {"epochs": 4, "verbose": 0, "callbacks": callbacks}
    model.fit(given, names, validation_split=0.2, **arguments)
    assert model.evaluate(given, names, verbose=0, return_dict=True)["accuracy"] > 0.9
    issues = clidmu.audit(model, given, names)
    found = np.array(model.class_names)[model.predict(given, verbose=0).argmax(axis=1)]
    assert found.tolist() == issues.suggested_class.tolist()
    issues.loc[3, "is_label_issue"] = True
    page = clidmu.report(issues, given, tmp_path / "page.html").read_text()
    assert texts[3] in page
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    same([loaded.label_weights(given, names)], [model.label_weights(given, names)])
