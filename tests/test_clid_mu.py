"""CLIDMU as a Keras user meets it: any classifier, any data, fit to load_model."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.engine.examples import batch_size_of
from clidmu_tf.errors import TrainingDiverged
from clidmu_tf.methods.weighting import batch_share, update_classes
from clidmu_tf.nets import backbones
from clidmu_tf.nets.features import virtual_variables
from reference import values
from small import (
    assert_close,
    compiled_model,
    small_classifier,
    table,
    weights_after,
)

pytestmark = pytest.mark.slow

layers = keras.layers


# --- one step is the paper's


@pytest.mark.parametrize("meta_interval", [1, 2])
def test_the_weight_net_moves_on_meta_steps_alone(meta_interval):
    x, y = table()
    model = compiled_model(warmup_steps=2, meta_interval=meta_interval)
    before, moved = model.weight_net.get_weights(), []
    for _ in range(5):
        model.train_on_batch(x, y)
        after = model.weight_net.get_weights()
        moved.append(any(np.any(a != b) for a, b in zip(before, after, strict=True)))
        before = after
    expected = {
        1: [False, False, True, True, True],
        2: [False, False, True, False, True],
    }
    assert moved == expected[meta_interval]


def test_warmup_is_plain_cross_entropy():
    x, y = table()
    plain = clidmu.CrossEntropy(small_classifier())
    plain.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    keras_model = small_classifier()
    keras_model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model = compiled_model(warmup_steps=100)
    for one in (plain, keras_model, model):
        one.fit(x, y, batch_size=20, epochs=2, shuffle=False, verbose=0)
    assert_close(model.classifier.get_weights(), keras_model.get_weights(), 1e-6)
    assert_close(plain.classifier.get_weights(), keras_model.get_weights(), 1e-6)


def test_class_means_follow_the_given_classes():
    targets = tf.constant([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    predicted = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.3, 0.5, 0.2]], "float32")
    classes = [[1.0, 1.0, 0.7], [1.0, 1.0, 1.0], [0.6, 0.2, 0.2]]
    classes = [tf.constant(values) for values in classes]
    given = tf.constant([0.2, 0.4, 0.8]), tf.math.log(predicted), targets
    mean, count, prediction = update_classes(classes, *given, "meta")
    np.testing.assert_allclose(mean, [0.9 + 0.1 * 0.3, 0.9 + 0.1 * 0.8, 0.7])
    np.testing.assert_allclose(count, [3, 2, 1])
    # Three examples are a tenth of ten a class.
    moved = 0.9 * classes[2] + 0.1 * predicted.mean(axis=0)
    np.testing.assert_allclose(prediction, moved, rtol=1e-6)
    mean, count, prediction = update_classes(classes, *given, "warmup")
    np.testing.assert_allclose(mean, [1.0, 1.0, 0.7])
    np.testing.assert_allclose(count, [3, 2, 1])
    np.testing.assert_allclose(prediction, moved, rtol=1e-6)


@pytest.mark.parametrize("n, share", [(6, 0.2), (30, 1.0), (60, 1.0)])
def test_a_batch_of_ten_examples_a_class_speaks_for_itself(n, share):
    assert batch_share(tf.zeros((n, 3))) == share


def test_class_balance_gives_each_given_class_its_share():
    x, y = table()
    model = compiled_model()
    model.slots["class_mean"].assign([0.1, 0.5, 0.9])
    batch = {"targets": tf.one_hot(y, 3), "sample_weight": tf.ones(60)}
    raw = tf.gather([0.1, 0.5, 0.9], y)
    balanced = model.weighting.balanced(raw, batch["targets"], model.classes())
    np.testing.assert_allclose(balanced, np.ones(60), rtol=1e-6)


# --- eager, graph, XLA


@pytest.mark.parametrize("requested, chosen", [("auto", "off"), (True, "on")])
def test_what_was_chosen_is_said_once_when_training_starts(requested, chosen, caplog):
    caplog.set_level("INFO", "clidmu_tf")
    (x, y), model = table(), compiled_model(jit_compile=requested)

    def said():  # by us; TensorFlow may warn of many models in one process
        ours = [r for r in caplog.records if r.name.startswith("clidmu_tf")]
        return [record.getMessage() for record in ours]

    model.predict(x, verbose=0)
    assert not said()
    for _ in range(2):
        model.fit(x, y, batch_size=20, verbose=0)
    assert said() == [f"XLA is {chosen} (jit_compile={requested!r}, no GPU)."]


@pytest.mark.parametrize("weight_net", ["wnet", "vri"])
def test_eager_graph_and_xla_train_alike(weight_net):
    x, y = table()
    net = {"wnet": clidmu.WNet, "vri": lambda: clidmu.VRI((16, 8))}[weight_net]
    results = []
    for how in ({"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}):
        keras.utils.set_random_seed(2)
        results.append(weights_after(compiled_model(weight_net=net(), **how), x, y))
    assert_close(results[0], results[1], 1e-4)
    assert_close(results[0], results[2], 1e-4)


def test_one_trace_a_function_over_an_epoch_with_a_short_last_batch():
    x, y = table(n=50)
    model = compiled_model(warmup_steps=2)
    weights_after(model, x, y, epochs=3)
    counts = {
        k: s.traced.experimental_get_tracing_count() for k, s in model._steps.items()
    }
    assert counts == {"warmup": 1, "meta": 1}


# --- labels and data in every form


@pytest.mark.parametrize("form", ["column", "one_hot", "dataset", "softmax"])
def test_every_form_of_labels_and_data_trains_alike(form):
    x, y = table()
    keras.utils.set_random_seed(3)
    expected = weights_after(compiled_model(run_eagerly=True), x, y)
    keras.utils.set_random_seed(3)
    classifier = small_classifier(softmax=form == "softmax")
    model = compiled_model(classifier, run_eagerly=True)  # to trace takes longest
    labels = {"column": y[:, None], "one_hot": np.eye(3)[y]}.get(form, y)
    if form == "dataset":
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
        got = weights_after(model, data, batch_size=None)
    else:
        got = weights_after(model, x, labels)
    assert_close(got, expected)


def test_sample_weight_multiplies_the_loss():
    x, y = table()
    keras.utils.set_random_seed(3)
    model = compiled_model(prior_penalty=0.0, optimizer=keras.optimizers.SGD(0.1))
    start = model.classifier.get_weights()
    model.fit(x, y, sample_weight=np.zeros(60), batch_size=20, verbose=0)
    assert_close(model.classifier.get_weights(), start, 0)

    by_class, by_example = [], []
    for kind, into in (("class", by_class), ("sample", by_example)):
        keras.utils.set_random_seed(3)
        weight = {0: 1.0, 1: 2.0, 2: 0.5}
        keyword = (
            {"class_weight": weight}
            if kind == "class"
            else {"sample_weight": np.vectorize(weight.get)(y)}
        )
        into += weights_after(compiled_model(), x, y, **keyword)
    assert_close(by_class, by_example)
    keras.utils.set_random_seed(3)
    assert any(
        np.abs(a - b).max() > 1e-4
        for a, b in zip(by_class, weights_after(compiled_model(), x, y), strict=True)
    )


def test_validation_split_callbacks_and_logs():
    x, y = table(n=100)
    model = compiled_model(metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_clid", mode="min", patience=50)
    history = model.fit(
        x, y, validation_split=0.2, epochs=2, batch_size=20, verbose=0, callbacks=[stop]
    ).history
    logged = {"loss", "meta_loss", "clid", "accuracy", "mean_weight", "meta_grad_norm"}
    assert set(history) == logged | {"val_loss", "val_clid", "val_accuracy"}
    x_val, y_val = x[80:], y[80:]
    scores = model.predict(x_val, verbose=0)
    accuracy = np.mean(scores.argmax(1) == y_val)
    np.testing.assert_allclose(history["val_accuracy"][-1], accuracy, rtol=1e-6)
    found = model.evaluate(x_val, y_val, batch_size=20, verbose=0, return_dict=True)
    given = keras.ops.softmax(scores).numpy()[np.arange(20), y_val]
    np.testing.assert_allclose(found["loss"], np.mean(1 - given), rtol=1e-5)
    np.testing.assert_allclose(found["clid"], history["val_clid"][-1], rtol=1e-5)


@pytest.mark.parametrize(
    "fit, name",
    [
        (lambda model, x, y: model.fit(x, y, batch_size=1), "batch_size"),
        (lambda model, x, y: model.fit(batches_of(1, x, y)), "batch_size"),
        (
            lambda model, x, y: model.fit(x, y, meta_data=x, meta_batch_size=1),
            "meta_batch_size",
        ),
        (
            lambda model, x, y: model.fit(x, y, meta_data=batches_of(1, x)),
            "meta_batch_size",
        ),
    ],
)
def test_batches_of_one_which_no_weight_can_be_learnt_of_are_refused(fit, name):
    with pytest.raises(ValueError, match=f"^{name} must be 2 or more, since .* 1.$"):
        fit(compiled_model(), *table())


def batches_of(size, *arrays):
    arrays = arrays if len(arrays) > 1 else arrays[0]
    dataset = tf.data.Dataset.from_tensor_slices(arrays)
    return dataset.batch(size, drop_remainder=True)


def test_meta_data_with_labels_is_what_the_objective_sees():
    x, y = table()
    generator = np.random.default_rng(0)
    keywords = {"meta_objective": "cross_entropy"}
    results = []
    for labels in (y, (y + 1) % 3):
        keras.utils.set_random_seed(3)
        model = compiled_model(**keywords)
        results.append(
            weights_after(
                model, x, generator.permutation(y) * 0 + y, meta_data=(x, labels)
            )
        )
    assert np.abs(results[0][-2] - results[1][-2]).max() > 1e-4


def test_unlabelled_meta_data_equal_to_the_batch_changes_nothing():
    x, y = table(n=20)
    keras.utils.set_random_seed(3)
    expected = weights_after(compiled_model(), x, y)
    keras.utils.set_random_seed(3)
    got = weights_after(compiled_model(), x, y, meta_data=x, meta_batch_size=20)
    # CLID does not depend on the order of its examples.
    assert_close(got, expected, 1e-4)


def test_texts_that_are_not_batched_have_no_batch_size():
    assert batch_size_of(tf.data.Dataset.from_tensor_slices(["a", "b"]), {}) == 32


# --- classifiers


def nested(inner):
    inputs = keras.Input((4,))
    return keras.Model(inputs, inner(layers.Dense(4, "relu")(inputs)))


def no_input():
    return keras.Sequential([layers.Dense(8, "relu"), layers.Dense(3)])


def with_batch_norm_and_dropout():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.2, seed=1),
            layers.Dense(3),
            layers.Softmax(),
        ]
    )


@pytest.mark.parametrize(
    "make", [no_input, with_batch_norm_and_dropout, lambda: nested(small_classifier())]
)
def test_every_kind_of_classifier_learns(make):
    keras.utils.set_random_seed(0)
    x, y = table(n=200)
    model = compiled_model(make(), metrics=["accuracy"])
    history = model.fit(x, y, epochs=15, batch_size=20, verbose=0).history
    assert history["accuracy"][-1] > 0.75


def test_a_keras_application_trains():
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 255, (8, 64, 64, 3)).astype("float32")
    classifier = keras.applications.MobileNetV2(
        (64, 64, 3), alpha=0.35, weights=None, classes=4
    )
    # Eager: to make a graph of so many layers takes five times as long.
    model = compiled_model(
        classifier, optimizer=keras.optimizers.SGD(0.01), run_eagerly=True
    )
    before = [v.numpy() for v in classifier.trainable_variables]
    history = model.fit(x, np.arange(8) % 4, batch_size=8, verbose=0).history
    assert np.isfinite(history["meta_loss"][0]) and history["meta_grad_norm"][0] > 0
    changed = [
        np.any(a != b)
        for a, b in zip(before, classifier.trainable_variables, strict=True)
    ]
    assert np.mean(changed) > 0.9


def test_dropout_draws_anew_each_step_and_moving_averages_move():
    x, y = table()
    model = compiled_model(with_batch_norm_and_dropout())
    seeds = [v for v in model.classifier.non_trainable_variables if "seed" in v.path]
    mean = model.classifier.layers[1].moving_mean
    before, seed_before = mean.numpy(), seeds[0].numpy()
    model.train_on_batch(x, y)
    hidden = model.classifier.layers[0](x)
    assert np.any(seeds[0].numpy() != seed_before)
    # One real pass moved the average, from before this step's update.
    assert np.abs(mean.numpy() - before).max() < np.abs(hidden).max()
    assert np.any(mean.numpy() != before)


@pytest.mark.parametrize(
    "shape, last, sentence",
    [
        ((4,), [layers.Dense(3, "sigmoid")], "activation='sigmoid'"),
        ((4,), [layers.Dense(1, "softmax")], "softmax of one unit"),
        ((4,), [layers.Dense(3), layers.Dropout(0.1)], "ends in Dropout"),
        ((4, 2), [layers.Dense(3)], r"shape \(n, d\)"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(shape, last, sentence):
    with pytest.raises(ValueError, match=sentence):
        clidmu.CLIDMU(keras.Sequential([keras.Input(shape), *last]))


def test_a_subclassed_model_is_refused_and_feature_layer_named():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="(?s)Own .*keras.Input"):
        clidmu.CLIDMU(Own())
    with pytest.raises(ValueError, match="received 'nowhere'"):
        clidmu.CLIDMU(small_classifier(), feature_layer="nowhere")


def test_feature_layer_chooses_the_features():
    classifier = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(7, "relu", name="early"),
            layers.Dense(5, "relu"),
            layers.Dense(3),
        ]
    )
    assert clidmu.CLIDMU(classifier).network.num_features == 5
    assert clidmu.CLIDMU(classifier, feature_layer="early").network.num_features == 7


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"weight_net": "net"}, "weight_net must be one of"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"prior_penalty": -1}, "prior_penalty must be 0 or more; received -1"),
        ({"meta_objective": "mse"}, "meta_objective must be one of"),
        ({"virtual_scope": "tail"}, "virtual_scope must be one of"),
    ],
)
def test_arguments_are_checked_at_construction(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        clidmu.CLIDMU(small_classifier(), **arguments)


@pytest.mark.parametrize("meta_data", [None, np.zeros((4, 4), "float32")])
def test_a_supervised_objective_needs_labelled_meta_data(meta_data):
    x, y = table()
    with pytest.raises(ValueError, match="needs labelled meta data"):
        compiled_model(meta_objective="mae").fit(x, y, meta_data=meta_data, verbose=0)


def test_labels_out_of_range_are_named():
    x, y = table()
    y = y.copy()
    y[7] = 3
    with pytest.raises(ValueError, match="received 3 at index 7"):
        compiled_model().fit(x, y, verbose=0)


def test_bad_labels_in_a_dataset_and_diverging_stop_the_run():
    x, y = table()
    data = tf.data.Dataset.from_tensor_slices((x, y + 1)).batch(20)
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        compiled_model().fit(data, verbose=0)


def test_collapsed_weights_stop_the_run():
    x, y = table()
    model = compiled_model()
    model.weight_net.weight.bias.assign([-1e4])
    with pytest.raises(TrainingDiverged, match="collapsed to zero"):
        model.fit(x, y, verbose=0)


def test_bfloat16_trains_near_float32_with_the_weight_net_in_float32():
    x, y = table()
    results = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        model = compiled_model(small_classifier())
        keras.config.set_dtype_policy("float32")
        results.append(weights_after(model, x, y, epochs=1))
        features, logits, _ = model.network.apply(
            values(model)["theta"], values(model)["state"], x
        )
        assert features.dtype == logits.dtype == tf.float32
        assert model.weight_net(tf.ones(3)).dtype == tf.float32
    assert_close(*results, 0.05)
    assert any(np.any(a != b) for a, b in zip(*results, strict=True))


def test_float16_is_refused_with_the_reason():
    keras.config.set_dtype_policy("mixed_float16")
    with pytest.raises(ValueError, match="underflows without loss scaling"):
        compiled_model(small_classifier())


@pytest.mark.parametrize(
    "backbone, blocks",
    [
        ("resnet20", ["stage3_block3_"]),
        ("small_cnn", ["block3_"]),
        ("MobileNetV2", ["block_16_", "Conv_1"]),
    ],
)
def test_virtual_scopes_move_head_and_last_block(backbone, blocks):
    classifier = backbones.build(backbone, (32, 32, 3), 10)
    paths = [v.path for v in classifier.trainable_variables]

    def moved(scope):
        flags = virtual_variables(classifier, scope)
        return {path for path, flag in zip(paths, flags, strict=True) if flag}

    head = {path for path in paths if path.startswith("logits/")}
    assert moved("all") == set(paths) and moved("head") == head
    expected = {path for path in paths if any(f"/{b}" in f"/{path}" for b in blocks)}
    assert expected and moved("last_block") == head | expected


# --- saving


@pytest.mark.parametrize("weight_net", ["wnet", "vri"])
def test_training_goes_on_as_if_never_saved(weight_net, tmp_path):
    x, y = table()
    net = {"wnet": "wnet", "vri": clidmu.VRI((16, 8))}[weight_net]
    model = compiled_model(
        with_batch_norm_and_dropout(),
        weight_net=net,
        warmup_steps=1,
        metrics=["accuracy"],
    )
    weights_after(model, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), loaded.predict(x, verbose=0)
    )
    expected, got = weights_after(model, x, y), weights_after(loaded, x, y)
    assert_close(got, expected, 1e-6)
    np.testing.assert_allclose(
        loaded.slots["class_mean"], model.slots["class_mean"], atol=1e-6
    )


def test_config_round_trips_and_summary_works_before_fit(capsys):
    model = clidmu.CLIDMU(
        small_classifier(), meta_objective="clid", temperature=0.2, warmup_steps=3
    )
    again = clidmu.CLIDMU.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    model.summary()
    assert "CLIDMU" in capsys.readouterr().out or "clidmu" in model.name
    for net in (clidmu.WNet(7), clidmu.VRI((4, 3), embedding_dim=5, kl_weight=0.1)):
        config = net.get_config()
        assert type(net).from_config(config).get_config() == config


def test_snapshots_keep_the_lowest_clid_and_sum_logits():
    x, y = table()
    model = compiled_model()
    snapshots = clidmu.SnapshotEnsemble(x, k=2, batch_size=30)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((logs["snapshot_clid"], self.model.predict(x, verbose=0)))

    model.fit(x, y, epochs=5, batch_size=20, verbose=0, callbacks=[snapshots, Watch()])
    values = [value for value, _ in seen]
    best = np.argsort(values)[:2]
    assert [epoch for _, epoch, _ in snapshots.snapshots] == list(best)
    expected = seen[best[0]][1] + seen[best[1]][1]
    got = snapshots.ensemble().predict(x, verbose=0)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    outputs = model.network._inside.predict(x, verbose=0)
    halves = [
        clidmu.clid(outputs[0][i : i + 30], tf.constant(outputs[1][i : i + 30]))
        for i in (0, 30)
    ]
    np.testing.assert_allclose(values[-1], np.mean(halves), rtol=1e-5)


def test_a_class_that_is_lost_is_named_once_with_a_remedy_that_fits(caplog):
    x, y = table()
    for settings, remedy in (
        ({}, "add warm-up steps"),
        ({"prior_penalty": 0.0}, "keep prior_penalty=1.0"),
        ({"class_balance": False}, "keep class_balance=True"),
        ({"warmup_steps": 1}, "lower the meta learning rate"),
    ):
        model = clidmu.CLIDMU(small_classifier(), **settings)
        model.compile(keras.optimizers.SGD(1e-9))
        bias = model.classifier.layers[-1].bias
        bias.assign([-50.0, 0.0, 0.0])
        caplog.clear()
        logging.getLogger("clidmu_tf").propagate = True
        with caplog.at_level("WARNING", "clidmu_tf"):
            model.fit(x, y, epochs=12, batch_size=len(x), verbose=0)
        warned = [r.getMessage() for r in caplog.records if "write it off" in r.message]
        assert len(warned) == 1 and "Class 0 is given to" in warned[0]
        assert remedy in warned[0]
