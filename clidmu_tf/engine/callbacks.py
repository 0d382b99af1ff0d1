"""Callbacks: the snapshot ensemble, and the metrics of every epoch."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from clidmu_tf.core.losses import clid
from clidmu_tf.engine.given import as_arrays, checked_batches, names_known
from clidmu_tf.engine.metrics import check_temperature
from clidmu_tf.engine.network import at_least_float32, count
from clidmu_tf.errors import check_finite
from clidmu_tf.files import read_arrays, write_arrays, write_text
from clidmu_tf.nets.copies import copy_of
from clidmu_tf.nets.features import features_and_logits, inputs_like, scores_of

BATCH = 100


class SnapshotEnsemble(keras.callbacks.Callback):
    """Keeps the epochs with the lowest CLID; together they predict better.

    After each epoch CLID is measured on fixed data, in fixed batches and at a fixed
    temperature, without a label. The ensemble sums the logits of the `k` epochs
    with the lowest value.

    Args:
        data: Inputs to measure CLID on, `(n, …)`, or several such in a list, tuple or
            dict; no labels.
        k: Number of snapshots, 1 or more.
        temperature: Of CLID, above 0.
        batch_size: Examples at a time; what does not fill a batch is left out,
            since CLID depends on the batch size.
        directory: Where to keep the snapshots; `None` keeps them in memory.

    Example:

    ```python
    x, y = np.random.rand(64, 4).astype("float32"), np.arange(64) % 3
    model = clidmu.CLIDMU(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    )
    model.compile(optimizer="sgd")
    snapshots = clidmu.SnapshotEnsemble(x, k=2, batch_size=32)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[snapshots])
    scores = snapshots.ensemble().predict(x, verbose=0)
    ```

    Reference:
        Hu et al., KDD 2025, arXiv:2507.11807, section 4.4.
    """

    def __init__(self, data, k=5, temperature=0.5, batch_size=100, directory=None):
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be 1 or more; received k={k}.")
        self.data = as_arrays(data)
        self.k = k
        self.temperature = check_temperature(temperature)
        self.batch_size = min(batch_size, count(self.data))
        self.directory = directory and pathlib.Path(directory)
        self.snapshots = []

    def set_model(self, model):
        if self._model not in (None, model):
            self.snapshots = []  # of another model, as in a cross-validation
        super().set_model(model)

    def on_train_begin(self, logs=None):
        self._clid = clid_of(
            self.model.served, self.model.feature_layer, self.temperature
        )

    def on_epoch_end(self, epoch, logs=None):
        epoch = self.model.epoch  # over all calls of fit, unlike Keras's
        value = mean_clid(self._clid, self.data, self.batch_size)
        check_finite("snapshot_clid", value, epoch)  # before it is kept, or written
        if logs is not None:
            logs["snapshot_clid"] = value
        weights = self.model.served.get_weights()
        kept = [s for s in self.snapshots if s[1] != epoch]
        kept = sorted([*kept, (value, epoch, weights)], key=lambda s: s[:2])
        self.snapshots = kept[: self.k]
        self._write(epoch)

    def ensemble(self):
        """Returns the snapshots as one model, exportable like any other.

        It returns the sum of the snapshots' logits, or their softmax or sigmoid where
        the classifier itself returns probabilities.
        """
        if not self.snapshots:
            raise ValueError("No epoch was trained yet, so there is no snapshot.")
        return ensemble(self.model.served, [w for _, _, w in self.snapshots])

    def members(self):
        """Returns the snapshots one by one, each a copy of the classifier."""
        if not self.snapshots:
            raise ValueError("No epoch was trained yet, so there is no snapshot.")
        return members(self.model.served, [w for _, _, w in self.snapshots])

    def restore(self, before_epoch):
        """Reads back the snapshots of a run cut short, those before an epoch."""
        self.snapshots = []
        for path in sorted(self.directory.glob("snapshot-*.npz")):
            record = read_arrays(path)
            epoch = int(record.pop("epoch"))
            if epoch < before_epoch:
                weights = [record[f"w{i}"] for i in range(len(record) - 1)]
                self.snapshots.append((float(record["clid"]), epoch, weights))
        self.snapshots.sort(key=lambda s: s[:2])

    def _write(self, now):
        """Writes this epoch's snapshot, if it is one; the others lie there already."""
        if self.directory is None:
            return
        names = {epoch: f"snapshot-{epoch:05d}.npz" for _, epoch, _ in self.snapshots}
        for path in self.directory.glob("snapshot-*.npz"):
            if path.name not in names.values():
                path.unlink()
        for value, epoch, weights in self.snapshots:
            if epoch == now:
                path = self.directory / names[epoch]
                arrays = {f"w{j}": weight for j, weight in enumerate(weights)}
                write_arrays(path, clid=value, epoch=epoch, **arrays)


def ensemble(classifier, weights, name="snapshot_ensemble"):
    """Returns a model that sums the logits of one classifier under many weights.

    Args:
        classifier: The classifier, Sequential or Functional.
        weights: A list of what `classifier.get_weights()` returned.
        name: Name of the model.

    Returns:
        A `keras.Model` from the classifier's inputs to its kind of scores.
    """
    inputs = inputs_like(classifier)
    logits = []
    for i, member in enumerate(members(classifier, weights)):
        inside = features_and_logits(member)
        inside.name = f"snapshot_{i}"
        logits.append(inside(inputs)[1])
    total = keras.layers.Add()(logits) if len(logits) > 1 else logits[0]
    return keras.Model(inputs, scores_of(classifier, total), name=name)


