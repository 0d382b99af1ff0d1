"""What people do from the command line: their own tables, texts and pictures."""

import html
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import clidmu_tf as clidmu
from clidmu_tf.data import load
from clidmu_tf.reports import figures
from clidmu_tf.runs import export, tasks
from clidmu_tf.runs.batches import Reader
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.workdir import Workdir
from command import train
from texts import message

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent

layers = keras.layers


# --- own texts, tables and pictures from the command line


@pytest.fixture(scope="module")
def csv_file(tmp_path_factory):
    """200 rows: a text, numbers and words that tell the topic, a picture, labels."""
    folder, rng = tmp_path_factory.mktemp("csv"), np.random.default_rng(0)
    true = rng.integers(0, 2, 200)
    given = clidmu.noise.symmetric(true, 0.2, seed=0)
    names = np.array(["delivery", "payment"])
    amount = rng.normal(100, 30, 200) * (1 + 2 * true)
    amount[::17] = np.nan
    (folder / "pictures").mkdir()
    for i, topic in enumerate(true):
        pixels = rng.normal(60 + 120 * topic, 20, (9, 9, 3)).clip(0, 255)
        keras.utils.save_img(folder / "pictures" / f"{i}.png", pixels, scale=False)
    frame = pd.DataFrame(
        {
            "message text": [message(topic, rng) for topic in true],
            "amount": amount,
            "shop (town)": rng.choice(np.array(["Köln", "Ulm", None], object), 200),
            "paid by": np.where(true == 1, rng.choice(["card", "bank"], 200), "none"),
            "picture": [f"pictures/{i}.png" for i in range(200)],
            "topic": names[given],
            "truth": names[true],
        }
    )
    frame.to_csv(folder / "messages.csv", index=False)
    return folder / "messages.csv"


INPUTS = {
    "text": {"text_column": "message text"},
    "text_cnn": {"text_column": "message text", "backbone": "text_cnn"},
    "columns": {"feature_columns": "amount,shop (town),paid by"},
    "pictures": {"image_column": "picture", "image_size": 8},
}


def csv_run(csv_file, kind, workdir, **changes):
    settings = {
        **{"dataset": "csv", "data_dir": str(csv_file), "label_column": "topic"},
        **{"epochs": 8, "batch_size": 20, "snapshots": 2, "meta_examples": 40},
        **{"learning_rate": 0.01, "optimizer": "adam", "workdir": str(workdir)},
    }
    return Config(**{**settings, **INPUTS[kind], **changes})


@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_separates_columns_is_seen(separator, csv_file, tmp_path):
    """As spreadsheets save them where a comma is the decimal point."""
    rows = pd.read_csv(csv_file)
    rows["message text"] = "yes, and: " + rows["message text"]
    rows.to_csv(tmp_path / "other.csv", sep=separator, index=False)
    found, expected = (
        Experiment(csv_run(path, "columns", tmp_path / "run")).source
        for path in (tmp_path / "other.csv", csv_file)
    )
    assert found.class_names == expected.class_names
    np.testing.assert_array_equal(found.train.labels, expected.train.labels)
    np.testing.assert_array_equal(found.train.inputs, expected.train.inputs)


