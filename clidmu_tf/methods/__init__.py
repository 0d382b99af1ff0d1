"""The methods, by the names that `--method` knows them by."""

from clidmu_tf.engine.method import Method
from clidmu_tf.engine.settings import Declared, settings_of
from clidmu_tf.methods.clid_mu import CLIDMU
from clidmu_tf.methods.cross_entropy import CrossEntropy

METHODS: dict[str, type[Method]] = {
    "clid_mu": CLIDMU,
    "cross_entropy": CrossEntropy,
}


def flags_of(method: str) -> dict[str, tuple[str, Declared]]:
    """Returns the flags of a method: for each its setting's name, and what that is."""
    return {
        declared.setting.flag or f"{method}_{name}": (name, declared)
        for name, declared in settings_of(METHODS[method]).items()
    }
