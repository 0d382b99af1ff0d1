"""A Keras model around a classifier: built, evaluated, saved and exported."""

import keras
import tensorflow as tf

from clidmu_tf.core.labels import to_targets
from clidmu_tf.core.losses import clid, cross_entropy
from clidmu_tf.engine.examples import split_index, views_of
from clidmu_tf.engine.network import Network

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
        self.network = Network(self.classifier, self.feature_layer)
        self.num_classes = self.network.num_classes
        self.build_copies()
        # What predicts, with its features and logits.
        is_alone = self.served is self.classifier
        self.in_use = (
            self.network if is_alone else Network(self.served, self.feature_layer)
        )
        self.build_method()
        self.built = True

    @property
    def served(self):
        """What predicts, is evaluated and exported: the classifier, unless a method
        trains two, or averages its weights."""
        return self.classifier

    def build_copies(self):
        """Creates what there is of the classifier besides itself."""

    def build_method(self):
        """Creates the method's own variables."""

    def call(self, inputs, training=None):
        inputs = views_of(split_index(inputs)[0])[0]
        return self.served(inputs, training=training)

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
        x = views_of(split_index(x)[0])[0]
        features, logits = self.in_use(x)
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
        is_probability = self.network.returns_probabilities
        return tf.nn.softmax(logits) if is_probability else logits

    # --- saving

    def export(self, filepath, **kwargs):
        """Exports what predicts alone as a SavedModel; see `keras.Model.export`."""
        self._require_built()
        self.served.export(filepath, **kwargs)

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