@pytest.mark.parametrize("kind", INPUTS)
def test_every_task_works_on_a_csv_file(kind, csv_file, tmp_path, capsys):
    config = csv_run(csv_file, kind, tmp_path / "run", clean_label_column="truth")
    tasks.train(config)
    workdir = Workdir(tmp_path / "run")
    summary = workdir.read_summary()
    assert summary["last_accuracy"] > 0.85
    assert 0.05 < summary["wrong_labels"] < 0.2
    for task in ("evaluate", "audit", "export"):
        tasks.TASKS[task](Config(task=task, workdir=config.workdir))
    assert summary["accuracy_on"] == "test labels"
    said = capsys.readouterr().out
    frame, count = pd.read_csv(csv_file), summary["train_examples"]
    held_out = len(frame) - count  # a tenth of them, about
    accuracy = f"accuracy {summary['last_accuracy']:.4f}"
    assert 10 <= held_out <= 30 and f"{accuracy} on {held_out} test labels" in said
    read = f"Read {count} examples to train on and {held_out} to test on, of 2 classes "
    assert f"{read}(deliv" in said
    issues = pd.read_csv(workdir.label_issues)
    assert set(issues.given_class) == {"delivery", "payment"}
    if kind != "pictures":  # those are named by their paths as well
        rows = frame.iloc[issues.id]
        assert rows.topic.tolist() == issues.given_class.tolist()
    worst = issues[issues.is_label_issue].nsmallest(1, "label_quality").id.iloc[0]
    page = html.unescape(workdir.report.read_text())
    if kind == "columns":
        assert "shop (town)" in page and frame["paid by"][worst] in page
    elif kind != "pictures":
        assert frame["message text"][worst] in page
    # What is served takes the file as it is.
    if kind == "pictures":
        return
    columns = json.loads((workdir.export / "assets.extra/columns.json").read_text())
    raw = {
        name: frame[column].to_numpy("float32")
        if column == "amount"
        else frame[column].fillna("").to_numpy(object)
        for name, column in columns.items()
    }
    found = export.load(workdir.export)(raw)
    names = (workdir.export / "assets.extra" / "labels.txt").read_text().split()
    predicted = np.array(names)[found["labels"].numpy()]
    assert np.mean(predicted == frame.truth) > 0.85


@pytest.mark.parametrize("task", ["tune", "noisy_holdout", "elr"])
def test_searches_holdouts_and_memories_work_on_texts(task, csv_file, tmp_path):
    changes = {
        "tune": {"task": "tune", "trials": 2, "epochs": 1, "tune_space": "batch_size"},
        "noisy_holdout": {"noisy_holdout": 0.2, "epochs": 2},
        "elr": {"method": "elr", "epochs": 2, "noise": "asymmetric", "noise_rate": 0.1},
    }[task]
    config = csv_run(csv_file, "text", tmp_path / "run", **changes)
    tasks.TASKS[config.task](config)
    assert (tmp_path / "run" / "config.cfg").exists()
    if task == "tune":
        table = (tmp_path / "run" / "trials.csv").read_text()
        assert "given labels" in table and "oracle" not in table
        with pytest.raises(ValueError, match="goes by right labels, and these data"):
            tasks.tune(config.replace(objective="clean_accuracy"))


def test_a_folder_of_train_and_test_files_is_used_as_it_is(csv_file, tmp_path):
    frame = pd.read_csv(csv_file)
    frame[:150].to_csv(tmp_path / "train.csv", index=False)
    frame[150:].to_csv(tmp_path / "test.csv", index=False)
    source = load(
        "csv", data_dir=tmp_path, label_column="topic", feature_columns="amount"
    )
    assert (len(source.train), len(source.test)) == (150, 50)
    assert source.class_names == ("delivery", "payment") and not source.test_is_given
    # Fitted to the training rows alone; what is missing is their mean.
    amount = frame.amount[:150]
    np.testing.assert_allclose(np.nanmean(source.train.inputs), 0, atol=1e-5)
    scaled = (frame.amount[150:].fillna(amount.mean()) - amount.mean()) / amount.std()
    np.testing.assert_allclose(source.test.inputs[:, 0], scaled, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"text_column": "body"}, "no column 'body': .* has the columns message text"),
        ({"label_column": "label"}, "no column 'label'"),
        ({"feature_columns": "amount"}, "received text and features"),
        ({"text_column": ""}, "received none"),
        ({"text_column": "topic"}, "is that of the labels"),
        ({"data_dir": "nowhere.csv"}, "nowhere.csv is not there"),
        ({"label_column": "shop (town)"}, "rows without a label in 'shop .town.*row"),
        ({"backbone": "resnet20"}, "does not take texts: use embedding_bag"),
        ({"augment": "flip"}, "--augment=flip"),
    ],
)
def test_a_csv_file_that_cannot_be_used_so_is_named(changes, words, csv_file, tmp_path):
    config = csv_run(csv_file, "text", tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=words):
        tasks.train(config)
    assert not (tmp_path / "run").exists()


