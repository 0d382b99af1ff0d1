"""Which labels are likely right: the two groups that the losses fall into.

Plain NumPy and scikit-learn, once an epoch, outside of any graph.

Reference:
    Arazo et al., "Unsupervised Label Noise Modeling and Loss Correction", ICML 2019;
    with the constants of Li, Socher and Hoi, "DivideMix", ICLR 2020.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Mixture(NamedTuple):
    """Two normal distributions, the one with the lower mean first.

    Attributes:
        probability: `(n,)`, the posterior of the first component for each value.
        means: `(2,)`.
        variances: `(2,)`.
        weights: `(2,)`, the share of each component; they sum to one.
    """

    probability: Array
    means: Array
    variances: Array
    weights: Array


def clean_probability(losses: npt.ArrayLike, seed: int = 0) -> Array:
    """How likely each label is right, by its loss alone.

    It need not fall with the loss: where the low component is the narrow one, values
    below it may be likelier of the other.

    Args:
        losses: `(n,)`, one loss an example, of a network that hasn't memorised yet.
        seed: Of the k-means start. Where the groups overlap, another seed may move
            a probability by 0.2.

    Returns:
        `(n,)` in [0, 1]; ones where all losses are equal, which speak against none.

    Example:

    ```python
    from clidmu_tf.core.mixture import clean_probability

    losses = np.concatenate([np.linspace(0.0, 0.3, 60), np.linspace(2.0, 3.0, 40)])
    probability = clean_probability(losses)
    assert probability[:60].min() > 0.9 and probability[60:].max() < 0.1
    ```
    """
    return fit_mixture(min_max_scaled(losses), seed).probability


def min_max_scaled(losses: npt.ArrayLike) -> Array:
    """(ℓ − min) / (max − min) in float64; zeros where all losses are equal.

    Raises:
        ValueError: A loss is NaN or infinite.
    """
    values = np.asarray(losses, "float64").reshape(-1)
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"losses must be finite; received {values[first]} at index {first}."
        )
    if values.size == 0 or values.max() == values.min():
        return np.zeros_like(values)
    return np.asarray((values - values.min()) / (values.max() - values.min()))


def fit_mixture(values: npt.ArrayLike, seed: int = 0) -> Mixture:
    """Fits two normal distributions to scaled losses, or to the mean of several.

    Args:
        values: `(n,)`, about in [0, 1], which the fit's constants are made for.
        seed: Of the k-means start.
    """
    # Takes a second to import, which who only wants `clidmu_tf` should not wait for.
    from sklearn.mixture import GaussianMixture

    values = np.asarray(values, "float64").reshape(-1)
    floor = 5e-4
    if values.size == 0 or values.max() == values.min():
        mean = values[:1].sum()
        return Mixture(
            np.ones_like(values), np.full(2, mean), np.full(2, floor), np.eye(2)[0]
        )
    model = GaussianMixture(
        n_components=2, max_iter=10, tol=1e-2, reg_covar=floor, random_state=seed
    )
    column = values[:, None]
    model.fit(column)
    order = np.argsort(model.means_[:, 0])
    return Mixture(
        model.predict_proba(column)[:, order[0]],
        model.means_[order, 0],
        model.covariances_[order, 0, 0],
        model.weights_[order],
    )


def cleanest_per_class(
    probability: npt.ArrayLike, labels: npt.ArrayLike, count: int, num_classes: int
) -> Array:
    """The examples that most likely have a right label, as many of each class.

    Args:
        probability: `(n,)`, from `clean_probability`.
        labels: `(n,)`, the given classes, 0 to `num_classes` − 1.
        count: How many examples in all. What does not divide by the classes goes to
            the first of them; a class that has fewer than its share gives all it has,
            and no other class makes up for it.
        num_classes: Number of classes.

    Returns:
        Indices in rising order, int64, `count` at most. Of examples that are as
        likely, the first ones are taken.
    """
    probability, labels = np.asarray(probability), np.asarray(labels)
    ranking = np.argsort(-probability, kind="stable")
    share, left = divmod(count, num_classes)
    chosen = [
        ranking[labels[ranking] == label][: share + (label < left)]
        for label in range(num_classes)
    ]
    return np.sort(np.concatenate(chosen)).astype("int64")
