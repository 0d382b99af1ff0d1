"""Weight networks: which labels to trust, from the loss or from features and label."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("clidmu_tf")
class WNet(keras.layers.Layer):
    """Meta-Weight-Net: one weight in (0, 1) from an example's loss.

    Args:
        hidden_units: Width of the one hidden ReLU layer.
        starts_even: Whether it starts with one weight for all losses, rather than
            with a slope that chance has drawn.
        least: The least weight, 0 or above and below 1.

    Call arguments:
        losses: `(n,)`, the cross-entropy of each example.

    Returns:
        `(n,)` in (0, 1).

    Example:

    ```python
    weight_net = clidmu.WNet(hidden_units=100)
    weights = weight_net(keras.ops.array([0.1, 2.3, 7.0]))
    ```

    Reference:
        Shu et al., "Meta-Weight-Net", NeurIPS 2019, section 2.
    """

    def __init__(
        self,
        hidden_units=100,
        starts_even=False,
        least=0.0,
        dtype="float32",
        **kwargs,
    ):
        # float32 whatever the classifier, or the global policy, computes in.
        super().__init__(dtype=dtype, **kwargs)
        if hidden_units < 1:
            raise ValueError(
                f"hidden_units must be 1 or more; received {hidden_units}."
            )
        self.hidden_units = hidden_units
        if not 0 <= least < 1:
            raise ValueError(f"least must be 0 or above and below 1; received {least}.")
        self.starts_even = starts_even
        self.least = least
        self.hidden = keras.layers.Dense(
            hidden_units, activation="relu", name="hidden", dtype=self.dtype_policy
        )
        self.weight = keras.layers.Dense(
            1,
            activation="sigmoid",
            kernel_initializer="zeros" if starts_even else "glorot_uniform",
            name="weight",
            dtype=self.dtype_policy,
        )

    def build(self, losses_shape=None):
        self.hidden.build((None, 1))
        self.weight.build((None, self.hidden_units))
        self.built = True

    def build_for(self, num_features, num_classes):
        """Builds for a classifier; the loss has one size whatever they are."""
        if not self.built:
            self.build()

    def call(self, losses):
        weights = ops.squeeze(self.weight(self.hidden(losses[:, None])), axis=-1)
        return self.least + (1 - self.least) * weights if self.least else weights

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "starts_even": self.starts_even,
            "least": self.least,
        }


@keras.saving.register_keras_serializable("clidmu_tf")
class VRI(keras.layers.Layer):
    """Variational rectification: a mask over the logits, from features and label.

    A posterior (μ, s) reads the features and the embedded label, a prior
    (μ', s') the features alone. The mask is `sigmoid(μ + ε·exp(s/2))`; the
    divergence of the two is returned beside it. As in the authors' code it takes the
    standard deviations where its formula wants their logarithms; no training step
    feels it, since it reads no weight of the classifier.

    Args:
        hidden_units: Widths of the tanh layers.
        embedding_dim: Size of the class embedding.
        kl_weight: Weight of the divergence in the virtual step's loss.

    Call arguments:
        features: `(n, d)`.
        targets: `(n, num_classes)`, rows that sum to one.
        noise: `(n, num_classes)`, standard normal draws ε.

    Returns:
        The mask `(n, num_classes)` in (0, 1), and the divergence, a scalar.

    Example:

    ```python
    weight_net = clidmu.VRI(hidden_units=(64, 32))
    mask, kl = weight_net(
        keras.random.normal((4, 16)),
        keras.ops.one_hot([0, 2, 1, 0], 3),
        keras.random.normal((4, 3)),
    )
    ```

    Reference:
        Sun et al., "Variational Rectification Inference for Learning with
        Noisy Labels", IJCV 2024, section 3.
    """

    def __init__(
        self,
        hidden_units=(1024, 512, 512),
        embedding_dim=64,
        kl_weight=0.01,
        dtype="float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        if kl_weight < 0:
            raise ValueError(f"kl_weight must be 0 or more; received {kl_weight}.")
        self.hidden_units = tuple(hidden_units)
        self.embedding_dim = embedding_dim
        self.kl_weight = kl_weight
        self.hidden = [
            keras.layers.Dense(
                units,
                activation="tanh",
                kernel_initializer="glorot_normal",
                name=f"hidden_{i}",
                dtype=self.dtype_policy,
            )
            for i, units in enumerate(self.hidden_units)
        ]

    def build(self, features_shape, targets_shape=None, noise_shape=None):
        self.build_for(features_shape[-1], targets_shape[-1])

    def build_for(self, num_features, num_classes):
        """Builds for a classifier with this many features and classes."""
        if self.built:
            return
        self.mean = self._head("mean", num_classes)
        self.log_variance = self._head("log_variance", num_classes)
        self.class_embedding = self.add_weight(
            shape=(num_classes, self.embedding_dim),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="class_embedding",
        )
        width = num_features + self.embedding_dim
        for layer in self.hidden:
            layer.build((None, width))
            width = layer.units
        self.mean.build((None, width))
        self.log_variance.build((None, width))
        self.built = True

    def call(self, features, targets, noise):
        embedded = ops.matmul(targets, self.class_embedding)
        mean, log_var = self._distribution(features, embedded)
        prior_mean, prior_log_var = self._distribution(
            features, ops.zeros_like(embedded)
        )
        mask = ops.sigmoid(mean + noise * ops.exp(log_var / 2))
        deviation, prior_deviation = ops.exp(log_var / 2), ops.exp(prior_log_var / 2)
        kl = ops.mean(
            (prior_deviation - deviation)
            + (ops.exp(2 * deviation) + (mean - prior_mean) ** 2)
            / (2 * ops.exp(2 * prior_deviation))
            - 0.5
        )
        return mask, kl

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "embedding_dim": self.embedding_dim,
            "kl_weight": self.kl_weight,
        }

    def _head(self, name, units):
        return keras.layers.Dense(
            units,
            kernel_initializer="glorot_normal",
            name=name,
            dtype=self.dtype_policy,
        )

    def _distribution(self, features, embedded_label):
        hidden = ops.concatenate([features, embedded_label], axis=-1)
        for layer in self.hidden:
            hidden = layer(hidden)
        return self.mean(hidden), self.log_variance(hidden)


def another(weight_net):
    """A weight net of the same kind, its weights drawn anew."""
    config = weight_net.get_config()
    return type(weight_net).from_config({**config, "name": f"peer_{weight_net.name}"})


WEIGHT_NETS = {"wnet": WNet, "vri": VRI}


def get(weight_net):
    """Returns a weight net from an instance or a name: `"wnet"` or `"vri"`."""
    if isinstance(weight_net, (WNet, VRI)):
        return weight_net
    if weight_net in WEIGHT_NETS:
        return WEIGHT_NETS[weight_net]()
    raise ValueError(
        f"weight_net must be one of {sorted(WEIGHT_NETS)} or an instance of WNet "
        f"or VRI; received {weight_net!r}."
    )