# --- pictures of every kind, and what was read


KINDS = {
    "png": {},
    "jpg": {"quality": 95},
    "webp": {"lossless": True},
    "gif": {},
    "bmp": {},
    "tif": {},
    "tiff": {"compression": "tiff_lzw"},
}


def test_images_of_every_kind_are_read_and_others_counted(tmp_path, capsys):
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    for name, level in (("dark", 40), ("light", 210)):
        (root / name).mkdir(parents=True)
        for i in range(4):
            for suffix, options in KINDS.items():
                pixels = rng.normal(level, 5, (12, 10, 3)).clip(0, 255).astype("uint8")
                image = Image.fromarray(pixels)
                if suffix in ("gif", "bmp"):  # a palette, and a second frame
                    image = image.quantize(64)
                if suffix == "gif":
                    other = Image.new("P", image.size)
                    options = {"save_all": True, "append_images": [other]}
                image.save(root / name / f"{i}.{suffix}", **options)
    deep = np.full((12, 10), 200 * 257, "uint16")
    Image.fromarray(deep).save(root / "light" / "deep.tif")
    (root / "dark" / "notes.txt").write_text("none")
    (root / "dark" / "raw.heic").write_text("none")
    config = Config(
        **{"dataset": "folder", "data_dir": str(root), "image_size": 8},
        **{"backbone": "small_cnn", "epochs": 1, "batch_size": 10, "snapshots": 1},
        workdir=str(tmp_path / "run"),
    )
    source = Experiment(config).source
    assert len(source.train) + len(source.test) == 2 * 4 * len(KINDS) + 1
    batches = Reader(source, 100).in_order(source.train).as_numpy_iterator()
    means = [x.mean(axis=(1, 2, 3)) for x, _ in batches]
    expected = np.where(source.train.labels == 0, 40, 210)
    expected[source.train.ids == "light/deep.tif"] = 200
    np.testing.assert_allclose(np.concatenate(means), expected, atol=6)
    tasks.train(config)
    said = capsys.readouterr().out
    assert "of 2 classes (dark" in said and "held out, with given labels" in said
    assert "Ignored, as no images: 1 .heic, 1 .txt." in said
    assert "Accuracy on held-out given labels, some of which may be wrong:" in said
    assert "test accuracy" not in said
    summary = Workdir(tmp_path / "run").read_summary()
    assert summary["accuracy_on"].startswith("held-out given labels")
    tasks.evaluate(Config(task="evaluate", workdir=config.workdir))
    assert "held-out given labels" in capsys.readouterr().out


# --- what the terminal shows, and runs that go on


def digits_run(workdir, **changes):
    return Config(
        **{"train_examples": 300, "meta_examples": 100, "snapshots": 2, "epochs": 2},
        **{"noise": "symmetric", "noise_rate": 0.6, "workdir": str(workdir)},
        **changes,
    )


def test_lines_of_an_epoch_fit_a_terminal(tmp_path, capsys):
    tasks.train(digits_run(tmp_path / "run", noisy_holdout=0.2, learning_rate=0.001))
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if line.startswith("Epoch")]
    assert len(epochs) == 2 and "test 0." in epochs[0] and "noisy 0." in epochs[0]
    *lines, where = lines
    assert max(map(len, lines)) <= 100 and where.startswith("Everything lies in ")


def test_a_finished_run_goes_on_as_one_that_was_longer(tmp_path, capsys):
    changes = {"lr_schedule": "cosine_restarts", "lr_period": 1}
    whole = digits_run(tmp_path / "whole", **changes).replace(epochs=4)
    train(whole)
    first = digits_run(tmp_path / "parts", **changes)
    train(first)
    train(first.replace(epochs=4))
    assert "Going on at step" in capsys.readouterr().out
    one, two = (
        Workdir(tmp_path / name).metrics.read_text() for name in ("whole", "parts")
    )
    assert one == two
    assert Workdir(tmp_path / "parts").read_config().epochs == 4
    tasks.train(first.replace(epochs=4))
    assert "This run is finished" in capsys.readouterr().out


