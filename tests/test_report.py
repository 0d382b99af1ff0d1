"""The audit's page: true to the table, harmless, small, and shown whole."""

import html
import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from clidmu_tf import WNet
from clidmu_tf.reports import figures as plots
from clidmu_tf.reports import page as report
from clidmu_tf.reports.shown import thumbnail
from clidmu_tf.runs import config
from clidmu_tf.runs import tasks as run
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.workdir import Workdir

SCRIPT = "<script>alert(1)</script>"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
)


def issues_of(given, suggested, **columns):
    quality = np.linspace(0.01, 0.99, len(given))
    return pd.DataFrame(
        {
            "given_label": given,
            "suggested_label": suggested,
            "label_quality": quality,
            "loss": -np.log(quality),
            "weight": np.ones(len(given)),
            "is_label_issue": np.not_equal(given, suggested),
            **columns,
        },
        index=pd.RangeIndex(len(given), name="index"),
    )


def text_of(page):
    """The page's text, tags left out."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@pytest.fixture(scope="module")
def page():
    """A page with everything on it, and names that mean harm."""
    rng = np.random.default_rng(0)
    given, suggested = rng.integers(0, 3, (2, 200))
    names = [SCRIPT, 'a "b" & <img src=x onerror=alert(2)>', "x" * 90]
    paths = [f"photos/{'y' * 60}/<b>{i}</b>.jpg" for i in range(200)]
    keras.utils.set_random_seed(0)
    weight_net = WNet()
    weight_net.build()
    images = rng.integers(0, 256, (200, 120, 60, 3)).astype("float32")
    rows = [
        {"epoch": i, "accuracy": 0.5, "val_accuracy": 0.6, "snapshot_clid": 4.0 - i}
        for i in (1, 2, 3)
    ]
    return report.render(
        issues_of(given, suggested, path=paths),
        names,
        title=SCRIPT,
        examples=lambda at: images[at],
        rows=rows,
        weight_net=weight_net,
    )


def test_numbers_are_those_of_the_table():
    given = np.repeat([0, 1, 2], [10, 20, 30])
    suggested = given.copy()
    suggested[:4] = 2  # 4 of 10
    suggested[10:15] = 0  # 5 of 20
    text = text_of(report.render(issues_of(given, suggested), ["ant", "bee", "cat"]))
    assert "9 of 60 labels are likely wrong, 15.0%." in text
    # The worst class first, then the matrix in the classes' own order.
    assert "ant 10 4 40.0% bee 20 5 25.0% cat 30 0 0.0%" in text
    assert "ant bee cat ant 6 · 4 bee 5 15 · cat · · 30" in text
    assert "bee → ant , 5 times ant → cat , 4 times" in text


@pytest.mark.parametrize("weight, warned", [(1.0, False), (np.nan, True)])
def test_a_network_that_may_have_learnt_labels_by_heart_is_named(weight, warned):
    issues = issues_of([0, 1, 0], [0, 1, 1]).assign(weight=weight)
    text = text_of(report.render(issues, ["ant", "bee"]))
    assert ("learnt wrong ones by heart" in text) == warned


def test_suspects_are_the_worst_by_quality_under_their_own_name():
    given = np.zeros(100, int)
    suggested = np.ones(100, int)
    table = issues_of(given, suggested, id=[f"photo-{i:03d}" for i in range(100)])
    found = report.render(table.iloc[::-1], ["no", "yes"])
    shown = re.findall(r"photo-\d{3}", found)
    assert shown == [f"photo-{i:03d}" for i in range(report.SUSPECTS)]


def test_curve_is_the_weight_nets_over_the_losses_that_labels_have(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, *_: drawn.append(figure))
    weight_net = WNet()
    weight_net.build()
    losses = np.random.default_rng(0).uniform(0, 12, 5000)
    plots.weight_curve(weight_net, losses, None)
    axis, below = drawn[0].axes
    shown, weights = axis.lines[0].get_data()
    assert shown[0] == 0 and shown[-1] == pytest.approx(12, rel=0.01)
    np.testing.assert_allclose(weights, weight_net(shown), rtol=1e-5)
    assert sum(bar.get_height() for bar in below.patches) == 5000


def test_every_name_is_escaped(page):
    assert "<script" not in page and "<b>" not in page and "<img src=x" not in page
    assert html.escape(SCRIPT) in page


def test_nothing_comes_from_elsewhere(page):
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert "url(" not in page and "@import" not in page


def test_nothing_found_is_said():
    same = np.arange(6) % 2
    text = text_of(report.render(issues_of(same, same), ["a", "b"]))
    assert "0 of 6 labels are likely wrong" in text
    assert "No label is more likely wrong than right." in text


def test_a_million_examples_of_a_thousand_classes_stay_small():
    rng = np.random.default_rng(0)
    given, suggested = rng.integers(0, 1000, (2, 1_000_000))
    names = [f"class {i} {'of many words ' * 5}" for i in range(1000)]
    noise = rng.integers(0, 256, (report.SUSPECTS, 300, 300, 3)).astype("float32")
    page = report.render(
        issues_of(given, suggested), names, examples=lambda at: noise[: len(at)]
    )
    assert len(page) < 10e6
    assert "980 are left out" in page and "900 classes with a smaller share" in page


def test_thumbnail_keeps_small_images_and_shrinks_large_ones():
    small = np.arange(8 * 8 * 3).reshape(8, 8, 3) % 256
    np.testing.assert_array_equal(decode(thumbnail(small)), small)
    large = np.full((300, 150, 1), 77)
    shrunk = decode(thumbnail(large))
    assert shrunk.shape == (96, 48, 1) and np.all(shrunk == 77)


def decode(thumbnail):
    encoded = thumbnail["uri"].removeprefix("data:image/png;base64,")
    encoded = encoded.replace("+", "-").replace("/", "_")
    return tf.io.decode_png(tf.io.decode_base64(encoded)).numpy()


WATCH = """
<body><iframe style="width: %dpx; height: 900px; border: 0" srcdoc="%s"></iframe>
<script>
  document.querySelector("iframe").onload = (event) => {
    const inside = event.target.contentDocument;
    const images = [...inside.images];
    document.title = JSON.stringify({
      images: images.length,
      shown: images.filter((image) => image.naturalWidth > 0).length,
      described: images.filter((image) => image.alt).length,
      scripts: inside.scripts.length,
      heading: inside.querySelector("h1").textContent,
      scrolls: (({scrollWidth, clientWidth}) => scrollWidth > clientWidth)(
        inside.querySelector(".matrix").parentElement),
      overflow: inside.documentElement.scrollWidth
        - inside.documentElement.clientWidth,
    });
  };
