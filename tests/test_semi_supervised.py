"""FixMatch, FlexMatch and UDA beyond the contract: data, averages, what is wrong."""

import functools
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf import data
from clidmu_tf.data import augment
from clidmu_tf.engine.examples import batches_of_views, split_index, views_of
from clidmu_tf.errors import UserError
from clidmu_tf.methods.clid_mu_inner import PartWeighting
from clidmu_tf.runs import datasets
from golden_methods import DENSE, METHODS, golden_weight_net, one_hot

pytestmark = pytest.mark.slow

layers = keras.layers
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(12, 4)).astype("float32")
Y = np.arange(12) % 3
UNLABELED = GENERATOR.normal(size=(30, 4)).astype("float32")


def classifier():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, "tanh"), layers.Dense(3)]
    )


def compiled(method=clidmu.FixMatch, rate=0.1, **settings):
    model = method(classifier(), seed=1, **settings)
    model.compile(keras.optimizers.SGD(rate), run_eagerly=True)
    return model


def fit(model, **arguments):
    arguments = {"batch_size": 6, "verbose": 0, "shuffle": False, **arguments}
    return model.fit(X, Y, **arguments)


def test_without_their_loss_unlabelled_examples_change_nothing():
    model = compiled(unlabeled_weight=0.0, ema_momentum=0.0)
    fit(model, unlabeled_data=UNLABELED, epochs=2)
    plain = compiled(clidmu.CrossEntropy)
    fit(plain, epochs=2)
    pairs = zip(model.classifier.weights, plain.classifier.weights, strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_average_of_the_weights_is_what_predicts():
    model = compiled(ema_momentum=0.3)
    averages = [value.copy() for value in model.classifier.get_weights()]
    history = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs=None: history.append(
            model.classifier.get_weights()
        )
    )
    fit(model, unlabeled_data=UNLABELED, epochs=2, callbacks=[keep])
    for step, weights in enumerate(history, start=1):
        momentum = min(0.3, (1 + step) / (10 + step))
        averages = [
            momentum * old + (1 - momentum) * new
            for old, new in zip(averages, weights, strict=True)
        ]
    for found, expected in zip(model.served.get_weights(), averages, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        model.predict(X, verbose=0), model.served(X), rtol=1e-5, atol=1e-6
    )


def test_flexmatch_remembers_what_it_was_sure_of():
    model = compiled(clidmu.FlexMatch, threshold=0.4, unlabeled_ratio=5)
    assert "confident" not in model.slots
    fit(model, unlabeled_data=UNLABELED)
    seen = model.slots["confident"].numpy()
    assert seen.shape == (30,) and seen.dtype == "int32"
    assert set(seen) <= {-1, 0, 1, 2} and np.any(seen >= 0)


def test_views_depend_on_seed_and_position_alone():
    def noisy(x, seeds):
        draw = functools.partial(tf.random.stateless_normal, [4])
        return x + tf.map_fn(draw, seeds, fn_output_signature=tf.float32)

    def batches(start):
        found = batches_of_views(UNLABELED, (), [None, noisy], 8, 3, start)
        return list(found.take(6).as_numpy_iterator())

    whole, late = batches(0), batches(2)
    for (first,), (second,) in zip(whole[2:], late[:4], strict=True):
        views, index = split_index(first)
        others, same = split_index(second)
        np.testing.assert_array_equal(index, same)
        weak, strong = views_of(views)
        np.testing.assert_array_equal(weak, UNLABELED[index])
        np.testing.assert_array_equal(strong, views_of(others)[1])
        assert np.all(weak != strong)
    # Three batches an epoch: another epoch has another order, and other noise.
    assert not np.array_equal(split_index(whole[0][0])[1], split_index(whole[3][0])[1])


@pytest.mark.parametrize("start", [0, 3])
def test_the_pipeline_makes_views_of_one_example(start):
    source = data.sources.digits()
    settings = {"batch_size": 10, "seed": 1, "image_shape": source.image_shape}
    weak, strong = augment.build("crop:1"), augment.build("randaugment:3:5")

    def first(**more):
        found = data.training_batches(
            source.train, start_step=start, **settings, **more
        )
        return next(iter(found))

    alone, labels = first(augment=weak)
    (one, two, three), same = first(views=[weak, weak, strong])
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_array_equal(alone, one)
    assert not np.array_equal(one, two) and not np.array_equal(two, three)


# --- the command line's data


def test_labels_are_drawn_evenly_and_the_rest_is_unlabelled():
    source = data.sources.digits()
    few = datasets.draw_labels(source, 95, seed=0)
    counts = np.bincount(few.train.labels, minlength=10)
    assert set(counts) == {9, 10} and len(few.train) == 95
    together = sorted([*few.train.ids, *few.unlabeled.ids])
    assert together == sorted(source.train.ids)
    again = datasets.draw_labels(source, 95, seed=0)
    np.testing.assert_array_equal(few.train.ids, again.train.ids)
    assert datasets.draw_labels(source, 0, seed=0) is source


def test_a_class_without_labels_is_named(caplog):
    source = data.sources.digits()
    kept = source.train.take(np.flatnonzero(source.train.labels != 4))
    source = datasets.dataclasses.replace(source, train=kept)
    with caplog.at_level(logging.WARNING):
        few = datasets.draw_labels(source, 90, seed=0)
    assert caplog.messages == ["No example is labelled 4: the network can't learn it."]
    assert set(np.bincount(few.train.labels, minlength=10)) == {0, 10}


