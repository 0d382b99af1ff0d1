"""A Keras classifier seen from inside: built, evaluated, saved and exported."""

import keras
import tensorflow as tf

from clidmu_tf.core.labels import to_targets
from clidmu_tf.core.losses import clid, cross_entropy
from clidmu_tf.nets.features import ends_in_softmax, features_and_logits, head_of

# CLID values compare only at one temperature; what is logged uses this one.
REFERENCE_TEMPERATURE = 0.5


class ClassifierModel(keras.Model):
    """A classifier with its features and logits at hand; training is a subclass's.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
    """

    def __init__(self, classifier, feature_layer=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(classifier, keras.Model):
            raise ValueError(
                f"classifier must be a keras.Model; received {type(classifier)}."
            )
        self.classifier = classifier
        self.feature_layer = feature_layer
        self._clid_tracker = keras.metrics.Mean("clid")

    # --- building

    def build_if_ready(self):
        """Builds now, but for a Sequential that waits for its first data."""
        classifier = self.classifier
        if classifier.built or not isinstance(classifier, keras.Sequential):
            self._build_inside()

    def build(self, input_shape=None):
        if not self.built:
            if not self.classifier.built and input_shape is not None:
                self.classifier.build(input_shape)
            self._build_inside()

    def _build_inside(self):
        inside = features_and_logits(self.classifier, self.feature_layer)
        _refuse_layers(self.classifier)
        # A function, so that Keras does not track the shared weights twice.
        self._inside = lambda: inside
        self._num_features, self.num_classes = (
            output.shape[-1] for output in inside.outputs
        )
        self._returns_probabilities = ends_in_softmax(self.classifier)
        self.build_method()
        self.built = True

    def build_method(self):
        """Creates the method's own variables."""

    def call(self, inputs, training=None):
        return self.classifier(inputs, training=training)

    def _require_built(self):
        if not self.built:
            raise ValueError(
                f"classifier {self.classifier.name!r} has no input shape yet: put "
                "keras.Input first, or fit it to arrays or a tf.data.Dataset."
            )

    # --- evaluation

    def evaluate(self, x=None, y=None, **kwargs):
        """As `keras.Model.evaluate`."""
        self._require_built()
        return super().evaluate(x, y, **kwargs)

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        features, logits = map(at_least_float32, self._inside()(x, training=False))
        self._clid_tracker.update_state(clid(features, logits, REFERENCE_TEMPERATURE))
        logs = {"clid": self._clid_tracker.result()}
        if y is not None:
            losses = cross_entropy(logits, to_targets(y, self.num_classes))
            self._loss_tracker.update_state(losses, sample_weight)
            logs["loss"] = self._loss_tracker.result()
            logs |= self.compute_metrics(x, y, self._scores(logits), sample_weight)
        return {name: logs[name] for name in ("loss", "clid", *logs) if name in logs}

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        # Keras's own returns all metrics; these are the compiled ones alone.
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(y, y_pred, sample_weight)
            return self._compile_metrics.result()
        return {}

    def _scores(self, logits):
        return tf.nn.softmax(logits) if self._returns_probabilities else logits

    def _theta(self):
        return self._inside().trainable_variables

    def _state(self):
        return self._inside().non_trainable_variables

    @property
    def head(self):
        """The classifier's last Dense layer."""
        return head_of(self.classifier)

    # --- saving

    def export(self, filepath, **kwargs):
        """Exports the classifier alone as a SavedModel; see `keras.Model.export`."""
        self.classifier.export(filepath, **kwargs)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras does not save the state of seeds; training could not go on without.
        for i, variable in enumerate(self._seeds()):
            store[f"seed_{i}"] = variable.numpy()

    def load_own_variables(self, store):
        for i, variable in enumerate(self._seeds()):
            variable.assign(store[f"seed_{i}"])
        own = [name for name in store.keys() if not name.startswith("seed_")]
        super().load_own_variables({name: store[name] for name in own})

    def _seeds(self):
        return [v for v in self.variables if "seed_generator_state" in v.path]

    def get_config(self):
        return {
            "name": self.name,
            "classifier": keras.saving.serialize_keras_object(self.classifier),
            "feature_layer": self.feature_layer,
        }

    @classmethod
    def from_config(cls, config):
        read = keras.saving.deserialize_keras_object
        return cls(
            **{k: read(v) if isinstance(v, dict) else v for k, v in config.items()}
        )


def count(x):
    """The number of examples of one input or of several."""
    return len(keras.tree.flatten(x)[0])


def at_least_float32(tensor):
    """Casts what was computed in 16 bits, for the losses."""
    half = tensor.dtype in (tf.float16, tf.bfloat16)
    return tf.cast(tensor, tf.float32) if half else tensor


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
