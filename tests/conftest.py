"""The same small machine for every test: CPU, one seed, a cleared Keras session."""

import gc
import os
import shutil
import sys
import tempfile

# Read when TensorFlow is imported, and passed on to what a test starts.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["MPLBACKEND"] = "agg"
# The user's cache is left alone, but for matplotlib's fonts: they take seconds.
os.environ.setdefault("MPLCONFIGDIR", os.path.expanduser("~/.cache/matplotlib"))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"

import keras
import pytest


@pytest.fixture(autouse=True)
def fresh_session():
    """No test sees the seed, the layer names or the dtype that another left."""
    # Without a collection of garbage, which `settled` does once a file: to look through
    # all that was traced took a tenth of the time of the tests.
    keras.backend.clear_session(free_memory=False)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def settled():
    """What a file of tests leaves alive is no garbage to those that come after it.

    To look through it takes seconds: what was traced is made of millions of objects.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def weather():
    """Rows, the index of the class of each, and its name."""
    from weather import weather  # with all of the package, which not every test needs

    return weather()


@pytest.fixture
def cli(capsys, monkeypatch):
    """Runs `train.py` in this process; returns exit code and what it printed."""
    import command  # as above

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        return command.run(sys.argv, capsys)

    return call


def pytest_collection_finish():
    """As `settled` does: what the imports left takes 0.3 s to look through."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Leaves nothing of the cache behind."""
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