def test_more_labels_than_there_are_is_refused():
    source = data.sources.digits()
    with pytest.raises(UserError, match=r"--num_labels=1297 leaves no example"):
        datasets.draw_labels(source, 1297, seed=0)


# --- what is wrong, in one sentence


@pytest.mark.parametrize("as_dataset", [False, True])
def test_unlabelled_data_of_another_shape_is_refused(as_dataset):
    other = np.zeros((8, 5), "float32")
    if as_dataset:
        other = tf.data.Dataset.from_tensor_slices((other, other)).batch(4)
    with pytest.raises(ValueError, match=r"unlabeled_data must have inputs of shape"):
        fit(compiled(), unlabeled_data=other)


def test_annealing_needs_its_steps():
    with pytest.raises(ValueError, match="needs annealing_steps"):
        fit(compiled(clidmu.UDA, annealing="linear"), unlabeled_data=UNLABELED)


def test_annealing_leaves_sure_labels_out_at_first():
    model = compiled(
        clidmu.UDA, 0.0, annealing="linear", annealing_steps=1000, ema_momentum=0.0
    )
    history = fit(model, unlabeled_data=UNLABELED, epochs=1)
    assert history.history["loss"][0] < 1e-6  # nobody is as unsure as chance


def test_inner_brings_its_settings_and_refuses_what_does_not_fit():
    model = clidmu.CLIDMU(classifier(), inner="fixmatch", threshold=0.7)
    assert model.threshold == 0.7 and model.inner == "fixmatch"
    assert isinstance(model, clidmu.FixMatch) and isinstance(model, clidmu.CLIDMU)
    with pytest.raises(ValueError, match="meta_objective must be one of auto, clid"):
        clidmu.CLIDMU(classifier(), inner="uda", meta_objective="noisy_mae")
    with pytest.raises(ValueError, match="inner must be one of"):
        clidmu.CLIDMU(classifier(), inner="elr")
    with pytest.raises(ValueError, match="has no setting threshold"):
        clidmu.CLIDMU(classifier(), threshold=0.7)


def test_a_virtual_step_may_have_the_optimizers_momentum():
    def trained(steps, **settings):
        model = clidmu.CLIDMU(classifier(), inner="fixmatch", seed=1, **settings)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, keras.optimizers.SGD(10.0), run_eagerly=True)
        fit(model, unlabeled_data=UNLABELED, epochs=1, steps_per_epoch=steps)
        return np.concatenate([w.ravel() for w in model.weight_net.get_weights()])

    # The first step has no momentum yet; the second one has.
    first, second = (
        [trained(steps, virtual_momentum=own) for own in (False, True)]
        for steps in (1, 2)
    )
    np.testing.assert_allclose(*first, atol=1e-6)
    assert np.abs(second[0] - second[1]).max() > 1e-6
    model = clidmu.CLIDMU(classifier(), inner="uda", virtual_momentum=True)
    with pytest.raises(ValueError, match="takes the step of SGD with momentum"):
        model.compile("adam")


def test_the_weighted_part_is_the_authors():
    net = golden_weight_net("ssl_wnet")
    weighting = PartWeighting(net, class_balance=False, prior_penalty=0.0)
    batch = {
        "targets": one_hot(METHODS["ssl_wnet_y"]),
        "sample_weight": tf.ones(10, "float64"),
    }
    loss = weighting.loss(batch, [tf.ones(4, "float64")] * 3)
    w1, b1, w2, b2 = (METHODS[f"ssl_wnet_cls_{name}"].T for name in DENSE)
    features = tf.nn.relu(METHODS["ssl_wnet_x"] @ w1 + b1)
    phi = [tf.convert_to_tensor(v.value) for v in net.trainable_variables]
    found = loss(phi, features, features @ w2 + b2, True)
    np.testing.assert_allclose(found, METHODS["ssl_wnet_virtual_loss"], rtol=1e-9)


def test_arrays_are_augmented_by_seed_and_position_whatever_cuts_the_run():
    def noisy(x, seeds):
        return x + tf.cast(seeds % 7, "float32")[:, 1:] / 10

    def trained(*epochs):
        model = compiled(clidmu.CrossEntropy)
        for first, last in epochs:
            fit(model, augment=noisy, initial_epoch=first, epochs=last)
        return np.concatenate([w.ravel() for w in model.classifier.get_weights()])

    whole = trained((0, 3))
    np.testing.assert_array_equal(whole, trained((0, 1), (1, 3)))
    assert not np.array_equal(whole, trained((0, 2)))


def test_what_would_be_remembered_needs_a_name():
    unnamed = tf.data.Dataset.from_tensors((UNLABELED, UNLABELED)).repeat()
    with pytest.raises(ValueError, match="num_unlabeled="):
        fit(compiled(clidmu.FlexMatch), unlabeled_data=unnamed)


def test_weighed_labels_are_not_left_out_as_well():
    model = clidmu.CLIDMU(classifier(), inner="uda", annealing="linear")
    model.compile(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="annealing='linear' leaves labels out"):
        fit(model, unlabeled_data=UNLABELED)


@pytest.mark.parametrize("scale, low, high", [(1 / 255, 0, 1), (-1.0, -255, 0)])
def test_pixels_that_would_be_rounded_away_are_refused(scale, low, high):
    images = scale * np.tile(np.linspace(0, 255, 64, dtype="float32"), (4, 1))
    with pytest.raises(ValueError, match=f"from {low} to -?{high}: .*Rescaling"):
        views = [None, "randaugment"]
        batches_of_views(images.reshape(4, 8, 8, 1), (), views, 2, seed=0)
