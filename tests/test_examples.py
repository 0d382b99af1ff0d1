"""Each example runs as a person would start it, and holds what it claims."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import tensorflow as tf

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def run_example(tmp_path):
    """Runs an example in an empty folder, and returns what it printed by name."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    paths = {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}

    def run(name, *arguments):
        process = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", ROOT / "examples" / name]
            + list(arguments),
            cwd=here,
            env={**os.environ, **paths},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert process.returncode == 0, process.stderr
        assert not list(here.iterdir()) and not list(temporary.iterdir())
        found = re.findall(r"^(\S.*?)  +([\d.]+)", process.stdout, re.M)
        return {name: float(value) for name, value in found}

    return run


@pytest.mark.parametrize("name, gain", [("tabular.py", 0.15), ("text.py", 0.04)])
def test_clid_mu_is_ahead_of_cross_entropy_on_the_same_labels(name, gain, run_example):
    found = run_example(name)
    ahead = found["test accuracy, CLID-MU"] - found["test accuracy, cross-entropy"]
    assert ahead > gain


def test_own_images_are_learnt_and_served_from_the_folder_given(run_example, tmp_path):
    folder = tmp_path / "given"
    found = run_example("own_images.py", folder)
    trained = found["test accuracy, CLID-MU"]
    assert trained > found["test accuracy, cross-entropy"] + 0.04
    assert found["test accuracy, served"] == pytest.approx(trained, abs=0.005)
    assert len(list(folder.glob("train/*/*.png"))) == 600
    assert tf.saved_model.contains_saved_model(str(folder / "served"))


def test_labels_found_and_fixed_train_a_better_classifier(run_example):
    found = run_example("find_and_fix_labels.py")
    assert found["wrong after fixing"] < found["wrong labels"] / 2
    assert found["test accuracy, after"] > found["test accuracy, before"] + 0.05


def test_each_is_short():
    examples = sorted((ROOT / "examples").glob("*.py"))
    assert len(examples) == 4
    for path in examples:
        lines = [line.strip() for line in path.read_text().splitlines()]
        code = [line for line in lines if line and not line.startswith("#")]
        assert len(code) < 60, path
