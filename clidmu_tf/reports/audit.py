"""Which labels are likely wrong, one row an example, without a clean label."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import ArrayLike

from clidmu_tf.core.labels import to_targets
from clidmu_tf.core.losses import cross_entropy
from clidmu_tf.engine.callbacks import SnapshotEnsemble
from clidmu_tf.engine.given import checked_batches, names_known
from clidmu_tf.engine.network import at_least_float32
from clidmu_tf.nets.features import features_and_logits

# Where another class is likelier than the given one.
THRESHOLD = 0.5


def audit(
    model: keras.Model,
    x: Any,
    y: ArrayLike | None = None,
    *,
    snapshots: SnapshotEnsemble | None = None,
    ids: ArrayLike | None = None,
    paths: ArrayLike | None = None,
    class_names: Sequence[object] | None = None,
    batch_size: int = 100,
    verbose: int = 0,
) -> pd.DataFrame:
    """Says of each label how likely it is wrong, and what it might be instead.

    A label's quality is `p_given / (p_given + p_other)`, with `p` the predicted
    probabilities and `p_other` the largest of the other classes. It is the
    probability of the given label when asked between it and its best rival, and
    falls below one half exactly where another class is likelier: there is the
    threshold. It needs no clean label and no second model, since CLID-MU keeps the
    network from learning the wrong labels of its own training data by heart. Of a
    network trained by plain cross-entropy, pass held-out data.

    Args:
        model: A trained `CLIDMU`, or any Keras classifier that ends in a Dense
            layer, with or without a softmax.
        x: Inputs as for `fit`: `(n, …)`, several such in a list, tuple or dict, or
            batches `(inputs, labels)` in a fixed order (`tf.data.Dataset`, PyDataset).
        y: Labels, as for `fit`: `(n,)`, `(n, 1)` or `(n, num_classes)`, indices or
            names; `None` with batches.
        snapshots: A `SnapshotEnsemble` that was among the callbacks of `fit`:
            probabilities are then the mean of those of the model as it is and of
            the mean over its snapshots. `None` takes the model as it is.
        ids: `(n,)` names of the examples, for a column `id`.
        paths: `(n,)` paths of their files, for a column `path`.
        class_names: Names of the classes, in order; `None` for those that the model
            knows, or that labels are.
        batch_size: Examples at a time; a dataset brings its own.
        verbose: 1 for a progress bar.

    Returns:
        A `pandas.DataFrame` in the order of the examples, its index (`index`) their
        positions, to be joined with what cleanlab returns, whose names it shares
        (`issues.join(theirs, rsuffix="_cleanlab")`):

        - `id`, `path`: as given.
        - `given_label`: class index.
        - `suggested_label`: the likeliest class (cleanlab's `predicted_label`).
        - `label_quality`: in [0, 1], the lower the more suspect.
        - `loss`: cross-entropy of the given label under the model as it is.
        - `weight`: how far the method trusts the label, mean one; NaN where it trusts
          all alike. Of `WNet`, which sees nothing but `loss`, it is
          `weight_net(loss)` over the mean of the given class.
        - `is_label_issue`: whether `label_quality` is below one half.
        - `given_class`, `suggested_class`: names of the two labels, if there are any.

    Raises:
        ValueError: Labels, ids or paths do not fit the inputs or the model, or an
            input is no number; the sentence names the first row.

    Example:

    ```python
    x = np.random.default_rng(0).normal(size=(100, 2)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    y[:10] = 1 - y[:10]
    classifier = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model = clidmu.CLIDMU(classifier)
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    model.fit(x, y, epochs=20, batch_size=20, verbose=0)
    issues = clidmu.audit(model, x, y)
    worst_first = issues[issues.is_label_issue].sort_values("label_quality")
    ```

    Reference:
        The quality is the normalised margin of Northcutt, Jiang and Chuang,
        "Confident Learning", JAIR 2021, section 3.2, on the scale of the log-odds.
    """
    score, num_classes = _scorer(model, snapshots)
    if class_names is None:
        class_names = getattr(model, "class_names", None)
    class_names = names_known(class_names, y, num_classes)
    batches = checked_batches(
        x,
        y,
        batch_size=batch_size,
        num_classes=num_classes,
        class_names=class_names,
    )
    bar = keras.utils.Progbar(None, verbose=verbose)
    parts = []
    for inputs, labels in batches:
        parts.append([part.numpy() for part in score(inputs, labels)])
        bar.update(len(parts), finalize=False)
    given, suggested, quality, losses, weights = map(
        np.concatenate, zip(*parts, strict=True)
    )
    columns = {
        **_optional_column("id", ids, len(given)),
        **_optional_column("path", paths, len(given)),
        "given_label": given,
        "suggested_label": suggested,
        "label_quality": quality,
        "loss": losses,
        "weight": weights / max(weights.mean(), np.finfo("float32").tiny),
        "is_label_issue": quality < THRESHOLD,
    }
    if class_names is not None:
        names = np.asarray(class_names)
        columns |= {
            "given_class": names[given],
            "suggested_class": names[suggested],
        }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(given), name="index"))


def _scorer(model, snapshots):
    """A compiled function of a batch: what its rows of the table say."""
    current = features_and_logits(getattr(model, "served", model))
    members = [] if snapshots is None else snapshots.members()
    earlier = [features_and_logits(member) for member in members]
    num_classes = current.outputs[1].shape[-1]
    weigh = getattr(model, "weigh", lambda x, y: None)

    def logits_of(network, x):
        return at_least_float32(network(x, training=False)[1])

    def score(x, y):
        logits = logits_of(current, x)
        probabilities = tf.nn.softmax(logits)
        if earlier:
            # The last epoch knows most, the snapshots vary least: half and half.
            votes = tf.nn.softmax(tf.stack([logits_of(n, x) for n in earlier]))
            probabilities = (probabilities + tf.reduce_mean(votes, axis=0)) / 2
        targets = to_targets(y, num_classes)
        given = tf.argmax(targets, axis=-1)
        is_given = tf.one_hot(given, num_classes, on_value=True, off_value=False)
        own = tf.reduce_max(tf.where(is_given, probabilities, 0.0), axis=-1)
        other = tf.reduce_max(tf.where(is_given, 0.0, probabilities), axis=-1)
        suggested = tf.where(own >= other, given, tf.argmax(probabilities, axis=-1))
        losses = cross_entropy(logits, targets)
        weights = weigh(x, y)
        if weights is None:
            weights = tf.fill(tf.shape(own), np.nan)
        return given, suggested, own / (own + other), losses, weights

    return tf.function(score, reduce_retracing=True), num_classes


def _optional_column(name, values, count):
    if values is None:
        return {}
    if len(values) != count:
        raise ValueError(
            f"{name}s must name all {count} examples; received {len(values)}."
        )
    return {name: np.asarray(values)}
