"""DivideMix's step, alone and with a weight net in it, by the golden numbers."""

import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.core.divide import divided_losses, unlabeled_weight
from clidmu_tf.core.losses import (
    clid,
    confidence_penalty,
    cross_entropy,
    prior_penalty,
    squared_error,
)
from clidmu_tf.core.meta_gradient import (
    local_forward,
    meta_step,
    real_gradient,
    with_momentum,
)
from clidmu_tf.core.mixing import mix, refined_targets
from golden_methods import (
    DENSE,
    METHODS,
    golden_weight_net,
    one_hot,
    two_layers,
    values,
)
from reference import VRI_NAMES

pytestmark = pytest.mark.slow

UNIFORM = tf.fill([4], tf.constant(0.25, "float64"))


def golden(name):
    return tf.constant(METHODS[name])


def number(name):
    return float(METHODS[name])


def rows_labeled(count, labeled):
    return tf.cast(tf.range(count) < int(labeled), "float64")


def assert_golden(found, prefix, names=DENSE):
    for name, tensor, expected in zip(names, found, values(prefix, names), strict=True):
        np.testing.assert_allclose(
            tensor, expected, atol=1e-9, err_msg=f"{prefix}_{name}"
        )


# --- a step of DivideMix


def agreed_targets():
    """Co-refinement and co-guessing, by the two golden networks."""
    probabilities = {}
    for net in ("net1", "net2"):
        for view in ("x", "x2", "u", "u2"):
            _, logits, _ = two_layers(values(f"dm_{net}"), [], golden(f"dm_{view}"))
            probabilities[net, view] = tf.nn.softmax(logits)
    own = (probabilities["net1", "x"] + probabilities["net1", "x2"]) / 2
    both = [
        probabilities[net, view] for net in ("net1", "net2") for view in ("u", "u2")
    ]
    heat = number("dm_sharpen_temperature")
    refined = refined_targets(
        one_hot(METHODS["dm_y"]), golden("dm_clean_prob"), own, heat
    )
    guess = tf.add_n(both) / 4
    guessed = refined_targets(guess, tf.zeros(5, "float64"), guess, heat)
    return refined, guessed


def mixed_rows():
    refined, guessed = agreed_targets()
    x = tf.concat([golden(f"dm_{view}") for view in ("x", "x2", "u", "u2")], axis=0)
    targets = tf.concat([refined, refined, guessed, guessed], axis=0)
    order, share = METHODS["dm_permutation"], number("dm_mix_lambda")
    return (mix(rows, tf.gather(rows, order), share) for rows in (x, targets))


def test_targets_and_mixtures_are_dividemixs():
    refined, guessed = agreed_targets()
    np.testing.assert_allclose(refined, METHODS["dm_refined_targets"], rtol=1e-9)
    np.testing.assert_allclose(guessed, METHODS["dm_guessed_targets"], rtol=1e-9)
    drawn = number("dm_lambda_drawn")
    assert max(drawn, 1 - drawn) == number("dm_mix_lambda")
    x, targets = mixed_rows()
    np.testing.assert_allclose(x, METHODS["dm_mixed_x"], rtol=1e-9)
    np.testing.assert_allclose(targets, METHODS["dm_mixed_targets"], rtol=1e-9)


@pytest.mark.parametrize("mode", ["eager", "xla"])
@pytest.mark.parametrize("form", ["dm", "dm_labeled_only"])
def test_losses_and_gradient_are_dividemixs(form, mode):
    x, targets = mixed_rows()
    labeled_only = form == "dm_labeled_only"
    ramp = unlabeled_weight(number("dm_epoch"), number("dm_lambda_u"), 10)
    np.testing.assert_allclose(ramp, METHODS["dm_lambda_u_now"], rtol=1e-9)
    is_labeled = rows_labeled(22, 12)

    def losses(theta):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            _, logits, _ = two_layers(theta, [], x)
            lx, lu = divided_losses(logits, targets, is_labeled)
            counts = is_labeled if labeled_only else None
            penalty = prior_penalty(logits, UNIFORM, counts=counts)
            loss = lx + penalty
            if not labeled_only:
                loss += tf.cast(ramp, loss.dtype) * lu
        return lx, lu, penalty, loss, tape.gradient(loss, theta)

    if mode == "xla":
        losses = tf.function(losses, jit_compile=True)
    theta = values("dm_net1")
    lx, lu, penalty, loss, gradient = losses(theta)
    for name, value in {"lx": lx, "penalty": penalty, "loss": loss}.items():
        np.testing.assert_allclose(value, METHODS[f"{form}_{name}"], rtol=1e-9)
    np.testing.assert_allclose(lu, METHODS["dm_lu"], rtol=1e-9)
    assert_golden(gradient, f"{form}_grad")
    assert_golden(after_sgd(theta, gradient), f"{form}_new")


