"""Learning with wrong labels, without a clean one (CLID-MU) in Keras 3."""

from clidmu_tf.core.losses import clid
from clidmu_tf.data import noise
from clidmu_tf.engine.callbacks import SnapshotEnsemble, ValidationCLID, WeightHistogram
from clidmu_tf.engine.metrics import CLID
from clidmu_tf.methods.clid_mu import CLIDMU
from clidmu_tf.methods.cross_entropy import CrossEntropy
from clidmu_tf.methods.mlnt import MLNT
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
    "VRI",
    "CrossEntropy",
    "MLNT",
    "MWNet",
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
