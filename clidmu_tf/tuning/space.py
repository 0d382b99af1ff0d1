"""What a search may draw: from ranges by name, or around the values at hand."""

import math
import numbers
from collections.abc import Collection, Mapping
from typing import Any

import keras_tuner

from clidmu_tf.engine.settings import Declared, Setting
from clidmu_tf.errors import UserError

Range = tuple[float, float] | list
# How a setting is searched around its value: as its declaration says, or as one of a
# kind of its own.
How = Declared | str
BATCH_SIZE, META_BATCH_SIZE, WARMUP = "batch size", "meta batch size", "warm-up"
RATE_FACTOR = 10
RATE = Declared(Setting("A learning rate.", above=0, search=RATE_FACTOR), float, None)


def space_of_ranges(ranges: Mapping[str, Range]) -> keras_tuner.HyperParameters:
    """Returns the space that a dict of ranges describes.

    Args:
        ranges: Of each name a list, one of which is drawn, or a tuple of the lowest and
            the highest: of whole numbers evenly, both included, else on a log scale.

    Raises:
        UserError: Something else, or a range that holds nothing to draw.
    """
    if not isinstance(ranges, Mapping):
        raise UserError(
            "space must be a dict of ranges by name, such as "
            f"{{'temperature': (0.1, 2.5)}}; received {ranges!r}."
        )
    hyperparameters = keras_tuner.HyperParameters()
    for name, values in ranges.items():
        if name == "epochs":
            raise UserError(
                "space can't hold 'epochs', by which trials would not compare: give "
                "tune the most of them, and tuner='hyperband' cuts poor trials short."
            )
        if isinstance(values, list) and values and _is_of_one_kind(values):
            is_mixed = len({type(value) for value in values}) > 1
            choices = [float(value) for value in values] if is_mixed else values
            hyperparameters.Choice(name, choices)
        elif not _is_range(values):
            raise UserError(
                f"space[{name!r}] must be a list of values of one kind, or a tuple of "
                f"two numbers, the lower one first; received {values!r}."
            )
        elif all(isinstance(end, numbers.Integral) for end in values):
            hyperparameters.Int(name, int(values[0]), int(values[1]))
        elif values[0] > 0:
            low, high = map(float, values)
            hyperparameters.Float(name, low, high, sampling="log")
        else:
            raise UserError(
                f"space[{name!r}] is drawn on a log scale, so it must start above 0; "
                f"received {values!r}: give a list to have other values."
            )
        if name == "batch_size":
            for size in values:
                check_count(f"space[{name!r}]", size)
    return hyperparameters


def check_count(name: str, count: Any) -> None:
    """Raises a UserError where this is no number of examples, trials or epochs."""
    if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1:
        raise UserError(f"{name} takes whole numbers, 1 or more; received {count!r}.")


def _is_of_one_kind(values: list) -> bool:
    if all(isinstance(value, numbers.Real) for value in values):
        return len({isinstance(value, bool) for value in values}) == 1
    return all(isinstance(value, str) for value in values)


def _is_range(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) == 2
        and all(isinstance(end, numbers.Real) for end in values)
        and not any(isinstance(end, bool) for end in values)
        and values[0] < values[1]
    )


def space_around(
    names: Collection[str],
    searchable: Mapping[str, How],
    base: Mapping[str, Any],
    epochs: int,
    examples: int,
    meta_examples: int | None = None,
) -> keras_tuner.HyperParameters:
    """Returns the space to search: each setting around the value that it has.

    Args:
        names: Some of `searchable`.
        searchable: What may be searched, and how.
        base: The value that each has.
        epochs: Epochs of a trial; a warm-up takes up to a fifth of them.
        examples: Training examples; no batch is larger.
        meta_examples: Those of them that meta batches are drawn from; `None` for all.

    Returns:
        `keras_tuner.HyperParameters`.

    Raises:
        UserError: There is nothing to search under such a name, or around such a
            value.
    """
    hyperparameters = keras_tuner.HyperParameters()
    for name in names or [""]:
        if name not in searchable:
            raise UserError(
                f"A search takes {', '.join(searchable)}; received {name!r}."
            )
        value, how = base[name], searchable[name]
        if isinstance(how, Declared):
            _as_declared(hyperparameters, name, value, how)
        elif how == WARMUP:
            hyperparameters.Int(name, 0, max(1, epochs // 5))
        elif how == BATCH_SIZE:
            sizes = batch_sizes(value, examples)
            hyperparameters.Choice(name, sizes, default=value)
        else:  # 0: the batch's own inputs
            most = min(examples, meta_examples or examples)
            sizes = batch_sizes(value or base["batch_size"], most)
            hyperparameters.Choice(name, [0, *sizes], default=value)
    return hyperparameters


def _as_declared(
    hyperparameters: keras_tuner.HyperParameters, name: str, value: Any, how: Declared
) -> None:
    """Adds a setting: its choices and its value, or from a part to a multiple of it."""
    search = how.setting.search
    if isinstance(search, tuple):
        choices = dict.fromkeys(how.type(choice) for choice in (*search, value))
        hyperparameters.Choice(name, list(choices), default=how.type(value))
        return
    if not value > 0:
        raise UserError(f"{name} must be above 0 to be searched; received {value}.")
    low, high = _ends(how.setting, search or 1.0, value)
    if how.type is int:
        low, high = max(math.ceil(low), 1), math.floor(high)
        hyperparameters.Int(name, low, high, sampling="log", default=value)
    else:
        hyperparameters.Float(name, low, high, sampling="log", default=value)


def _ends(setting: Setting, factor: float, value: float) -> tuple[float, float]:
    """What a factor up and down comes to, as far as a setting may go."""
    low, high = value / factor, value * factor
    if setting.least is not None:
        low = max(low, setting.least)
    if setting.above is not None and low <= setting.above:
        low = (setting.above + value) / 2  # the bound itself is none of its values
    if setting.most is not None:
        high = min(high, setting.most)
    if setting.below is not None and high >= setting.below:
        high = (setting.below + value) / 2
    return low, high


def batch_sizes(size: int, examples: int) -> list[int]:
    """Sizes from a quarter of a size to its double, as far as the data go."""
    return [s for s in (size // 4, size // 2, size, 2 * size) if 0 < s <= examples]
