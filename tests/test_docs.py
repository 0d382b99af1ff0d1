"""What README and docstrings show runs as it stands there."""

import ast
import pathlib
import re
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
from clidmu_tf.runs import config

ROOT = pathlib.Path(__file__).parent.parent
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```", re.S | re.M)


def examples():
    for path in [ROOT / "README.md", *sorted((ROOT / "clidmu_tf").rglob("*.py"))]:
        for i, (_, code) in enumerate(BLOCK.findall(path.read_text())):
            yield pytest.param(code, id=f"{path.relative_to(ROOT)}-{i}")


@pytest.mark.slow
@pytest.mark.parametrize("code", examples())
def test_example_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"keras": keras, "np": np, "tf": tf, "clidmu": clidmu, **vars(clidmu)}
    exec(compile(textwrap.dedent(code), "example", "exec"), names)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.cfg")), ids=str)
def test_every_config_is_understood_and_says_how_to_run_it(path):
    lines = path.read_text().splitlines()
    settings = [line for line in lines if line and not line.startswith("#")]
    names = {field.name for field in config.dataclasses.fields(config.Config)}
    given = [line[2:].split("=")[0] for line in settings]
    assert set(given) <= names
    assert len(given) == len(set(given)), "a flag stands twice"
    assert not [line for line in settings if " --" in line]
    read = config.read(path)
    assert read.workdir == f"runs/{path.stem}"
    assert f"--flagfile=configs/{path.name}" in "\n".join(lines)


def test_every_public_name_has_an_example():
    for name in clidmu.__all__:
        found = getattr(clidmu, name)
        if callable(found):
            assert "```python" in found.__doc__, name


# From the ground up; what stands on one line are neighbours.
FLOORS = """
errors
files cluster
core
nets data
engine
methods
reports
tuning
runs
"""
ONLY_IN = {
    "tensorflow_datasets": "data/",
    "keras_tuner": "tuning/",
    "absl": "runs/cli.py",
}


def test_a_room_imports_only_lower_floors():
    floors = enumerate(FLOORS.split("\n"))
    floor = {room: level for level, rooms in floors for room in rooms.split()}
    package = ROOT / "clidmu_tf"
    found = {path.stem for path in package.iterdir() if not path.name.startswith("__")}
    assert found == set(floor), "a room without a floor, or a floor without its room"
    for path in package.rglob("*.py"):
        place = path.relative_to(package)
        for module in imported(path):
            _, *parts = parts_of = module.split(".")
            if parts_of[0] in ONLY_IN:
                is_home = place.as_posix().startswith(ONLY_IN[parts_of[0]])
                assert is_home, f"{path} imports {module}"
            room = place.parts[0].removesuffix(".py")
            if parts_of[0] == "clidmu_tf" and room in floor and parts[0] != room:
                assert floor[parts[0]] < floor[room], f"{path} imports {module}"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            whole = node.module == "clidmu_tf"
            names = [f"clidmu_tf.{alias.name}" for alias in node.names]
            yield from names if whole else [node.module]
