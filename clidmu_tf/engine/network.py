"""A Keras classifier from inside: its weights as tensors, its features and logits."""

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.nets.features import features_and_logits, head_of, in_columns


class Network:
    """Runs a classifier as a pure function of its weights.

    Args:
        classifier: A built Sequential or Functional model that ends in a Dense layer.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.

    Attributes:
        num_features: Width of the features.
        num_classes: Number of classes.
    """

    def __init__(self, classifier, feature_layer=None):
        self._inside = features_and_logits(classifier, feature_layer)
        _refuse_layers(classifier)
        self.classifier = classifier
        self.num_features, self.num_classes = (
            output.shape[-1] for output in self._inside.outputs
        )

    def __call__(self, x):
        """Features `(n, d)` and logits `(n, num_classes)`, as in use."""
        features, logits = self._inside(x, training=False)
        return at_least_float32(features), at_least_float32(logits)

    def apply(self, theta, state, x):
        """The classifier in training mode, a pure function of tensors.

        Returns:
            Features `(n, d)` and logits `(n, num_classes)`, at least float32, and
            the new non-trainable values.
        """
        return self._stateless(theta, state, x, training=True)

    def apply_in_use(self, theta, state, x):
        """As `apply`, without dropout and with the moving averages as they are."""
        return self._stateless(theta, state, x, training=False)

    def _stateless(self, theta, state, x, training):
        (features, logits), state = self._inside.stateless_call(
            theta, state, x, training=training
        )
        return at_least_float32(features), at_least_float32(logits), state

    def head_logits(self, theta, state, features):
        """The logits that the last Dense layer makes of its own inputs.

        Args:
            theta: The trainable values.
            state: The non-trainable values, which hold the layer's if it is frozen.
            features: `(n, d)`, inputs of the layer.
        """
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        place = {id(variable): i for i, variable in enumerate(variables)}
        head = head_of(self.classifier)
        values = [*theta, *state]
        kernel = tf.cast(values[place[id(head.kernel)]], features.dtype)
        logits = tf.matmul(features, kernel)
        if head.use_bias:
            logits += tf.cast(values[place[id(head.bias)]], features.dtype)
        return in_columns(logits)

    @property
    def has_bias(self):
        """Whether the last Dense layer has one."""
        return head_of(self.classifier).use_bias

    @property
    def moving_logits(self):
        """Of each logit 1, or 0 where a single unit leaves the first class's at 0."""
        return [0.0, 1.0] if head_of(self.classifier).units == 1 else 1.0

    @property
    def trainable_variables(self):
        """The variables of θ."""
        return self._inside.trainable_variables

    @property
    def non_trainable_variables(self):
        """The variables of the state: moving averages, seeds, frozen weights."""
        return self._inside.non_trainable_variables


def check_alike(first, second):
    """Refuses two networks that one compiled step can't serve, or that are one."""
    shapes = [[tuple(v.shape) for v in n.trainable_variables] for n in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"peer must have the layers of the classifier {first.name!r}, since both "
            f"take the same steps; {second.name!r} has weights of other shapes."
        )
    pairs = zip(first.trainable_variables, second.trainable_variables, strict=True)
    if all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs):
        raise ValueError(
            f"peer must start with other weights than {first.name!r}, or both learn "
            "the same: build it with another seed, and pass it as peer=."
        )


def values_of(variables):
    """The values of variables, as tensors."""
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def at_least_float32(tensor):
    """Casts what was computed in 16 bits, for the losses."""
    half = tensor.dtype in (tf.float16, tf.bfloat16)
    return tf.cast(tensor, tf.float32) if half else tensor


def count(x):
    """The number of examples of one input or of several."""
    return len(keras.tree.flatten(x)[0])


def _refuse_layers(classifier):
    """Refuses what a gradient through the logits alone would leave out, or lose."""
    for layer in classifier._flatten_layers():
        if layer.compute_dtype == "float16":
            raise ValueError(
                f"layer {layer.name!r} computes in float16, the virtual step of which "
                "underflows without loss scaling; use the policy 'mixed_bfloat16' or "
                "'float32'."
            )
        if layer.activity_regularizer is not None:
            raise ValueError(
                f"layer {layer.name!r} has an activity_regularizer, which the meta "
                "step does not see; use a kernel_regularizer, or weight decay."
            )
