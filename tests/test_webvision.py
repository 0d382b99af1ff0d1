"""WebVision, from the folder as obtained to the served model, by its own recipe."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

import layouts
from clidmu_tf import data
from clidmu_tf.runs import config
from clidmu_tf.runs import tasks as run

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "webvision.cfg"
# The two sizes, and less of everything that takes a day.
SMALL = (
    "--resize_size=40",
    "--image_size=32",
    "--backbone=small_cnn",
    "--epochs=2",
    "--warmup_epochs=1",
    "--batch_size=2",
    "--snapshots=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of WebVision, prepared, and trained on as a user does it."""
    folder = tmp_path_factory.mktemp("webvision")
    copy = layouts.webvision(folder / "root")
    data_dir, workdir = str(folder / "tfds"), folder / "run"
    settings = config.read(RECIPE)
    run.TASKS["prepare"](settings.replace(manual_dir=str(copy.root), data_dir=data_dir))
    flags = [f"--flagfile={RECIPE}", f"--data_dir={data_dir}", f"--workdir={workdir}"]
    command = [sys.executable, "train.py", *flags, *SMALL]
    trained = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    return types.SimpleNamespace(
        copy=copy, data_dir=data_dir, workdir=workdir, out=trained.stdout
    )


def test_the_recipe_trains_and_reports_top_1_and_top_5(finished):
    summary = json.loads((finished.workdir / "summary.json").read_text())
    assert summary["dataset"] == "webvision/mini"
    assert summary["train_examples"] == len(finished.copy.good["train"])
    assert summary["epochs"] == 2
    assert 0 <= summary["last_accuracy"] <= summary["last_top5_accuracy"] <= 1
    assert f"{summary['last_top5_accuracy']:.4f}" in finished.out
    columns = (finished.workdir / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val_accuracy", "val_top5_accuracy", "mean_weight"} <= set(columns)


def test_evaluate_finds_what_training_reported(finished, capsys):
    run.TASKS["evaluate"](config.Config(workdir=str(finished.workdir)))
    summary = json.loads((finished.workdir / "summary.json").read_text())
    last = capsys.readouterr().out.splitlines()[-2]
    assert f"accuracy {summary['last_accuracy']:.4f}" in last
    assert f"top-5 {summary['last_top5_accuracy']:.4f}" in last
    assert f"on {len(finished.copy.good['validation'])} test labels" in last


def test_evaluate_takes_another_split(finished, capsys):
    settings = config.Config(
        workdir=str(finished.workdir), test_split="imagenet_validation"
    )
    run.TASKS["evaluate"](settings)
    assert "on 2 test labels" in capsys.readouterr().out.splitlines()[-1]


def test_the_exported_model_serves_the_50_classes(finished):
    source = data.load(
        "webvision/mini", data_dir=finished.data_dir, image_size=32, resize_size=40
    )
    batches = data.evaluation_batches(
        source.test, batch_size=3, image_shape=(32, 32, 3)
    )
    images, labels = next(batches.as_numpy_iterator())
    served = tf.saved_model.load(str(finished.workdir / "export" / "1"))
    answer = served.signatures["serving_default"](tf.constant(np.uint8(images)))
    probabilities = answer["probabilities"].numpy()
    assert probabilities.shape == (len(labels), 50)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert source.class_names[:2] == ("n00000000 tench", "n00000001 goldfish")
