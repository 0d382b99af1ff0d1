"""Every setting of a run, once: type, default, help and what it may be."""

import dataclasses
import pathlib
from typing import Any

from clidmu_tf.errors import UserError
from clidmu_tf.methods import JOINED, METHODS, flags_of, method_of
from clidmu_tf.runs.settings import RunSettings, check, setting
from clidmu_tf.tuning.space import BATCH_SIZE, META_BATCH_SIZE, RATE, WARMUP

BOOLS = {"true": True, "false": False}
# What only a method with a weight net makes use of, besides settings of its own.
OF_WEIGHT_NETS = (
    *("meta_batch_size", "meta_optimizer", "meta_learning_rate", "meta_weight_decay"),
)
# What only a method that learns from unlabelled examples makes use of.
OF_UNLABELED = ("strong_augment",)


def _method_fields():
    """A field for every flag of a method; `None` stands for the method's default."""
    declared_by, methods_by = {}, {}
    for method in (*METHODS, *JOINED):
        for flag, (_, declared) in flags_of(method).items():
            if method in METHODS or flag not in declared_by:
                declared_by.setdefault(flag, declared)
                methods = methods_by.setdefault(flag, {})
                methods.setdefault(declared.default, []).append(method)
    fields = []
    for flag, declared in declared_by.items():
        defaults = "; ".join(
            f"{default} with --method={', '.join(methods)}"
            for default, methods in methods_by[flag].items()
        )
        help_text = f"{declared.setting.help} (default: {defaults})"
        field = setting(None, help_text, declared.setting.choices or None)
        fields.append((flag, declared.type, field))
    return fields


OfMethods: Any = dataclasses.make_dataclass(
    "OfMethods", _method_fields(), bases=(RunSettings,), frozen=True
)


@dataclasses.dataclass(frozen=True)
class Config(OfMethods):
    """The settings of a run; each is a flag of `train.py`."""

    def __post_init__(self):
        super().__post_init__()
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                check(field, getattr(self, field.name))
        for name in dict.fromkeys([self.method, self.full_method]):
            for flag, (_, declared) in flags_of(name).items():
                if getattr(self, flag) is None:
                    object.__setattr__(self, flag, declared.default)
        for flag, (_, declared) in flags_of(self.full_method).items():
            try:
                declared.check(f"--{flag}", getattr(self, flag))
            except ValueError as error:
                raise UserError(str(error)) from None
        if (self.noise == "none") != (self.noise_rate == 0):
            raise UserError(
                f"--noise={self.noise} and --noise_rate={self.noise_rate} do not go "
                "together: give a noise and a rate above 0, or neither."
            )
        if self.method_class.takes_meta_optimizer:
            for name in ("batch_size", "meta_batch_size"):
                if getattr(self, name) == 1:
                    raise UserError(
                        f"--{name} must be 2 or more with --method={self.method}, "
                        "since weights count relative to each other in a batch; "
                        "received 1."
                    )
        least = self.method_class.least_batch
        if self.batch_size < least:
            raise UserError(
                f"--method={self.method} needs {least} examples a batch, or more; "
                f"received --batch_size={self.batch_size}."
            )

    @property
    def full_method(self):
        """The name of the method, joined with that of its inner one if it has one."""
        joined = f"{self.method}+{getattr(self, 'inner', None)}"
        return joined if joined in JOINED else self.method

    @property
    def method_class(self):
        """The class of the method."""
        return method_of(self.full_method)

    def flags(self):
        """Returns the settings as lines of a flagfile."""
        return [
            f"--{field.name}={_text(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        ]

    def differences(self, other, but=()):
        """Returns `--name=value` of each setting that differs from another's.

        What the other's method does not have does not count: that of the method does.
        """
        names = [f.name for f in dataclasses.fields(self) if f.name not in but]
        return [
            f"--{name}={_text(getattr(other, name))}"
            for name in names
            if getattr(other, name) not in (None, getattr(self, name))
        ]

    def given(self, but=()):
        """Returns `--name=value` of each setting that is not at its default."""
        inner = self.inner if self.full_method in JOINED else None
        plain = Config(method=self.method, inner=inner)
        named = ("method", "inner") if inner else ("method",)
        return plain.differences(self, (*but, *named))

    def unused(self):
        """Returns those of the given settings that the method makes no use of."""
        others = {flag for m in (*METHODS, *JOINED) for flag in flags_of(m)}
        if not self.method_class.takes_meta_optimizer:
            others |= {*OF_WEIGHT_NETS}
        if not self.method_class.takes_unlabeled_data:
            others |= {*OF_UNLABELED}
        others -= {*flags_of(self.full_method)}
        if not self.method_class.takes_meta_data(self.method_settings(1)):
            others |= {"temperature"}  # that of CLID, and it judges nothing here
        used = {field.name for field in dataclasses.fields(self)} - others
        return self.given(but=used)

    @property
    def may_go_on(self):
        """Whether a run of fewer epochs is the beginning of this one."""
        return self.lr_schedule == "constant" or self.lr_period > 0

    def searchable(self):
        """Returns what may be searched, and how: `tuning.space` says."""
        found = {"batch_size": BATCH_SIZE, "learning_rate": RATE}
        if self.method_class.takes_meta_optimizer:
            found |= {"meta_learning_rate": RATE, "meta_batch_size": META_BATCH_SIZE}
        for flag, (_, declared) in flags_of(self.full_method).items():
            if declared.setting.in_epochs:
                found[flag] = WARMUP
            elif declared.setting.search is not None:
                found[flag] = declared
        return found

    def method_settings(self, steps):
        """Returns what the method's constructor is given.

        Args:
            steps: Steps of an epoch, for what flags count in epochs.
        """
        return {
            name: getattr(self, flag) * steps
            if declared.setting.in_epochs
            else getattr(self, flag)
            for flag, (name, declared) in flags_of(self.full_method).items()
        }

    def replace(self, **changes):
        """Returns a copy with some settings changed."""
        return dataclasses.replace(self, **changes)


def read(path):
    """Returns the Config that a run wrote into its workdir.

    Raises:
        UserError: The file does not hold one.
    """
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    values = {}
    try:
        text = pathlib.Path(path).read_text("utf-8", "surrogateescape")
        for line in filter(None, text.splitlines()):
            if line.startswith("#"):
                continue
            name, equals, value = line.removeprefix("--").partition("=")
            if not (line.startswith("--") and equals and name in types):
                raise ValueError(f"{line!r} is no setting")
            if name in values:
                raise ValueError(f"--{name} stands in it twice")
            kind = {bool: BOOLS.__getitem__}.get(types[name], types[name])
            values[name] = kind(value)
        if not values:
            raise ValueError("it holds no setting")
        return Config(**values)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no config.cfg of a run of this version ({error}): mend it, or "
            "choose another --workdir."
        ) from error


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)
