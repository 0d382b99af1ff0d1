"""Learning with wrong labels, without a clean one (CLID-MU) in Keras 3."""

import importlib
import sys
import typing

# Keras finds by name what a saved file is made of, so that all of it is there at once.
# The command alone, which asks for none of it here, looks at its flags before it starts
# TensorFlow.
if "clidmu_tf_command" not in sys.modules:
    from clidmu_tf.core.losses import clid
    from clidmu_tf.data import noise
    from clidmu_tf.engine.callbacks import (
        SnapshotEnsemble,
        ValidationCLID,
        WeightHistogram,
    )
    from clidmu_tf.engine.metrics import CLID
    from clidmu_tf.methods.clid_mu import CLIDMU
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
    from clidmu_tf.nets.weight_nets import VRI, WNet

if typing.TYPE_CHECKING:
    from clidmu_tf.reports.audit import audit
    from clidmu_tf.reports.page import report
    from clidmu_tf.tuning.tune import tune

__version__ = "0.1.0"

__all__ = [
    "CLID",
    "CLIDMU",
    "ELR",
    "GCE",
    "MAE",
    "UDA",
    "VRI",
    "CoTeaching",
    "CrossEntropy",
    "DivideMix",
    "FixMatch",
    "FlexMatch",
    "LabelSmoothing",
    "MLNT",
    "MWNet",
    "MixUp",
    "NoisyMWNet",
    "SmallLoss",
    "VariationalRectification",
    "SnapshotEnsemble",
    "ValidationCLID",
    "WNet",
    "WeightHistogram",
    "audit",
    "clid",
    "noise",
    "report",
    "tune",
]

# Who only trains need not wait for pandas and KerasTuner: these come when asked for
# (PEP 562).
_WHEN_USED = {
    "audit": "clidmu_tf.reports.audit",
    "report": "clidmu_tf.reports.page",
    "tune": "clidmu_tf.tuning.tune",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHEN_USED[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