def test_a_run_whose_schedule_ended_says_why_it_cannot_go_on(tmp_path):
    first = digits_run(tmp_path / "run", lr_schedule="cosine")
    train(first)
    before = Workdir(first.workdir).config.read_text()
    with pytest.raises(ValueError, match="all of which --lr_schedule=cosine lowers"):
        tasks.train(first.replace(epochs=4))
    with pytest.raises(ValueError, match="differs in --epochs=1"):
        tasks.train(first.replace(epochs=1))
    assert Workdir(first.workdir).config.read_text() == before


def test_a_warmup_that_leaves_nothing_is_refused(tmp_path):
    config = digits_run(tmp_path / "run", warmup_epochs=2)
    with pytest.raises(
        ValueError, match="--warmup_epochs=2 takes up all of --epochs=2"
    ):
        tasks.train(config)


def test_ticks_of_a_search_are_few_numbers_that_do_not_overlap(monkeypatch):
    drawn, rng = [], np.random.default_rng(0)
    monkeypatch.setattr(figures, "_save", lambda figure, *_: drawn.append(figure))
    table = pd.DataFrame(
        {
            "batch_size": rng.choice([25, 50, 100, 200], 30),
            "temperature": np.exp(rng.uniform(np.log(0.1), np.log(2.5), 30)),
            "rate": rng.uniform(0.02, 0.09, 30),
            "warmup_epochs": rng.integers(0, 13, 30),
            "noisy_accuracy": rng.uniform(size=30),
        }
    )
    figures.trials(table, list(table.columns[:-1]), "noisy_accuracy", None)
    drawn[0].draw_without_rendering()
    for axis in drawn[0].axes:
        shown = [t for t in axis.get_xticklabels() if t.get_text()]
        assert all("^" not in t.get_text() for t in shown)
        boxes = sorted((t.get_window_extent() for t in shown), key=lambda box: box.x0)
        inside = [b for b in boxes if axis.bbox.x0 <= (b.x0 + b.x1) / 2 <= axis.bbox.x1]
        assert 2 <= len(inside) <= 6
        for one, two in zip(inside, inside[1:], strict=False):
            assert one.x1 < two.x0
    numbers = [t.get_text() for t in drawn[0].axes[0].get_xticklabels()]
    assert numbers == ["25", "50", "100", "200"]


def test_a_run_is_shown_beside_another_and_says_what_noise_comes_to(tmp_path, capsys):
    other = digits_run(tmp_path / "other", method="cross_entropy")
    tasks.train(other)
    tasks.train(digits_run(tmp_path / "run", beside=other.workdir))
    said = capsys.readouterr().out.split("Accuracy on test labels:")[-1]
    rows = dict(re.findall(r"^(\S.*?)  +([\d.]+)$", said, re.M))
    last = {path: Workdir(tmp_path / path).read_summary() for path in ("other", "run")}
    expected = {
        "cross_entropy, last epoch": last["other"]["last_accuracy"],
        "last epoch": last["run"]["last_accuracy"],
    }
    for name, accuracy in expected.items():
        assert rows[name] == f"{accuracy:.4f}"
    tasks.train(digits_run(tmp_path / "run"))
    assert "(60% were redrawn, some of which came out right)" in capsys.readouterr().out


@pytest.mark.parametrize("level", [None, "0"])
def test_tensorflow_starts_quietly_unless_asked(level, tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    environment |= {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    command = [sys.executable, ROOT / "train.py", "--task=evaluate"]
    process = subprocess.run(
        [*command, f"--workdir={tmp_path}"],
        env=environment,
        capture_output=True,
        text=True,
    )
    lines = process.stderr.splitlines()
    assert process.returncode == 2 and "holds no run" in lines[-1]
    assert (len(lines) > 1) == (level == "0")
