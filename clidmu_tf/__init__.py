"""Learning with wrong labels, without a clean one (CLID-MU) in Keras 3."""

from clidmu_tf.core.losses import clid
from clidmu_tf.data import noise
from clidmu_tf.engine.callbacks import SnapshotEnsemble, ValidationCLID, WeightHistogram
from clidmu_tf.engine.metrics import CLID
from clidmu_tf.methods.clid_mu import CLIDMU
from clidmu_tf.methods.cross_entropy import CrossEntropy
from clidmu_tf.methods.elr import ELR
from clidmu_tf.methods.gce import GCE
from clidmu_tf.methods.label_smoothing import LabelSmoothing
from clidmu_tf.methods.mae import MAE
from clidmu_tf.methods.mixup import MixUp
from clidmu_tf.methods.mw_net import MWNet
from clidmu_tf.methods.noisy_mw_net import NoisyMWNet
from clidmu_tf.methods.small_loss import SmallLoss
from clidmu_tf.methods.variational_rectification import VariationalRectification
from clidmu_tf.nets.weight_nets import VRI, WNet
from clidmu_tf.reports.audit import audit
from clidmu_tf.tuning.tune import tune

__version__ = "0.1.0"

__all__ = [
    "CLID",
    "CLIDMU",
    "ELR",
    "GCE",
    "MAE",
    "VRI",
    "CrossEntropy",
    "LabelSmoothing",
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
    "tune",
]
