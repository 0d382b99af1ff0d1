"""A Keras model around a classifier: built, evaluated, saved and exported."""

import keras

from clidmu_tf.core.labels import (
    as_labels,
    check_labels,
    names_of,
    to_index_tensor,
    to_indices,
    to_targets,
)
from clidmu_tf.core.losses import clid, mean_absolute_error
from clidmu_tf.engine.examples import split_index, views_of
from clidmu_tf.engine.given import as_arrays, check_lengths, positions_of
from clidmu_tf.engine.network import Network
from clidmu_tf.nets.features import scores_of

# CLID values compare only at one temperature; what is logged uses this one.
REFERENCE_TEMPERATURE = 0.5


class ClassifierModel(keras.Model):
    """A classifier with its features and logits at hand; training is a subclass's.

    Args:
        classifier: Sequential or Functional model that ends in a Dense layer.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.
        class_names: Names of the classes, in order, where labels are names; `None`
            takes those that are found in arrays of texts, sorted.
    """

    def __init__(self, classifier, feature_layer=None, class_names=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(classifier, keras.Model):
            raise ValueError(
                f"classifier must be a keras.Model; received {type(classifier)}."
            )
        self.classifier = classifier
        self.feature_layer = feature_layer
        self.class_names = None if class_names is None else [*map(str, class_names)]
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
        names = self.class_names
        if names is not None and len({*names}) != self.num_classes:
            raise ValueError(
                f"class_names must name the {self.num_classes} classes of "
                f"{self.classifier.name!r}, each once; received {names}."
            )
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

    # --- labels

    def indices(self, labels):
        """Labels as Keras's own machinery takes them: numbers, not names.

        Args:
            labels: In any form; `None`, and what batches hold, stay as they are.
        """
        if labels is None:
            return None
        self._require_built()
        labels = as_labels(labels)
        self.class_names = self.class_names or names_of(labels, self.num_classes)
        return to_indices(labels, self.class_names)

    def _in_form(self, data):
        """Inputs, labels and what follows them, a tuple, as Keras takes them."""
        x, y, *others = (*data, None) if len(data) == 1 else data
        return as_arrays(x), self.indices(y), *others

    # --- evaluation

    @positions_of(keras.Model.evaluate)
    def evaluate(self, x=None, y=None, **kwargs):
        """As `keras.Model.evaluate`.

        The loss, `val_loss` in `fit`, is the mean absolute error of the labels, one
        minus their mean probability. On labels of which some are wrong it falls as the
        network gets better, so that callbacks may watch it.

        Reference:
            Ghosh, Kumar and Sastry, "Robust Loss Functions under Label Noise for Deep
            Neural Networks", AAAI 2017, theorem 1.
        """
        x, y = self._in_form((x, y))
        self._require_built()
        if y is not None:
            check_lengths(x, y)
            check_labels(y, self.num_classes)
        return super().evaluate(x, y, **kwargs)

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`."""
        return super().predict(as_arrays(x), *args, **kwargs)

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = None if y is None else to_index_tensor(y, self.class_names)
        x = views_of(split_index(x)[0])[0]
        features, logits = self.in_use(x)
        self._clid_tracker.update_state(clid(features, logits, REFERENCE_TEMPERATURE))
        logs = {"clid": self._clid_tracker.result()}
        if y is not None:
            # Not cross-entropy, which the surest networks have most of on labels that
            # are wrong: it would rise as they learn what is right.
            losses = mean_absolute_error(logits, to_targets(y, self.num_classes))
            self._loss_tracker.update_state(losses, sample_weight)
            logs["loss"] = self._loss_tracker.result()
            logs |= self.compute_metrics(x, y, self._scores(logits), sample_weight)
        return {name: logs[name] for name in ("loss", "clid", *logs) if name in logs}

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        # Keras's own returns all metrics; these are the compiled ones alone.
        if self._compile_metrics is not None:
            if y_pred.shape[-1] == 1 and len(y.shape) == 2 and y.shape[-1] == 2:
                y = y[:, 1:]
            self._compile_metrics.update_state(y, y_pred, sample_weight)
            return self._compile_metrics.result()
        return {}

    def _scores(self, logits):
        return scores_of(self.classifier, logits)

    # --- saving

    def save(self, filepath, *args, **kwargs):
        """As `keras.Model.save`, to a `.keras` file."""
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"{filepath} is of the old HDF5 format, which does not hold a method's "
                "own state: save to a .keras file."
            )
        return super().save(filepath, *args, **kwargs)

    def export(self, filepath, **kwargs):
        """Exports what predicts alone as a SavedModel; see `keras.Model.export`."""
        self._require_built()
        self.served.export(filepath, **kwargs)

    def get_config(self):
        return {
            "name": self.name,
            "classifier": keras.saving.serialize_keras_object(self.classifier),
            "feature_layer": self.feature_layer,
            "class_names": self.class_names,
        }

    @classmethod
    def from_config(cls, config):
        read = keras.saving.deserialize_keras_object
        return cls(
            **{k: read(v) if isinstance(v, dict) else v for k, v in config.items()}
        )
