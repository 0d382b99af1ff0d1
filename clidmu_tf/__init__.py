"""Learning with wrong labels, without a clean one (CLID-MU) in Keras 3."""

import importlib
import sys
import typing

__version__ = "0.1.0"

# And the methods, by the names of their classes, as the registry has them.
__all__ = [
    "CLID",
    "VRI",
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

# Keras finds by name what a saved file is made of, so that all of it is there at once.
# The command alone, which asks for none of it here, looks at its flags before it starts
# TensorFlow.
if "clidmu_tf_command" not in sys.modules:
    from clidmu_tf import methods
    from clidmu_tf.core.losses import clid
    from clidmu_tf.data import noise
    from clidmu_tf.engine.callbacks import (
        SnapshotEnsemble,
        ValidationCLID,
        WeightHistogram,
    )
    from clidmu_tf.engine.metrics import CLID
    from clidmu_tf.methods import *  # noqa: F403 - what the registry names, no more
    from clidmu_tf.nets.weight_nets import VRI, WNet

    __all__ += methods.__all__

if typing.TYPE_CHECKING:
    from clidmu_tf.reports.audit import audit
    from clidmu_tf.reports.page import report
    from clidmu_tf.tuning.tune import tune

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
