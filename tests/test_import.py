"""What `import clidmu_tf` costs whoever imports it: no backend, no package unasked."""

import subprocess
import sys

import pytest

import clidmu_tf as clidmu

pytestmark = pytest.mark.slow

WHEN_USED = (
    *("keras_tuner", "matplotlib", "pandas", "scipy", "sklearn"),
    *("tensorboard", "tensorflow_datasets"),
)

# Keras takes most of them where it finds them, so that what is loaded tells nothing:
# they are hidden instead, and whoever needs one at the import fails.
HIDDEN = f"""
import sys
for name in {WHEN_USED}:
    sys.modules[name] = None
import clidmu_tf
from clidmu_tf import noise
clidmu_tf.CLIDMU, clidmu_tf.SnapshotEnsemble
try:
    clidmu_tf.tune
except ImportError as error:
    print(error.name.split(".")[0])
"""

BACKEND = """
import io
import sys
import matplotlib
sys.modules["matplotlib.pyplot"] = None
import clidmu_tf
from clidmu_tf.reports import figures
figures.curves([{"epoch": 1, "accuracy": 0.5}], io.BytesIO())
print(dict.__getitem__(matplotlib.rcParams, "backend"))
"""


def said_by(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_import_loads_nothing_that_only_some_will_use():
    assert said_by(HIDDEN).strip() in WHEN_USED


def test_nobodys_matplotlib_backend_is_changed(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "svg")
    assert said_by(BACKEND).strip() == "svg"


def test_every_public_name_is_there_and_no_other():
    assert set(clidmu.__all__) <= set(dir(clidmu))
    assert all(getattr(clidmu, name) is not None for name in clidmu.__all__)
    assert not hasattr(clidmu, "colour")
