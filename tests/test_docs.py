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
from clidmu_tf import config

ROOT = pathlib.Path(__file__).parent.parent
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```", re.S | re.M)


def examples():
    for path in [ROOT / "README.md", *sorted((ROOT / "clidmu_tf").rglob("*.py"))]:
        for i, (_, code) in enumerate(BLOCK.findall(path.read_text())):
            yield pytest.param(code, id=f"{path.relative_to(ROOT)}-{i}")


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


FLOORS = {
    "errors losses metrics noise labels": 0,
    "weight_nets backbones augment meta_gradient distributed features data": 1,
    "methods": 2,
    "checkpoints callbacks audit plots report export evaluation": 3,
    "config workdir strategies experiment prepare run": 4,
    "label_issues search trials tune": 4,
}
ONLY_IN = {
    "tensorflow_datasets": "data/",
    "keras_tuner": "search.py",
    "absl": "train.py",
}


def test_a_room_imports_only_lower_floors():
    floor = {name: level for names, level in FLOORS.items() for name in names.split()}
    package = ROOT / "clidmu_tf"
    for path in package.rglob("*.py"):
        if path == package / "__init__.py":
            continue
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for module in imported(path):
            parts = module.split(".")
            if parts[0] == "clidmu_tf" and len(parts) > 1 and parts[1] != room:
                assert floor[parts[1]] <= floor[room], f"{path} imports {module}"
            if parts[0] in ONLY_IN:
                place = path.relative_to(package).as_posix()
                assert place.startswith(ONLY_IN[parts[0]]), f"{path} imports {module}"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "clidmu_tf":
                yield from (f"clidmu_tf.{alias.name}" for alias in node.names)
