"""What the signature of a method's constructor says of its settings.

A setting is written once, where Python wants it:

    def __init__(
        self,
        classifier,
        beta: Annotated[float, Setting("Momentum of the targets.", least=0)] = 0.7,
    ):

From there come its default and check, its flag on the command line and that flag's
help, and the range that a search takes.
"""

import dataclasses
import inspect
import math
import numbers
import typing

import numpy as np

# What every method takes beside its settings.
OF_METHODS = ("feature_layer", "class_names", "seed", "name")
OF_KERAS = ("dtype", "trainable")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of a setting besides its type and default.

    Args:
        help: One sentence, the flag's help.
        choices: What it may be, of words; an object in place of a word is let through.
        least: It may be this or more.
        above: It must be more than this.
        most: It may be this or less.
        below: It must be less than this.
        search: The factor that a search goes up and down by from where it stands, or
            the values that it tries; `None` where it makes no sense to search.
        flag: Name of the flag, where it is not the method's name and the setting's.
        in_epochs: Whether the flag counts epochs where the setting counts steps.
    """

    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    search: float | tuple | None = None
    flag: str = ""
    in_epochs: bool = False

    def check(self, name: str, value: typing.Any) -> None:
        """Raises a ValueError, with the value and the way out, where it is none."""
        if self.choices:
            if isinstance(value, str) and value not in self.choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(self.choices)}; received "
                    f"{value!r}."
                )
            return
        bounds = [
            (self.least, f"{self.least} or more", lambda v, b: v >= b),
            (self.above, f"above {self.above}", lambda v, b: v > b),
            (self.most, f"{self.most} or less", lambda v, b: v <= b),
            (self.below, f"below {self.below}", lambda v, b: v < b),
        ]
        bounds = [bound for bound in bounds if bound[0] is not None]
        if not all(holds(value, bound) for bound, _, holds in bounds):
            words = " and ".join(text for _, text, _ in bounds)
            raise ValueError(f"{name} must be {words}; received {value!r}.")


@dataclasses.dataclass(frozen=True)
class Declared:
    """A setting as a constructor declares it: what is known of it, type and default."""

    setting: Setting
    type: type
    default: typing.Any

    def check(self, name: str, value: typing.Any) -> None:
        """Raises a ValueError, with the value and the way out, where it is none."""
        if self.type in (int, float):
            is_number = isinstance(value, numbers.Real | np.ndarray)
            number = float(value) if is_number else math.nan
            if self.type is int and not number.is_integer():
                raise ValueError(f"{name} must be a whole number; received {value!r}.")
            if not math.isfinite(number):
                raise ValueError(f"{name} must be a finite number; received {value!r}.")
        self.setting.check(name, value)


def settings_of(method: type) -> dict[str, Declared]:
    """Returns the settings that a method's constructor declares, by name, in order.

    Those of a method that `combines` others are theirs and its own, but for `inner`.
    """
    combined = getattr(method, "combines", ())
    if not combined:
        return _declared_by(_constructor(method))
    found = {n: d for part in combined for n, d in settings_of(part).items()}
    theirs = {base for part in combined for base in part.__mro__}
    for base in reversed(method.__mro__):
        if base not in theirs and "__init__" in vars(base):
            found |= _declared_by(vars(base)["__init__"])
    return {name: declared for name, declared in found.items() if name != "inner"}


def _declared_by(constructor: typing.Any) -> dict[str, Declared]:
    hints = typing.get_type_hints(constructor, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        extras = getattr(hints.get(name), "__metadata__", ())
        for extra in extras:
            if isinstance(extra, Setting):
                kind = typing.get_args(hints[name])[0]
                found[name] = Declared(extra, kind, parameter.default)
    return found


def _constructor(method: typing.Any) -> typing.Callable[..., None]:
    # Not what `inspect` takes a class to be called with, which is `__new__`.
    return method.__init__


def check_arguments(method: type, args: tuple, kwargs: dict[str, typing.Any]) -> None:
    """Raises a ValueError where a method can't be made with these arguments.

    Args:
        method: A class.
        args: What its constructor is given by position.
        kwargs: What it is given by name.
    """
    signature = inspect.signature(_constructor(method))
    own = [n for n in signature.parameters if n not in ("self", "args", "kwargs")]
    own = list(dict.fromkeys([*own, *settings_of(method)]))
    known = {*own, *OF_METHODS, *OF_KERAS}
    known |= {"peer"} if getattr(method, "num_networks", 1) > 1 else set()
    unknown = [name for name in kwargs if name not in known]
    if unknown:
        raise ValueError(
            f"{method.__name__} has no setting {', '.join(unknown)}; it has "
            f"{', '.join(dict.fromkeys([*own, *OF_METHODS]))}."
        )
    given = signature.bind_partial(None, *args, **kwargs).arguments
    given = {**given, **given.get("kwargs", {})}
    for name, declared in settings_of(method).items():
        if name in given:
            declared.check(name, given[name])
