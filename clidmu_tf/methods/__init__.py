"""The methods, by the names that `--method` knows them by."""

from clidmu_tf.engine.method import Method
from clidmu_tf.engine.settings import Declared, settings_of
from clidmu_tf.methods.clid_mu import CLIDMU
from clidmu_tf.methods.clid_mu_semi_supervised import (
    UDACLIDMU,
    FixMatchCLIDMU,
    FlexMatchCLIDMU,
)
from clidmu_tf.methods.clid_mu_two_networks import CoTeachingCLIDMU, DivideMixCLIDMU
from clidmu_tf.methods.co_teaching import CoTeaching
from clidmu_tf.methods.cross_entropy import CrossEntropy
from clidmu_tf.methods.dividemix import DivideMix
from clidmu_tf.methods.elr import ELR
from clidmu_tf.methods.fixmatch import FixMatch
from clidmu_tf.methods.flexmatch import FlexMatch
from clidmu_tf.methods.gce import GCE
from clidmu_tf.methods.label_smoothing import LabelSmoothing
from clidmu_tf.methods.mae import MAE
from clidmu_tf.methods.mixup import MixUp
from clidmu_tf.methods.mlnt import MLNT
from clidmu_tf.methods.mw_net import MWNet
from clidmu_tf.methods.noisy_mw_net import NoisyMWNet
from clidmu_tf.methods.small_loss import SmallLoss
from clidmu_tf.methods.uda import UDA
from clidmu_tf.methods.variational_rectification import VariationalRectification

METHODS: dict[str, type[Method]] = {
    "clid_mu": CLIDMU,
    "co_teaching": CoTeaching,
    "cross_entropy": CrossEntropy,
    "dividemix": DivideMix,
    "elr": ELR,
    "fixmatch": FixMatch,
    "flexmatch": FlexMatch,
    "gce": GCE,
    "label_smoothing": LabelSmoothing,
    "mae": MAE,
    "mixup": MixUp,
    "mlnt": MLNT,
    "mw_net": MWNet,
    "noisy_mw_net": NoisyMWNet,
    "small_loss": SmallLoss,
    "uda": UDA,
    "vri": VariationalRectification,
}


# Methods joined with an inner one, by both names.
JOINED: dict[str, type[Method]] = {
    "clid_mu+co_teaching": CoTeachingCLIDMU,
    "clid_mu+dividemix": DivideMixCLIDMU,
    "clid_mu+fixmatch": FixMatchCLIDMU,
    "clid_mu+flexmatch": FlexMatchCLIDMU,
    "clid_mu+uda": UDACLIDMU,
}

# What `import clidmu_tf` makes public.
__all__ = [method.__name__ for method in METHODS.values()]


def method_of(name: str) -> type[Method]:
    """The class of a method, or of `"outer+inner"`."""
    return METHODS[name] if name in METHODS else JOINED[name]


def flags_of(method: str) -> dict[str, tuple[str, Declared]]:
    """Returns the flags of a method: for each its setting's name, and what that is."""
    settings = settings_of(method_of(method))
    found: dict[str, str] = {}
    for part in method.split("+")[::-1]:
        theirs = [name for name in settings_of(METHODS[part]) if name in settings]
        found |= {name: part for name in theirs if name not in found}
    return {
        declared.setting.flag or f"{found[name]}_{name}": (name, declared)
        for name, declared in settings.items()
    }
