"""Who follows CONTRIBUTING.md has a method that is under the whole contract."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(r"<!-- (file|line): (\S+) -->\n```\w*\n(.*?)^```$", re.S | re.M)
COPIED = ("clidmu_tf", "configs", "tests", "train.py", "pyproject.toml")
SHORT = ["--trials=1", "--epochs=1", "--train_examples=200", "--meta_examples=40"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, to which the example was added as it stands there."""
    copy = tmp_path_factory.mktemp("project")
    for name in COPIED:
        if (ROOT / name).is_dir():
            without = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=without)
        else:
            shutil.copy(ROOT / name, copy)
    blocks = BLOCK.findall(TEXT)
    assert [kind for kind, *_ in blocks] == ["file", "line", "file", "file"]
    for kind, path, content in blocks:
        if kind == "file":
            assert not (copy / path).exists()
            (copy / path).write_text(content)
        else:
            add_to_registry(copy / path, content)
    return copy


def add_to_registry(path, line):
    """Adds the line, and the import of its class."""
    name, method = re.fullmatch(r' *"(\w+)": (\w+),\n', line).groups()
    bring = f"from clidmu_tf.methods.{name} import {method}\n"
    text, count = re.subn(r"(METHODS: .*\n)", rf"{bring}\1{line}", path.read_text())
    assert count == 1
    path.write_text(text)


def run(command, project):
    """Runs a command as it is written, and returns what it printed."""
    first, *rest = shlex.split(command)
    assert first == "python"
    environment = {**os.environ, "PYTHONPATH": str(project)}
    found = subprocess.run(
        [sys.executable, *rest],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return found.stdout


def test_the_example_passes_the_tests_that_are_named(project):
    (command,) = re.findall(r"`(python -m pytest [^`]*)`", TEXT)
    said = run(command, project)
    # Its own, and each of the contract.
    contract = (project / "tests" / "test_methods.py").read_text()
    count = len(re.findall(r"^def test_\w+\((?:case|name)\b", contract, re.M))
    assert f"{count + 1} passed" in said


def test_the_example_is_searched(project):
    (command,) = re.findall(r"^(python train.py .*--task=tune.*)$", TEXT, re.M)
    said = run(shlex.join([*shlex.split(command), *SHORT]), project)
    assert "trimmed_limit" in said and "Best: trial 0" in said
