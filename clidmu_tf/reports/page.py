"""The page of an audit: one file, which opens anywhere and without a network."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jinja2
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import ArrayLike

from clidmu_tf.nets.weight_nets import WNet
from clidmu_tf.reports import figures

# What is shown of it, so that the page stays small however many examples there are.
SUSPECTS = 60
THUMBNAIL = 96
CLASSES = 20
CONFUSIONS = 10
TABLE_ROWS = 100

# Of the panels of curves.png, those shown, each with what to read from it.
PANELS = {
    "Accuracy": "A network that wrong labels do not mislead cannot reproduce them: on "
    "the given labels it is right no more often than they are.",
    "CLID": "How far features and predictions disagree, measured without a label. The "
    "epochs where it is lowest make the snapshot ensemble; it does not compare runs.",
}


def render(
    issues: pd.DataFrame,
    class_names: Sequence[object],
    *,
    title: str = "Label audit",
    images: Callable[[np.ndarray], Any] | None = None,
    rows: Iterable[figures.Row] = (),
    weight_net: keras.layers.Layer | None = None,
) -> str:
    """Renders what an audit found as one self-contained HTML page.

    Every name on it is escaped; pictures and charts are within. It holds at most
    60 suspects and the 20 classes with the most issues, so that it stays under
    10 MB for a million examples.

    Args:
        issues: What `clidmu.audit` returned.
        class_names: Names of the classes, in order.
        title: Title of the page.
        images: Takes positions `(k,)` and returns the images there, `(k, height,
            width, 1 or 3)` with values in 0..255; `None` shows no pictures.
        rows: The run's metrics, one dict an epoch with `epoch`; draws its curves.
        weight_net: The run's weight net, trained; of a `WNet` the learned curve is
            drawn over the losses of `issues`.

    Returns:
        The page, a string.

    Example:

    ```python
    from clidmu_tf.reports import page as report

    x = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype("float32")
    y = np.arange(20) % 2
    classifier = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    issues = clidmu.audit(classifier, x, y)
    page = report.render(issues, ["cat", "dog"], images=lambda at: x[at])
    ```
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clidmu_tf.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = [str(name) for name in class_names]
    classes = _classes(issues, names)
    return environment.get_template("report.html").render(
        title=title,
        examples=len(issues),
        found=int(issues.is_label_issue.sum()),
        has_weights=bool(issues.weight.notna().all()),
        classes=classes[:TABLE_ROWS],
        omitted_classes=max(0, len(classes) - TABLE_ROWS),
        matrix=_matrix(issues, names),
        confusions=_confusions(issues, names),
        suspects=_suspects(issues, names, images),
        charts=_charts(issues, list(rows), weight_net),
    )


def _classes(issues, names):
    """How many of each class's labels are likely wrong, the worst class first."""
    groups = issues.groupby("given_label")["is_label_issue"]
    table = groups.agg(["size", "sum", "mean"]).sort_values("mean", ascending=False)
    return [
        {"name": names[label], "size": int(size), "issues": int(issues), "rate": rate}
        for label, size, issues, rate in table.itertuples()
    ]


def _matrix(issues, names):
    """Counts of given against suggested labels, of the classes with most issues."""
    counts = pd.crosstab(issues.given_label, issues.suggested_label)
    every = range(len(names))
    counts = counts.reindex(index=every, columns=every, fill_value=0).to_numpy()
    moved = counts * (1 - np.eye(len(names), dtype=int))
    worst = np.argsort(-(moved.sum(0) + moved.sum(1)), kind="stable")
    kept = np.sort(worst[:CLASSES])
    shares = moved / np.maximum(counts.sum(1, keepdims=True), 1)
    shares = shares / max(shares.max(), 1e-9)  # the deepest colour to the largest
    return {
        "names": [names[i] for i in kept],
        "rows": [
            [{"count": counts[i, j], "share": shares[i, j]} for j in kept] for i in kept
        ],
        "omitted": len(names) - len(kept),
    }


def _confusions(issues, names):
    """The pairs of given and suggested class that occur most often."""
    pairs = issues[issues.is_label_issue][["given_label", "suggested_label"]]
    return [
        {"given": names[given], "suggested": names[suggested], "count": int(count)}
        for (given, suggested), count in pairs.value_counts()[:CONFUSIONS].items()
    ]


def _suspects(issues, names, images):
    """The examples of lowest quality, with a picture of each."""
    worst = issues[issues.is_label_issue].nsmallest(SUSPECTS, "label_quality")
    name = next((c for c in ("id", "path") if c in issues), None)
    suspects = [
        {
            "name": str(row[name]) if name else f"index {index}",
            "given": names[row["given_label"]],
            "suggested": names[row["suggested_label"]],
            "quality": _quality(row["label_quality"]),
            "picture": None,
        }
        for index, row in worst.iterrows()
    ]
    if images is not None and len(worst):
        pictures = images(worst.index.to_numpy())
        for suspect, picture in zip(suspects, pictures, strict=True):
            suspect["picture"] = thumbnail(picture)
    return suspects


def thumbnail(image: ArrayLike) -> dict[str, Any]:
    """A picture as a data URI, and its size: no larger than it need be.

    Args:
        image: `(height, width, channels)` with values in 0..255.
    """
    height, width = np.shape(image)[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    if scale < 1:
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        image = tf.image.resize(image, size, antialias=True)
    pixels = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    encoded = tf.io.encode_png(pixels).numpy()
    return {"uri": _data_uri("image/png", encoded), "is_small": scale == 1}


def _charts(issues, rows, weight_net):
    """The charts that the run has the numbers for, each with what it says."""
    charts = []
    if issues.weight.notna().all():
        flagged = issues.is_label_issue.to_numpy()
        values = issues.weight.to_numpy()
        charts.append(
            _chart(
                "How far the weight net trusts each label; 1 is the mean.",
                f"Histogram of the label weights: mean {_mean(values[~flagged])} where "
                f"the label is trusted, {_mean(values[flagged])} where it is not.",
                figures.weights,
                values,
                flagged,
                names=("trusted", "likely wrong"),
            )
        )
    if isinstance(weight_net, WNet):
        losses = issues.loss.to_numpy()
        ends = np.quantile(losses, [0.1, 0.9]).astype("float32")
        low, high = np.asarray(weight_net(ends))
        charts.append(
            _chart(
                "The learned weight of a label by its loss alone, before any balance "
                "between the classes; below, how many labels have that loss.",
                f"The learned weight: {low:.2g} at a loss of {ends[0]:.2g}, {high:.2g} "
                f"at {ends[1]:.2g}.",
                figures.weight_curve,
                weight_net,
                losses,
            )
        )
    for panel in figures.PANELS:
        title, names = panel
        shown = [name for name in names if rows and name in rows[0]]
        if title in PANELS and shown:
            last = ", ".join(f"{names[n]} {rows[-1][n]:.3f}" for n in shown)
            alt = f"{title} over {len(rows)} epochs; in the last: {last}."
            charts.append(
                _chart(PANELS[title], alt, figures.curves, rows, panels=[panel])
            )
    return charts


def _chart(caption, alt, draw, *args, **kwargs):
    file = io.BytesIO()
    draw(*args, path=file, format="svg", **kwargs)
    uri = _data_uri("image/svg+xml", file.getvalue())
    return {"caption": caption, "alt": alt, "uri": uri}


def _quality(value):
    """To three digits: what is below them is equally suspect to a reader."""
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"


def _mean(values):
    return f"{values.mean():.2f}" if len(values) else "none"


def _data_uri(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
