"""Label noise for experiments with known truth: pure functions of labels and seed.

Every function returns new labels and leaves its inputs untouched. Random numbers are
drawn in the order of the examples, so the noise of an example depends on the seed and
on its own index, label and input alone: the first `k` noisy labels are the noise
of the first `k` labels (given `num_classes`: `None` reads it off the labels).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Array = np.ndarray | Sequence
Mistakes = Mapping[int, int] | Sequence[int]  # what each class turns into

# CIFAR-10: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.
CIFAR10_PAIRS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

# CIFAR-100: the superclass (0-19) of each of the 100 fine classes, both numbered in
# alphabetical order (Krizhevsky, 2009, "Learning multiple layers of features").
# fmt: off
CIFAR100_SUPERCLASSES = (
     4,  1, 14,  8,  0,  6,  7,  7, 18,  3,  3, 14,  9, 18,  7, 11,  3,  9,  7, 11,
     6, 11,  5, 10,  7,  6, 13, 15,  3, 15,  0, 11,  1, 10, 12, 14, 16,  9, 11,  5,
     5, 19,  8,  8, 15, 13, 14, 17, 18, 10, 16,  4, 17,  4,  2,  0, 17,  4, 18, 17,
    10,  3,  2, 12, 12, 16, 12,  1,  9, 19,  2, 10,  0,  1, 16, 12,  9, 13, 15, 13,
    16, 19,  2,  4,  6, 19,  5,  5,  8, 19, 18,  1,  2, 15,  6,  0, 17,  8, 14, 13,
)
# fmt: on


def symmetric(
    labels: Array, rate: float, seed: int, num_classes: int | None = None
) -> np.ndarray:
    """Redraws a label uniformly over all classes with probability `rate`.

    A redrawn label may come out right: `rate * (C - 1) / C` of the labels are wrong
    (Zhang et al., 2017, "Understanding deep learning requires rethinking
    generalization", section 2).

    Args:
        labels: Integer array of shape `(n,)`, values in `[0, C)`.
        rate: Probability in `[0, 1]`.
        seed: Non-negative integer.
        num_classes: The number of classes `C`, at least 2. `None` takes the largest
            label plus one.

    Returns:
        Noisy labels of the same shape and dtype.

    Raises:
        ValueError: For a rate outside `[0, 1]`, labels that are not integers of
            shape `(n,)` in `[0, C)`, fewer than 2 classes, or a negative seed.

    Example:

    ```python
    import numpy as np
    from clidmu_tf.data import noise
    labels = np.arange(1000) % 10
    noisy = noise.symmetric(labels, 0.5, seed=0)
    print((noisy != labels).mean())  # about 0.45
    ```
    """
    labels, num_classes, rng = _checked(labels, rate, seed, num_classes)
    hit, which = rng.random((len(labels), 2)).T
    return _replace(labels, hit < rate, (which * num_classes).astype(int))


def asymmetric(
    labels: Array,
    rate: float,
    seed: int,
    num_classes: int | None = None,
    mapping: Mistakes | None = None,
) -> np.ndarray:
    """Turns a label into one fixed other class with probability `rate`.

    See Patrini et al., 2017, "Making deep neural networks robust to label noise".

    Args:
        labels, rate, seed, num_classes: As for `symmetric`.
        mapping: What each class turns into: a sequence of length `C` or a dict, such
            as `CIFAR10_PAIRS` (classes that it leaves out keep their labels). `None`
            is the next class, the last turning into the first ("pair flip").

    Returns:
        Noisy labels of the same shape and dtype.

    Raises:
        ValueError: As `symmetric`, and for a mapping of another length or with
            entries outside `[0, C)`.

    Example:

    ```python
    import numpy as np
    from clidmu_tf.data import noise
    labels = np.arange(1000) % 10
    noisy = noise.asymmetric(labels, 0.4, seed=0, mapping=noise.CIFAR10_PAIRS)
    ```
    """
    labels, num_classes, rng = _checked(labels, rate, seed, num_classes)
    targets = _mapping_table(mapping, num_classes)
    return _replace(labels, rng.random(len(labels)) < rate, targets[labels])


def flip2(
    labels: Array, rate: float, seed: int, num_classes: int | None = None
) -> np.ndarray:
    """Turns a label into one of two other classes, with probability `rate / 2` each.

    The two classes that a class is mistaken for are chosen at random by the seed
    (Shu et al., 2019, "Meta-Weight-Net", section 4.2).

    Args:
        labels, rate, seed, num_classes: As for `symmetric`, with at least 3 classes.

    Returns:
        Noisy labels of the same shape and dtype.

    Raises:
        ValueError: As `symmetric`, and for fewer than 3 classes.

    Example:

    ```python
    import numpy as np
    from clidmu_tf.data import noise
    labels = np.arange(1000) % 10
    noisy = noise.flip2(labels, 0.4, seed=0)
    ```
    """
    labels, num_classes, rng = _checked(labels, rate, seed, num_classes, fewest=3)
    order = rng.random((num_classes, num_classes))
    np.fill_diagonal(order, np.inf)  # a class is never one of its own two
    targets = order.argsort(axis=1)[:, :2]
    hit, which = rng.random((len(labels), 2)).T
    return _replace(labels, hit < rate, targets[labels, (which * 2).astype(int)])


def hierarchical(labels: Array, rate: float, seed: int, groups: Array) -> np.ndarray:
    """Turns a label into another class of its superclass with probability `rate`.

    Each other class of the superclass is equally likely; a class that is alone in its
    superclass keeps its labels (Hendrycks et al., 2018, "Using trusted data to train
    deep networks on labels corrupted by severe noise", section 4).

    Args:
        labels, rate, seed: As for `symmetric`.
        groups: Shape `(C,)`: each class's superclass, as `CIFAR100_SUPERCLASSES`.

    Returns:
        Noisy labels of the same shape and dtype.

    Raises:
        ValueError: As `symmetric`, and for groups of another kind.

    Example:

    ```python
    import numpy as np
    from clidmu_tf.data import noise
    labels = np.arange(1000) % 4
    noisy = noise.hierarchical(labels, 0.5, seed=0, groups=[0, 0, 1, 1])
    ```
    """
    groups = _integers("groups", groups)
    labels, _, rng = _checked(labels, rate, seed, len(groups))
    # With the classes sorted by group, a group is a run of `size` classes; another
    # member of it stands 1 to size - 1 places further, around the circle.
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    first, size = (np.cumsum(size) - size)[group][labels], size[group][labels]
    members = groups.argsort(kind="stable")
    place = members.argsort()[labels] - first
    hit, which = rng.random((len(labels), 2)).T
    place = (place + 1 + (which * (size - 1)).astype(int)) % size
    return _replace(labels, hit < rate, members[first + place])


def instance(
    labels: Array,
    rate: float,
    seed: int,
    inputs: Array,
    num_classes: int | None = None,
) -> np.ndarray:
    """Noise that depends on the input: unlike others, some inputs are easily mistaken.

    Example i is mistaken with its own probability q_i, drawn from normal(rate, 0.1²);
    what for, is drawn from softmax(x_i A_y) over the other classes, A_y a random
    matrix of its class (Xia et al., 2020, "Part-dependent label noise", Algorithm 2).

    Two choices are ours. The normal is cut off at the same distance on both sides,
    min(rate, 1 - rate), where the paper cuts at 0 and 1: then the mean of q_i is
    `rate` exactly, and the rates 0 and 1 mean none and all. And x_i is brought to mean
    0 and variance 1 by itself, not by a data set's statistics, so that its noise is the
    same in every subset; a constant x_i is mistaken for all other classes alike.

    Args:
        labels, rate, seed, num_classes: As for `symmetric`; `rate` is the mean.
        inputs: Real array of shape `(n, ...)`; its scale does not matter.

    Returns:
        Noisy labels of the same shape and dtype.

    Raises:
        ValueError: As `symmetric`, and for inputs of another length or not finite.

    Example:

    ```python
    import numpy as np
    from clidmu_tf.data import noise
    labels = np.arange(1000) % 10
    images = np.random.default_rng(0).random((1000, 8, 8, 1))
    noisy = noise.instance(labels, 0.4, seed=0, inputs=images)
    print((noisy != labels).mean())  # about 0.4
    ```
    """
    labels, num_classes, _ = _checked(labels, rate, seed, num_classes)
    inputs = np.asarray(inputs)
    if inputs.ndim < 1 or len(inputs) != len(labels):
        received = f"shape {inputs.shape}" if inputs.ndim else inputs
        raise ValueError(f"inputs must have {len(labels)} rows; received {received}.")
    # One stream for the examples and one per class: a matrix is drawn when its class
    # comes up, so that only one is held at a time.
    examples, *matrices = np.random.SeedSequence(seed).spawn(1 + num_classes)
    own_rate, hit, which = np.random.default_rng(examples).random((len(labels), 3)).T
    wrong = hit < _truncated_normal(own_rate, rate, 0.1)

    targets = labels.astype(int)
    for y in np.unique(labels):
        rows = np.flatnonzero(labels == y)
        x = _standardize_rows(inputs[rows])
        rng = np.random.default_rng(matrices[y])
        logits = x @ rng.normal(size=(x.shape[1], num_classes))
        targets[rows] = _draw_other_class(logits, y, which[rows])
    return _replace(labels, wrong, targets)


def _none(labels, rate, seed, num_classes=None):
    labels, *_ = _checked(labels, rate, seed, num_classes)
    return labels.copy()


# Each kind of noise, and the options of `apply` that it takes.
NOISES: dict[str, tuple[Callable[..., np.ndarray], tuple[str, ...]]] = {
    "none": (_none, ("num_classes",)),
    "symmetric": (symmetric, ("num_classes",)),
    "asymmetric": (asymmetric, ("num_classes", "mapping")),
    "flip2": (flip2, ("num_classes",)),
    "hierarchical": (hierarchical, ("groups",)),
    "instance": (instance, ("num_classes", "inputs")),
}


def apply(
    kind: str,
    labels: Array,
    rate: float,
    seed: int,
    *,
    num_classes: int,
    inputs: Array | None = None,
    mapping: Mistakes | None = None,
    groups: Array | None = None,
) -> np.ndarray:
    """Applies the noise named `kind`, one of `NOISES`.

    Args:
        kind: `"none"` (a copy of the labels) or a function of this module.
        labels, rate, seed, num_classes: As for `symmetric`.
        inputs, mapping, groups: What `instance` (needed), `asymmetric` and
            `hierarchical` (needed) take; the others ignore them.

    Returns:
        Noisy labels of the same shape and dtype.

    Raises:
        ValueError: For an unknown kind, a missing option, or as the function does.

    Example:

    ```python
    import numpy as np
    from clidmu_tf.data import noise
    noisy = noise.apply("flip2", np.arange(10), 0.4, seed=0, num_classes=10)
    ```
    """
    if kind not in NOISES:
        raise ValueError(f"kind must be one of {', '.join(NOISES)}; received {kind!r}.")
    if kind == "hierarchical" and (groups is None or len(groups) != num_classes):
        raise ValueError(f"groups must have length {num_classes}; received {groups!r}.")
    function, takes = NOISES[kind]
    given = dict(num_classes=num_classes, inputs=inputs, mapping=mapping, groups=groups)
    return function(labels, rate, seed, **{name: given[name] for name in takes})


def _checked(
    labels: Array, rate: float, seed: int, num_classes: int | None, fewest: int = 2
) -> tuple[np.ndarray, int, np.random.Generator]:
    """Returns the labels as an array, the number of classes and a generator."""
    labels = _integers("labels", labels)
    if not 0 <= rate <= 1:  # NaN fails too
        raise ValueError(f"rate must lie in [0, 1]; received {rate}.")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer; received {seed!r}.")
    if num_classes is None:
        num_classes = int(labels.max()) + 1 if len(labels) else 0
    if num_classes < fewest:
        raise ValueError(
            f"num_classes must be {fewest} or more; received {num_classes}."
        )
    if num_classes - 1 > np.iinfo(labels.dtype).max:
        raise ValueError(f"labels of {labels.dtype} cannot hold {num_classes} classes.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes}); received values from "
            f"{labels.min()} to {labels.max()}."
        )
    return labels, num_classes, np.random.default_rng(seed)


def _integers(name: str, values: Array) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers of shape (n,); received {values.dtype} of shape "
            f"{values.shape}."
        )
    return values


def _replace(labels, where, new):
    return np.where(where, new, labels).astype(labels.dtype)


def _mapping_table(mapping, num_classes):
    """Returns the class that each class turns into, as an array of length C."""
    table = np.arange(num_classes)
    if mapping is None:
        return (table + 1) % num_classes
    if not isinstance(mapping, dict):
        if len(mapping) != num_classes:
            raise ValueError(f"mapping needs length {num_classes}: got {mapping!r}.")
        mapping = dict(enumerate(mapping))
    for old, new in mapping.items():
        if not (0 <= old < num_classes and 0 <= new < num_classes):
            raise ValueError(
                f"mapping must stay within [0, {num_classes}); received {old} -> {new}."
            )
        table[old] = new
    return table


def _truncated_normal(uniform, mean, deviation):
    """Uniform to normal, cut off evenly within [0, 1], by a table of the inverse."""
    # scipy.stats.truncnorm is the same but for the table's 1e-6, which would move the
    # draws of every seed, and can't have the reach of 0 that the rates 0 and 1 ask for.
    reach = min(mean, 1 - mean)
    grid = np.linspace(-reach, reach, 2001)
    density = np.exp(-0.5 * (grid / deviation) ** 2)
    cumulative = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2))
    return mean + np.interp(uniform, cumulative / cumulative[-1], grid)


def _standardize_rows(inputs):
    """Flattens each row and brings it to mean 0 and variance 1 (constant ones: 0)."""
    x = inputs.reshape(len(inputs), -1).astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError("inputs must be finite; received NaN or infinite values.")
    varies = np.ptp(x, axis=1, keepdims=True) > 0
    x -= x.mean(axis=1, keepdims=True)
    return x / np.where(varies, x.std(axis=1, keepdims=True), 1)


def _draw_other_class(logits, y, uniform):
    """Draws a class other than `y` for each row from the softmax of its logits."""
    logits[:, y] = -np.inf
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulative = odds.cumsum(axis=1)
    return (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)