def after_sgd(theta, gradient):
    """θ after the authors' optimizer, which is the full virtual step."""
    start, rate = full_start("dm", theta, number("dm_lr"))
    return [w - rate * slope for w, slope in zip(start, gradient, strict=True)]


def full_start(prefix, theta, rate):
    velocity = [-rate * buffer for buffer in values(f"{prefix}_buffer")]
    return with_momentum(
        theta,
        velocity,
        rate,
        number(f"{prefix}_momentum"),
        number(f"{prefix}_weight_decay"),
    )


def test_the_ramp_is_dividemixs():
    ramp = unlabeled_weight(METHODS["dm_ramp_epochs"], number("dm_ramp_lambda_u"), 10)
    np.testing.assert_allclose(ramp, METHODS["dm_ramp_values"], rtol=1e-9)


def test_the_confidence_penalty_is_dividemixs():
    logits = golden("dm_confidence_logits")
    with tf.GradientTape() as tape:
        tape.watch(logits)
        penalty = confidence_penalty(logits)
    np.testing.assert_allclose(penalty, METHODS["dm_confidence_penalty"], rtol=1e-9)
    slope = tape.gradient(penalty, logits)
    np.testing.assert_allclose(slope, METHODS["dm_confidence_grad"], atol=1e-9)


def test_no_labelled_row_and_no_other_row_leave_finite_losses():
    logits, targets = tf.random.normal((4, 3)), tf.one_hot([0, 1, 2, 0], 3)
    lx, lu = divided_losses(logits, targets, tf.zeros(4))
    assert lx == 0 and lu > 0
    lx, lu = divided_losses(logits, targets, tf.ones(4))
    assert lx > 0 and lu == 0
    third = tf.fill([3], 1 / 3)
    none = prior_penalty(logits, third, counts=tf.zeros(4))
    np.testing.assert_allclose(none, prior_penalty(logits, third), rtol=1e-5)


# --- with a weight net


def vri_with(bias):
    """The golden VRI; targets sum to one, so that an embedding holds its bias."""
    net = clidmu.VRI(hidden_units=(10, 6, 6), dtype="float64")
    net.build_for(8, 4)
    layers = [*net.hidden, net.mean, net.log_variance]
    for layer, (kernel, offset) in zip(layers, VRI_NAMES, strict=True):
        layer.kernel.assign(METHODS[f"dmvri_vri_{kernel}"].T)
        layer.bias.assign(METHODS[f"dmvri_vri_{offset}"])
    embedding = METHODS["dmvri_vri_label_w"].T
    net.class_embedding.assign(embedding + bias * METHODS["dmvri_vri_label_b"])
    return net


def vri_names(net):
    """The golden names of the net's variables, in their order."""
    found = {id(net.class_embedding): "label_w"}
    layers = [*net.hidden, net.mean, net.log_variance]
    for layer, (kernel, offset) in zip(layers, VRI_NAMES, strict=True):
        found |= {id(layer.kernel): kernel, id(layer.bias): offset}
    return [found[id(variable)] for variable in net.trainable_variables]


def apply_net(net, phi, *inputs):
    return net.stateless_call(phi, [], *inputs)[0]


def current(net):
    return [tf.convert_to_tensor(v.value) for v in net.trainable_variables]


