"""Learning with wrong labels, without a clean one (CLID-MU) in Keras 3."""

from clidmu_tf import noise
from clidmu_tf.audit import audit
from clidmu_tf.callbacks import SnapshotEnsemble, ValidationCLID, WeightHistogram
from clidmu_tf.losses import clid
from clidmu_tf.methods.clid_mu import CLIDMU
from clidmu_tf.methods.cross_entropy import CrossEntropy
from clidmu_tf.metrics import CLID
from clidmu_tf.tune import tune
from clidmu_tf.weight_nets import VRI, WNet

__version__ = "0.1.0"

__all__ = [
    "CLID",
    "CLIDMU",
    "VRI",
    "CrossEntropy",
    "SnapshotEnsemble",
    "ValidationCLID",
    "WNet",
    "WeightHistogram",
    "audit",
    "clid",
    "noise",
    "tune",
]
