"""What Keras users do besides `fit`: freeze, regularise, several inputs, 16 bits."""

import keras
import numpy as np
import pytest

import clidmu_tf as clidmu
from clidmu_tf.errors import TrainingDiverged
from small import assert_close, table

pytestmark = pytest.mark.slow

layers = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(**dense):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, "relu", **dense), layers.Dense(3)]
    )


def compiled(model, rate=0.1):
    model.compile(keras.optimizers.SGD(rate, momentum=0.9))
    return model


def test_weight_regularisers_act_as_in_keras():
    (x, y), found = table(), []
    plain = classifier(kernel_regularizer=keras.regularizers.L2(0.3))
    plain.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    ours = clidmu.CrossEntropy(
        classifier(kernel_regularizer=keras.regularizers.L2(0.3))
    )
    for model in (plain, compiled(ours)):
        model.fit(x, y, epochs=2, shuffle=False, verbose=0)
        found.append(model.get_weights())
    assert_close(found[0], ours.classifier.get_weights())
    assert (
        np.abs(found[0][0]).mean() < 0.7 * np.abs(classifier().get_weights()[0]).mean()
    )


def test_activity_regularisers_are_refused_by_name():
    with pytest.raises(ValueError, match="'hidden' has an activity_regularizer"):
        clidmu.CLIDMU(classifier(activity_regularizer="l2", name="hidden"))


def test_a_short_run_that_fails_says_so_before_anything_is_saved(tmp_path):
    x, y = table()
    x[-1] = 1e38  # in the last of three steps; NaN may be lost in a fused ReLU
    path = tmp_path / "model.keras"
    save = keras.callbacks.ModelCheckpoint(path)
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        compiled(clidmu.CLIDMU(classifier())).fit(
            x, y, batch_size=20, shuffle=False, verbose=0, callbacks=save
        )
    assert not path.exists()


@pytest.mark.parametrize("scope", ["all", "head"])
def test_layers_frozen_and_thawed_between_fits(scope):
    x, y = table()
    model = compiled(clidmu.CLIDMU(classifier(), virtual_scope=scope))
    first = model.classifier.layers[0]
    for trainable in (True, False, True):
        before = first.get_weights()
        first.trainable = trainable
        compiled(model).fit(x, y, epochs=1, verbose=0)
        moved = any(
            np.any(a != b) for a, b in zip(before, first.get_weights(), strict=True)
        )
        assert moved == trainable


def test_one_optimizer_for_two_is_refused():
    optimizer = keras.optimizers.SGD(0.1)
    with pytest.raises(ValueError, match="must be two objects"):
        clidmu.CLIDMU(classifier()).compile(optimizer, meta_optimizer=optimizer)


def test_two_optimizers_may_have_one_name():
    (x, y), model = table(), clidmu.CLIDMU(classifier())
    model.compile("sgd", meta_optimizer="sgd")
    model.fit(x, y, verbose=0)
    assert model.optimizer is not model.meta_optimizer


def halves(x, form):
    parts = x[:, :1], x[:, 1:]
    return {"list": list, "tuple": tuple, "dict": named}[form](parts)


def named(parts):
    return dict(zip(("a", "b"), parts, strict=True))


@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_inputs_go_wherever_one_goes(form):
    x, y = table()
    keras.utils.set_random_seed(1)
    inputs = [keras.Input((1,), name="a"), keras.Input((3,), name="b")]
    hidden = layers.Dense(8, "relu")(layers.Concatenate()(inputs))
    inputs = named(inputs) if form == "dict" else inputs
    two, one = keras.Model(inputs, layers.Dense(3)(hidden)), classifier()
    two.set_weights(one.get_weights())
    found = []
    for model, given in ((two, halves(x, form)), (one, x)):
        keras.utils.set_random_seed(1)
        model = compiled(clidmu.CLIDMU(model, meta_objective="clid"))
        callbacks = [
            clidmu.SnapshotEnsemble(given, k=2, batch_size=20),
            clidmu.ValidationCLID(given, batch_size=20),
        ]
        history = model.fit(
            given,
            y,
            batch_size=20,
            meta_data=given,
            meta_batch_size=60,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        ).history
        assert history["val_clid"] == history["snapshot_clid"]
        scores = callbacks[0].ensemble().predict(given, verbose=0)
        quality = clidmu.audit(model, given, y, snapshots=callbacks[0]).label_quality
        found.append(
            [history["val_clid"], scores, quality, model.label_weights(given, y)]
        )
    assert_close(*found, 1e-4)


@pytest.mark.parametrize("net", [clidmu.WNet, clidmu.VRI])
def test_every_callback_lives_with_bfloat16(net):
    x, y = table()
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = compiled(clidmu.CLIDMU(classifier(), net()))
    callbacks = [clidmu.SnapshotEnsemble(x, k=2), clidmu.ValidationCLID(x)]
    try:
        history = model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks).history
        callbacks[0].ensemble().predict(x, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {w.dtype for w in model.weight_net.weights} == {"float32"}
    expected = clidmu.audit(model, x, y)["loss"].notna().all()
    assert expected and history["snapshot_clid"] == history["val_clid"]


def test_use_before_the_first_fit_names_the_way_out():
    x, y = table()
    model = compiled(
        clidmu.CLIDMU(keras.Sequential([layers.Dense(8), layers.Dense(3)]))
    )
    for use in (model.evaluate, model.label_weights):
        with pytest.raises(ValueError, match="has no input shape yet: put keras.Input"):
            use(x, y)