FORMS = {"dmvri": (1, "full"), "dmvri_plain": (0, "plain"), "dmvri_argmax": (0, "full")}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_of_soft_targets_is_the_authors(form):
    has_bias, step = FORMS[form]
    net, targets = vri_with(has_bias), golden("dmvri_targets")
    said = targets
    if form == "dmvri_argmax":
        said = tf.one_hot(tf.argmax(targets, axis=-1), 4, dtype="float64")
    ramp = unlabeled_weight(number("dmvri_epoch"), number("dmvri_lambda_u"), 10)
    is_labeled = rows_labeled(14, METHODS["dmvri_num_labeled"])
    found = {}

    def training_loss(phi, features, logits, virtual):
        inputs = (tf.stop_gradient(features), said, golden("dmvri_vri_noise"))
        mask, kl = apply_net(net, phi, *inputs)
        lx, lu = divided_losses(mask * logits, targets, is_labeled)
        penalty = prior_penalty(logits, UNIFORM)
        loss = lx + number("dmvri_kl_weight") * kl + tf.cast(ramp, lx.dtype) * lu
        parts = {"mask": mask, "kl": kl, "lx": lx, "lu": lu, "penalty": penalty}
        found.update(parts, virtual_loss=loss + penalty)
        return loss + penalty

    moved, meta = golden_meta_step(training_loss, current(net), step)
    for name, value in found.items():
        expected = METHODS[f"{form}_{name}"]
        np.testing.assert_allclose(value, expected, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(ramp, METHODS[f"{form}_lambda_u_now"], rtol=1e-7)
    np.testing.assert_allclose(meta.meta_loss, METHODS[f"{form}_meta_loss"], rtol=1e-9)
    assert_golden(moved, f"{form}_virtual")
    names = vri_names(net)
    assert_golden(meta.meta_gradient, f"{form}_meta_grad", names)
    if has_bias:
        slope = meta.meta_gradient[names.index("label_w")]
        bias_slope = tf.reduce_sum(slope, axis=0)
        assert_golden([bias_slope], f"{form}_meta_grad", ["label_b"])


@pytest.mark.parametrize("form", ["dmwnet", "dmwnet_plain"])
def test_weights_of_soft_targets_are_the_authors(form):
    net = golden_weight_net("dmwnet")
    targets, found = golden("dmvri_targets"), {}
    is_labeled = rows_labeled(14, METHODS["dmvri_num_labeled"])

    def training_loss(phi, features, logits, virtual):
        losses = cross_entropy(logits, targets)
        weights = apply_net(net, phi, tf.stop_gradient(losses))
        shares = weights / tf.reduce_sum(weights)
        lx, lu = divided_losses(logits, targets, is_labeled, shares)
        loss = lx + number("dmvri_lambda_u_now") * lu + prior_penalty(logits, UNIFORM)
        errors = squared_error(logits, targets)
        found.update(losses=losses, squared_errors=errors, weights=weights)
        found.update(weights_normalized=shares, lx=lx, lu=lu, virtual_loss=loss)
        return loss

    step = "plain" if form == "dmwnet_plain" else "full"
    moved, meta = golden_meta_step(training_loss, current(net), step)
    for name, value in found.items():
        expected = METHODS[f"dmwnet_{name}"]
        np.testing.assert_allclose(value, expected, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(meta.meta_loss, METHODS[f"{form}_meta_loss"], rtol=1e-9)
    assert_golden(moved, f"{form}_virtual")
    assert_golden(meta.meta_gradient, f"{form}_meta_grad")


def golden_clid(features, logits):
    return clid(features, logits, number("dmvri_temperature"))


def golden_meta_step(training_loss, phi, form, objective=golden_clid):
    """A meta step on the golden batch; the moved weights, and the `MetaStep`."""
    theta, rate, start = values("dmvri_cls"), number("dmvri_virtual_lr"), None
    if form == "full":
        start, rate = full_start("dmvri", theta, rate)
    seen = []

    def apply(theta, state, x):
        seen.append(theta)
        return two_layers(theta, state, x)

    meta = meta_step(
        local_forward(apply),
        training_loss,
        objective,
        lambda gradient: phi,
        theta=theta,
        phi=phi,
        state=[],
        x=golden("dmvri_x"),
        meta_x=golden("dmvri_meta_x"),
        learning_rate=tf.constant(rate, "float64"),
        start=start,
    )
    return seen[1], meta


def test_a_whole_step_with_masks_is_the_authors():
    net, (x, targets) = vri_with(1), mixed_rows()
    names, is_labeled = vri_names(net), rows_labeled(22, 12)
    theta, meta_rate, parts = values("dm_net1"), number("dm_vri_meta_lr"), {}

    def training_loss(phi, features, logits, virtual):
        noise = golden(f"dm_vri_noise_{'virtual' if virtual else 'real'}")
        mask, kl = apply_net(net, phi, tf.stop_gradient(features), targets, noise)
        lx, lu = divided_losses(mask * logits, targets, is_labeled)
        parts["virtual" if virtual else "real"] = lx, lu
        loss = lx + number("dm_lambda_u_now") * lu + prior_penalty(logits, UNIFORM)
        return loss + number("dm_vri_kl_weight") * kl if virtual else loss

    def update(gradient):
        new = []
        for name, value, slope in zip(names, current(net), gradient, strict=True):
            if name == "label_w":  # kernel and bias of the label move both
                slope = slope + tf.reduce_sum(slope, axis=0)
            new.append(value - meta_rate * slope)
        return new

    start, rate = full_start("dm", theta, number("dm_lr"))
    meta = meta_step(
        local_forward(two_layers),
        training_loss,
        lambda features, logits: clid(features, logits, number("dm_vri_temperature")),
        update,
        theta=theta,
        phi=current(net),
        state=[],
        x=x,
        meta_x=golden("dm_vri_meta_x"),
        learning_rate=tf.constant(rate, "float64"),
        start=start,
    )
    np.testing.assert_allclose(meta.meta_loss, METHODS["dm_vri_meta_loss"], rtol=1e-9)
    others = [name for name in names if name != "label_w"]
    found = dict(zip(names, meta.phi, strict=True))
    assert_golden([found[name] for name in others], "dm_vri_new_vri", others)
    label = METHODS["dm_vri_new_vri_label_w"].T + METHODS["dm_vri_new_vri_label_b"]
    np.testing.assert_allclose(found["label_w"], label, atol=1e-9)
    for kind, prefix in (("virtual", "dm_vri_virtual_l"), ("real", "dm_vri_l")):
        for part, value in zip("xu", parts[kind], strict=True):
            np.testing.assert_allclose(value, METHODS[f"{prefix}{part}"], rtol=1e-9)
    assert_golden(meta.gradient, "dm_vri_grad")
    assert_golden(after_sgd(theta, meta.gradient), "dm_vri_new")
    virtual = real_gradient(
        lambda phi, f, z, virtual: training_loss(phi, f, z, True),
        current(net),
        meta.here,
    )
    assert_golden(after_sgd(theta, virtual), "dm_vri_virtual")


def test_the_gradient_with_soft_targets_is_that_of_finite_differences():
    net, targets = vri_with(1), golden("dmvri_targets")
    is_labeled = rows_labeled(14, 8)

    def training_loss(phi, features, logits, virtual):
        inputs = (tf.stop_gradient(features), targets, golden("dmvri_vri_noise"))
        mask, _ = apply_net(net, phi, *inputs)
        lx, lu = divided_losses(mask * logits, targets, is_labeled)
        return lx + 2.0 * lu + prior_penalty(logits, UNIFORM)

    # Not CLID, of which parts are constants for the gradient.
    def loss_of(phi):
        return golden_meta_step(
            *(training_loss, phi, "full"),
            objective=lambda features, logits: tf.reduce_mean(logits**2),
        )[1]

    phi, small = current(net), 1e-5
    gradient, generator = loss_of(phi).meta_gradient, np.random.default_rng(0)
    for _ in range(3):
        way = [generator.normal(size=value.shape) for value in phi]
        ends = [
            loss_of([v + step * w for v, w in zip(phi, way, strict=True)]).meta_loss
            for step in (small, -small)
        ]
        found = sum(np.sum(s * w) for s, w in zip(gradient, way, strict=True))
        np.testing.assert_allclose(found, (ends[0] - ends[1]) / (2 * small), rtol=1e-6)
