import keras
import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.core.meta_gradient import (
    local_forward,
    meta_step,
    plain_meta_gradient,
)
from clidmu_tf.engine.distributed import Alone, distributed_forward
from reference import (
    GOLDEN,
    golden,
    golden_classifier,
    golden_gradient_names,
    golden_weight_net,
    nested_tape_step,
    values,
)

pytestmark = pytest.mark.slow

MODES = ["eager", "graph", "xla"]
RATE = tf.constant(0.2, "float64")
PRECISIONS = [("float64", 1e-9), ("float32", 1e-4)]


def compiled(function, mode):
    if mode == "eager":
        return function
    return tf.function(function, jit_compile=mode == "xla")


def golden_model(prefix, dtype):
    return clidmu.CLIDMU(
        golden_classifier(prefix, dtype),
        weight_net=golden_weight_net(prefix, dtype),
        meta_objective="cross_entropy" if prefix == "wnet_ce" else "clid",
        class_balance=False,
        prior_penalty=0.0,
    )


def golden_step(prefix, dtype, mode, forward=local_forward):
    """Runs the golden meta step; returns the virtual weights too."""
    model = golden_model(prefix, dtype)
    batch = {
        "targets": tf.one_hot(GOLDEN[f"{prefix}_y"], 4, dtype=dtype),
        "sample_weight": tf.ones(12, dtype),
    }
    if prefix == "vri":
        batch["noise"] = tf.constant([golden("vri", "vri_noise", dtype)] * 2)
    meta_y = None
    if prefix == "wnet_ce":
        meta_y = tf.one_hot(GOLDEN["wnet_ce_meta_y"], 4, dtype=dtype)
    loss = model.weighting.loss(batch, model.classes())
    moved = []

    def watched(theta, state, x):
        moved.append(theta)
        return model.network.apply(theta, state, x)

    def step(x, meta_x):
        moved.clear()
        results = meta_step(
            forward(watched),
            loss,
            model.meta_objective_of(meta_y),
            lambda gradient: values(model)["phi"],
            theta=values(model)["theta"],
            phi=values(model)["phi"],
            state=values(model)["state"],
            x=x,
            meta_x=meta_x,
            learning_rate=tf.constant(GOLDEN[f"{prefix}_virtual_lr"], dtype),
        )
        here, meta_loss, meta_gradient = results[2], results[3], results[4]
        weights = model.weighting.raw_weights(
            values(model)["phi"], here.features, here.logits, batch
        )
        value = loss(values(model)["phi"], here.features, here.logits, True)
        return meta_loss, meta_gradient, [t * 1 for t in moved[1]], weights, value

    x, meta_x = (golden(prefix, name, dtype) for name in ("x", "meta_x"))
    return compiled(step, mode)(tf.constant(x), tf.constant(meta_x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("prefix", ["wnet", "wnet_ce", "vri"])
def test_meta_step_is_the_authors(prefix, dtype, tolerance, mode):
    meta_loss, gradient, virtual, weights, loss = golden_step(prefix, dtype, mode)
    np.testing.assert_allclose(meta_loss, GOLDEN[f"{prefix}_meta_loss"], rtol=tolerance)
    for name, value in zip(("w1", "b1", "w2", "b2"), virtual, strict=True):
        expected = golden(prefix, f"virtual_{name}")
        np.testing.assert_allclose(value, expected, atol=tolerance, err_msg=name)
    for name, value in zip(golden_gradient_names(prefix), gradient, strict=True):
        expected = golden(prefix, f"meta_grad_{name}")
        np.testing.assert_allclose(value, expected, atol=tolerance, err_msg=name)
    if prefix != "vri":
        np.testing.assert_allclose(
            weights / tf.reduce_sum(weights),
            GOLDEN[f"{prefix}_weights_normalized"],
            atol=tolerance,
        )
        np.testing.assert_allclose(
            loss, GOLDEN[f"{prefix}_virtual_loss"], rtol=tolerance
        )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("prefix", ["wnet", "vri"])
def test_the_distributed_pieces_give_the_same_gradient(prefix, jit_compile):
    def forward(apply):
        return distributed_forward(apply, Alone(), jit_compile)

    expected = golden_step(prefix, "float64", "graph")[1]
    model = golden_model(prefix, "float64")
    batch = {
        "targets": tf.one_hot(GOLDEN[f"{prefix}_y"], 4, dtype="float64"),
        "sample_weight": tf.ones(12, "float64"),
        "noise": tf.constant([golden("vri", "vri_noise")] * 2),
    }

    @tf.function
    def step():
        return meta_step(
            forward(model.network.apply),
            model.weighting.loss(batch, model.classes()),
            model.meta_objective_of(None),
            lambda gradient: values(model)["phi"],
            theta=values(model)["theta"],
            phi=values(model)["phi"],
            state=values(model)["state"],
            x=tf.constant(golden(prefix, "x")),
            meta_x=tf.constant(golden(prefix, "meta_x")),
            learning_rate=tf.constant(GOLDEN[f"{prefix}_virtual_lr"]),
        )[4]

    for value, wanted in zip(step(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-12)


def test_vri_mask_is_the_authors():
    net = golden_weight_net("vri", "float64")
    classifier = golden_classifier("vri", "float64")
    features = classifier.layers[1](golden("vri", "x"))
    mask, _ = net(features, np.eye(4)[GOLDEN["vri_y"]], golden("vri", "vri_noise"))
    np.testing.assert_allclose(mask, GOLDEN["vri_mask"], atol=1e-12)


def conv_net(dtype):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    keras.config.set_dtype_policy(dtype)
    try:
        return keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                layers.Conv2D(4, 3, activation="tanh"),
                layers.BatchNormalization(),
                layers.Conv2D(5, 3, strides=2, activation="tanh"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3),
            ]
        )
    finally:
        keras.config.set_dtype_policy("float32")


def conv_problem(weight_net, class_balance=True, prior_penalty=1.0):
    generator = np.random.default_rng(4)
    model = clidmu.CLIDMU(
        conv_net("float64"),
        weight_net=weight_net(dtype="float64"),
        class_balance=class_balance,
        prior_penalty=prior_penalty,
    )
    model.slots["class_mean"].assign([0.3, 0.5, 0.9])
    batch = {
        "targets": tf.one_hot(generator.integers(0, 3, 8), 3, dtype="float64"),
        "sample_weight": tf.constant(generator.uniform(0.5, 1.5, 8)),
        "noise": tf.constant(generator.normal(size=(2, 8, 3))),
    }
    classes = [tf.cast(value, "float64") for value in model.classes()]
    x, meta_x = (tf.constant(generator.normal(size=(8, 6, 6, 2))) for _ in range(2))
    return model, model.weighting.loss(batch, classes), x, meta_x


def clid_with_fixed_graphs(features, logits):
    """CLID as a function of the logits alone, all that is detached held fixed."""
    unit = tf.math.l2_normalize(features, axis=1)
    similarity = tf.nn.relu(tf.matmul(unit, unit, transpose_b=True)) / 0.5
    cost = -tf.math.log(tf.nn.softmax(similarity) + 1e-7)
    predictions = tf.math.l2_normalize(tf.nn.softmax(logits), axis=1)
    row_sum = tf.reduce_sum(tf.matmul(predictions, predictions, transpose_b=True), 1)

    def objective(_, logits):
        predictions = tf.math.l2_normalize(tf.nn.softmax(logits), axis=1)
        agreement = tf.matmul(predictions, predictions, transpose_b=True)
        return tf.reduce_mean(tf.reduce_sum(cost * agreement, axis=1) / row_sum)

    return objective


@pytest.mark.parametrize("weight_net", [clidmu.WNet, clidmu.VRI])
def test_meta_gradient_is_that_of_finite_differences(weight_net):
    model, loss, x, meta_x = conv_problem(weight_net)
    theta, state, phi = (
        values(model)["theta"],
        values(model)["state"],
        values(model)["phi"],
    )
    _, _, _, _, gradient, _ = meta_step(
        local_forward(model.network.apply),
        loss,
        model.meta_objective_of(None),
        lambda gradient: phi,
        theta=theta,
        phi=phi,
        state=state,
        x=x,
        meta_x=meta_x,
        learning_rate=RATE,
    )

    def virtual_outputs(phi):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            features, logits, _ = model.network.apply(theta, state, x)
            value = loss(phi, tf.stop_gradient(features), logits, True)
        slopes = tape.gradient(value, theta)
        moved = [t - RATE * s for t, s in zip(theta, slopes, strict=True)]
        return model.network.apply(moved, state, meta_x)[:2]

    objective = clid_with_fixed_graphs(*virtual_outputs(phi))
    generator = np.random.default_rng(5)
    directions = [tf.constant(generator.normal(size=value.shape)) for value in phi]

    def shifted(step):
        moved = [p + step * d for p, d in zip(phi, directions, strict=True)]
        return objective(*virtual_outputs(moved))

    slope = (shifted(1e-5) - shifted(-1e-5)) / 2e-5
    expected = sum(
        tf.reduce_sum(g * d) for g, d in zip(gradient, directions, strict=True)
    )
    assert abs(float(expected)) > 1e-6
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weight_net", [clidmu.WNet, clidmu.VRI])
def test_sharing_the_forward_pass_changes_nothing(weight_net, mode):
    model, loss, x, meta_x = conv_problem(weight_net)
    theta, state, phi = (
        values(model)["theta"],
        values(model)["state"],
        values(model)["phi"],
    )
    objective = model.meta_objective_of(None)
    expected_loss, _, expected = nested_tape_step(
        model.network.apply, loss, objective, theta, phi, state, x, meta_x, RATE
    )
    with tf.GradientTape() as tape:
        tape.watch(theta)
        features, logits, expected_state = model.network.apply(theta, state, x)
        real_loss = loss(phi, tf.stop_gradient(features), logits, False)
    expected_real = tape.gradient(real_loss, theta)

    @lambda function: compiled(function, mode)
    def step(x, meta_x):
        real, state_after, _, meta_loss, gradient, _ = meta_step(
            local_forward(model.network.apply),
            loss,
            objective,
            lambda gradient: phi,
            theta=theta,
            phi=phi,
            state=state,
            x=x,
            meta_x=meta_x,
            learning_rate=RATE,
        )
        return real, state_after, meta_loss, gradient

    real, state_after, meta_loss, gradient = step(x, meta_x)
    np.testing.assert_allclose(meta_loss, expected_loss, rtol=1e-10)
    plain = plain_meta_gradient(
        lambda theta, x: model.network.apply(theta, state, x)[:2],
        *(loss, objective, theta, phi, x, meta_x, RATE),
    )
    for got, wanted in [
        *zip(gradient, expected, strict=True),
        *zip(gradient, plain, strict=True),
        *zip(real, expected_real, strict=True),
        *zip(state_after, expected_state, strict=True),
    ]:
        np.testing.assert_allclose(got, wanted, atol=1e-11)


def test_a_virtual_step_of_the_head_moves_the_head_alone():
    model, loss, x, meta_x = conv_problem(clidmu.WNet)
    theta, phi = values(model)["theta"], values(model)["phi"]
    moves = [False] * (len(theta) - 2) + [True, True]
    seen = []

    def apply(values, state, x):
        seen.append(values)
        return model.network.apply(values, state, x)

    meta_step(
        local_forward(apply),
        loss,
        model.meta_objective_of(None),
        lambda gradient: phi,
        theta=theta,
        phi=phi,
        state=values(model)["state"],
        x=x,
        meta_x=meta_x,
        learning_rate=RATE,
        virtual=moves,
    )
    changed = [bool(np.any(a != b)) for a, b in zip(seen[0], seen[1], strict=True)]
    assert changed == moves
