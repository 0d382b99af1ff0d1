"""MixUp: training between the examples instead of at them."""

from typing import Annotated

import keras
import tensorflow as tf

from clidmu_tf.core.mixing import mix
from clidmu_tf.engine.method import Method
from clidmu_tf.engine.settings import Setting


@keras.saving.register_keras_serializable("clidmu_tf")
class MixUp(Method):
    """Trains on cross-entropy of examples mixed in pairs, their labels alike.

    An example's partner is drawn from the whole batch, also where several devices
    share it, and one share a step from Beta(α, α). Accuracy while training is that on
    mixed inputs, and so low.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer; its
            inputs must be floating-point numbers.
        alpha: Above 0; the higher, the nearer to one half the share. The paper's: 1
            for clean labels of small images, 8 to 32 against wrong ones.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        seed: Seed of the partners and the shares.

    Example:

    ```python
    x, y = np.random.rand(8, 4).astype("float32"), np.arange(8) % 3
    classifier = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = clidmu.MixUp(classifier, alpha=8.0)
    model.compile(optimizer="sgd")
    model.fit(x, y, verbose=0)
    ```

    Reference:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """

    is_random = True

    def __init__(
        self,
        classifier,
        alpha: Annotated[
            float,
            Setting(
                "The share that an example keeps is drawn from Beta(alpha, alpha).",
                above=0,
                search=8,
            ),
        ] = 1.0,
        feature_layer=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(classifier, feature_layer, seed, alpha=alpha, **kwargs)

    def draws(self, batch, kind):
        share_seed, order_seed = self._two_seeds()
        rows = tf.range(tf.shape(batch["targets"])[0])
        return {
            "share": draw_beta(self.alpha, share_seed),
            "partners": tf.random.experimental.stateless_shuffle(rows, order_seed),
        }

    def prepare(self, x, batch):
        share, partners = batch["share"], batch["partners"]

        def with_partners(rows):
            return mix(rows, tf.gather(rows, partners), share)

        # An example's weight goes with its label, so that the loss is that of both.
        weight = batch["sample_weight"]
        mixed_weight = with_partners(weight)
        weighted = with_partners(batch["targets"] * weight[:, None])
        targets = tf.math.divide_no_nan(weighted, mixed_weight[:, None])
        mixed = {"targets": targets, "sample_weight": mixed_weight}
        x = keras.tree.map_structure(lambda x: self._mix_inputs(x, share, partners), x)
        return x, {**batch, **mixed}

    def _mix_inputs(self, x, share, partners):
        """This replica's inputs, each mixed with its partner of whatever replica."""
        check_floating(x, type(self).__name__)
        mine = self.replicas.scatter(partners, self.replicas.rows(x))
        return mix(x, tf.gather(self.replicas.gather(x), mine), share)

    def _two_seeds(self):
        seed = tf.cast(self.generator.next(), "int32")
        return tf.unstack(tf.random.split(seed, 2))


def check_floating(x, method):
    """Refuses inputs that can't be mixed."""
    if not x.dtype.is_floating:
        raise ValueError(
            f"{method} mixes inputs, which must be floating-point numbers; received "
            f"{x.dtype.name}: cast them, or embed them first."
        )


def draw_beta(alpha, seed):
    """A draw of Beta(α, α), as the share of one of two gamma variates.

    A small α makes variates that underflow to zero. So their logarithms are drawn:
    Gamma(α) is Gamma(α + 1) · U^(1/α), with U uniform (Marsaglia and Tsang, 2000).
    """
    gamma_seed, uniform_seed = tf.unstack(tf.random.split(seed, 2))
    gamma = tf.random.stateless_gamma([2], gamma_seed, alpha + 1.0, dtype="float64")
    uniform = 1 - tf.random.stateless_uniform([2], uniform_seed, dtype="float64")
    first, second = tf.unstack(tf.math.log(gamma) + tf.math.log(uniform) / alpha)
    return tf.cast(tf.sigmoid(first - second), "float32")