def members(classifier, weights):
    """Returns a copy of the classifier for each of many weights."""
    return [copy_of(classifier, values) for values in weights]


def clid_of(classifier, feature_layer, temperature):
    """Returns a compiled function: the inputs of a batch → CLID, as the model is."""
    inside = features_and_logits(classifier, feature_layer)

    @tf.function(reduce_retracing=True)
    def measure(x):
        return clid(*map(at_least_float32, inside(x, training=False)), temperature)

    return measure


def mean_clid(measure, data, batch_size):
    """The mean CLID over batches of one size, in order.

    Args:
        measure: What `clid_of` returned.
        data: Inputs, `(n, …)`; what does not fill a batch is left out.
        batch_size: Examples at a time.
    """
    starts = range(0, count(data) - batch_size + 1, batch_size)
    batches = (
        keras.tree.map_structure(lambda array, i=i: array[i : i + batch_size], data)
        for i in starts
    )
    return float(np.mean([measure(x).numpy() for x in batches]))


class ValidationCLID(keras.callbacks.Callback):
    """Adds `val_clid` to the logs of every epoch: CLID on data without labels.

    So `EarlyStopping("val_clid", mode="min")` and `ModelCheckpoint` choose an epoch
    where no label can be trusted, of any Keras classifier, however it is trained.
    It must stand before them among the callbacks. Labelled `validation_data` beside
    it gives `val_accuracy` on the labels as they are.

    Within one run a lower CLID tells the better epoch; it does not compare runs.

    Args:
        data: Inputs to measure CLID on, `(n, …)`, or several such in a list, tuple or
            dict; no labels.
        temperature: Of CLID, above 0.
        batch_size: Examples at a time; what does not fill a batch is left out,
            since CLID depends on the batch size.
        feature_layer: Name of the layer whose output is the features; `None` for
            the input of the last Dense layer.

    Example:

    ```python
    x, y = np.random.rand(64, 4).astype("float32"), np.arange(64) % 3
    unlabelled = np.random.rand(32, 4).astype("float32")
    classifier = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    )
    classifier.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    callbacks = [
        clidmu.ValidationCLID(unlabelled),
        keras.callbacks.EarlyStopping("val_clid", mode="min", patience=2),
        keras.callbacks.ModelCheckpoint(
            "best.keras", "val_clid", mode="min", save_best_only=True
        ),
    ]
    classifier.fit(x, y, epochs=5, verbose=0, callbacks=callbacks)
    ```

    Reference:
        Hu et al., KDD 2025, arXiv:2507.11807, section 4.4.
    """

    def __init__(self, data, temperature=0.5, batch_size=100, feature_layer=None):
        super().__init__()
        self.data = as_arrays(data)
        if count(self.data) < 2:
            raise ValueError(
                f"data must hold 2 or more examples; received {count(self.data)}."
            )
        self.temperature = check_temperature(temperature)
        self.batch_size = min(batch_size, count(self.data))
        self.feature_layer = feature_layer

    def on_train_begin(self, logs=None):
        classifier = getattr(self.model, "served", self.model)
        layer = self.feature_layer or getattr(self.model, "feature_layer", None)
        self._clid = clid_of(classifier, layer, self.temperature)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["val_clid"] = mean_clid(self._clid, self.data, self.batch_size)


class WeightHistogram(keras.callbacks.Callback):
    """Shows TensorBoard how far a `CLIDMU` trusts fixed labels, epoch by epoch.

    Args:
        x: Inputs of the labels to watch, as for `fit`.
        y: Their labels, as for `fit`.
        log_dir: TensorBoard's folder.

    Example:

    ```python
    x, y = np.random.rand(64, 4).astype("float32"), np.arange(64) % 3
    model = clidmu.CLIDMU(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    )
    model.compile(optimizer="sgd")
    histogram = clidmu.WeightHistogram(x, y, "logs")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[histogram])
    ```
    """

    def __init__(self, x, y, log_dir):
        super().__init__()
        self.x, self.y, self.log_dir = x, y, str(log_dir)

    def on_train_begin(self, logs=None):
        self._writer = tf.summary.create_file_writer(self.log_dir)
        self._weigh = tf.function(self.model.weigh)

    def on_epoch_end(self, epoch, logs=None):
        classes = self.model.num_classes
        batches = checked_batches(
            self.x,
            self.y,
            batch_size=BATCH,
            num_classes=classes,
            class_names=names_known(self.model.class_names, self.y, classes),
        )
        weights = np.concatenate([self._weigh(x, y) for x, y in batches])
        with self._writer.as_default():
            tf.summary.histogram("label_weights", weights / weights.mean(), step=epoch)

    def on_train_end(self, logs=None):
        self._writer.close()


class MetricsLog(keras.callbacks.Callback):
    """Writes a CSV file with one row an epoch, whole and atomically each time.

    Args:
        path: The file.
        rows: Rows of the epochs before, for a run that goes on.
    """

    def __init__(self, path, rows=()):
        super().__init__()
        self.path = pathlib.Path(path)
        self.rows = list(rows)

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.rows.append({"epoch": epoch + 1, **values})
        self.write()

    def write(self):
        """Writes the rows so far."""
        import pandas as pd

        write_text(self.path, pd.DataFrame(self.rows).to_csv(index=False))