</script>
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_browser_shows_all_of_it_without_a_script(page, width, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is installed")
    # Without the policy that would stop scripts, so that escaping alone must do.
    open_page = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    assert open_page != page
    for number, shown in enumerate((page, open_page)):
        path = tmp_path / f"{number}.html"
        path.write_text(WATCH % (width, html.escape(shown)))
        process = subprocess.run(
            [
                *(browser, *QUIET, f"--user-data-dir={tmp_path / 'profile'}"),
                *("--window-size=1400,1000", "--virtual-time-budget=10000"),
                *("--dump-dom", path.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "CONSOLE" not in process.stderr, process.stderr
        title = re.search(r"<title>(.*?)</title>", process.stdout).group(1)
        assert json.loads(html.unescape(title)) == {
            "images": report.SUSPECTS + 4,
            "shown": report.SUSPECTS + 4,
            "described": report.SUSPECTS + 4,
            "scripts": 0,
            "heading": SCRIPT,
            "scrolls": width == 390,
            "overflow": 0,
        }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a run on a folder of images, a few of them misplaced."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (root / "images" / name).mkdir(parents=True)
        for i in range(30):
            pixels = rng.normal(level if i % 6 else 240 - level, 20, (9, 9, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
            image.save(root / "images" / name / f"{i:02d}.png")
    run.train(
        Config(
            **{"dataset": "folder", "data_dir": str(root / "images"), "image_size": 8},
            **{"epochs": 4, "batch_size": 9, "snapshots": 2, "meta_examples": 20},
            workdir=str(root / "run"),
        )
    )
    return Workdir(root / "run")


def test_run_leaves_table_and_page_of_its_own_labels(finished):
    table = pd.read_csv(finished.label_issues, index_col="index")
    assert list(table.columns) == [
        *("id", "path", "given_label", "suggested_label", "label_quality", "loss"),
        *("weight", "is_label_issue", "given_class", "suggested_class"),
    ]
    kept = finished.read_summary()["train_examples"]  # but for those held out
    assert table.index.tolist() == list(range(kept)) and 45 < kept < 60
    for row in table.itertuples():
        assert row.path.endswith(f"images/{row.id}")
        assert row.id.startswith(f"{row.given_class}/")
    page = finished.report.read_text()
    assert "Labels of images" in page and "Accuracy over 4 epochs" in page


def test_audit_task_writes_the_same_from_the_workdir_alone(finished):
    before = {p: p.read_bytes() for p in (finished.label_issues, finished.report)}
    for path in before:
        path.unlink()
    run.TASKS["audit"](Config(task="audit", workdir=str(finished.path)))
    for path, content in before.items():
        assert path.read_bytes() == content, path


def test_audit_task_needs_a_run(tmp_path):
    with pytest.raises(config.UserError, match="holds no run"):
        run.TASKS["audit"](Config(task="audit", workdir=str(tmp_path)))
