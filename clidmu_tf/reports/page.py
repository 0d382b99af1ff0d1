"""The page of an audit: one file, which opens anywhere and without a network."""

import io
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jinja2
import keras
import numpy as np
import pandas as pd

from clidmu_tf.files import write_text
from clidmu_tf.nets.weight_nets import WNet
from clidmu_tf.reports import figures
from clidmu_tf.reports.shown import data_uri, examples_at, shown

# What is shown of it, so that the page stays small however many examples there are.
SUSPECTS = 60
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


def report(
    issues: pd.DataFrame,
    x: Any = None,
    path: str | pathlib.Path = "report.html",
    *,
    class_names: Sequence[object] | None = None,
    title: str = "Label audit",
    model: keras.Model | None = None,
    history: keras.callbacks.History | None = None,
) -> pathlib.Path:
    """Writes what an audit found as one page that opens without a network.

    The worst labels stand on it with what they are labels of: a picture of an image, a
    text, or the columns of a table's row.

    Args:
        issues: What `clidmu.audit` returned.
        x: The inputs that were audited, in any form that it takes; `None` shows
            none of them.
        path: The file to write.
        class_names: Names of the classes, in order; `None` for those in `issues`.
        title: Title of the page.
        model: The trained model, whose weight net is drawn if it has a `WNet`.
        history: What `fit` returned, of which accuracy and CLID are drawn.

    Returns:
        The path.

    Raises:
        UserError: The file could not be written.

    Example:

    ```python
    x = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
    y = np.where(x[:, 0] > 0, "warm", "cold")
    classifier = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    issues = clidmu.audit(classifier, x, y)
    clidmu.report(issues, x, "report.html", title="Weather")
    ```
    """
    rows = []
    if history is not None:
        names = history.history
        columns = zip(*names.values(), strict=True)
        rows = [
            {"epoch": epoch + 1, **dict(zip(names, values, strict=True))}
            for epoch, values in zip(history.epoch, columns, strict=True)
        ]
    page = render(
        issues,
        _names_in(issues) if class_names is None else class_names,
        title=title,
        examples=None if x is None else lambda positions: examples_at(x, positions),
        rows=rows,
        weight_net=getattr(model, "weight_net", None),
        test_is_given=True,
    )
    path = pathlib.Path(path)
    write_text(path, page)
    return path


def _names_in(issues):
    """The classes' names, as far as a table has them; else their numbers."""
    count = 1 + int(issues[["given_label", "suggested_label"]].to_numpy().max())
    names = [str(index) for index in range(count)]
    if "given_class" in issues:
        for kind in ("given", "suggested"):
            pairs = issues[[f"{kind}_label", f"{kind}_class"]].drop_duplicates()
            for index, name in pairs.itertuples(index=False):
                names[index] = str(name)
    return names


def render(
    issues: pd.DataFrame,
    class_names: Sequence[object],
    *,
    title: str = "Label audit",
    examples: Callable[[np.ndarray], Iterable[Any]] | None = None,
    rows: Iterable[figures.Row] = (),
    weight_net: keras.layers.Layer | None = None,
    test_is_given: bool = False,
) -> str:
    """Renders what an audit found as one self-contained HTML page.

    Every name on it is escaped; pictures and charts are within. It holds at most
    60 suspects and the 20 classes with the most issues, so that it stays under
    10 MB for a million examples.

    Args:
        issues: What `clidmu.audit` returned.
        class_names: Names of the classes, in order.
        title: Title of the page.
        examples: Takes positions `(k,)` and returns the examples there: images
            `(height, width, 1 or 3)` with values in 0..255, texts, or dicts of
            values by name; `None` shows none.
        rows: The run's metrics, one dict an epoch with `epoch`; draws its curves.
        weight_net: The run's weight net, trained; of a `WNet` the learned curve is
            drawn over the losses of `issues`.
        test_is_given: Whether the metrics are of held-out given labels.

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
    page = report.render(issues, ["cat", "dog"], examples=lambda at: x[at])
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
        suspects=_suspects(issues, names, examples),
        charts=_charts(
            issues, list(rows), weight_net, figures.panels_of(test_is_given)
        ),
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
    every, given, suggested = len(names), issues.given_label, issues.suggested_label
    found = issues[given != suggested]  # of thousands of classes no square has room
    worst = -np.bincount(found.given_label, minlength=every)
    worst -= np.bincount(found.suggested_label, minlength=every)
    kept = np.sort(np.argsort(worst, kind="stable")[:CLASSES])
    inside = given.isin(kept) & suggested.isin(kept)
    cells = (np.searchsorted(kept, label[inside]) for label in (given, suggested))
    counts = np.zeros((len(kept), len(kept)), int)
    np.add.at(counts, tuple(cells), 1)
    moved = counts * (1 - np.eye(len(kept), dtype=int))
    sizes = np.bincount(given, minlength=every)[kept]
    shares = moved / np.maximum(sizes[:, None], 1)
    shares = shares / max(shares.max(), 1e-9)  # the deepest colour to the largest
    return {
        "names": [names[i] for i in kept],
        "rows": [
            [{"count": n, "share": s} for n, s in zip(*row, strict=True)]
            for row in zip(counts, shares, strict=True)
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


def _suspects(issues, names, examples):
    """The examples of lowest quality, with what they are examples of."""
    worst = issues[issues.is_label_issue].nsmallest(SUSPECTS, "label_quality")
    name = next((c for c in ("id", "path") if c in issues), None)
    suspects = [
        {
            "name": str(row[name]) if name else f"index {index}",
            "given": names[row["given_label"]],
            "suggested": names[row["suggested_label"]],
            "quality": _quality(row["label_quality"]),
            "picture": None,
            "text": None,
            "fields": None,
        }
        for index, row in worst.iterrows()
    ]
    if examples is not None and len(worst):
        found = examples(worst.index.to_numpy())
        for suspect, example in zip(suspects, found, strict=True):
            suspect |= shown(example)
    return suspects


def _charts(issues, rows, weight_net, panels):
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
    for panel in panels:
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
    uri = data_uri("image/svg+xml", file.getvalue())
    return {"caption": caption, "alt": alt, "uri": uri}


def _quality(value):
    """To three digits; below them all are equally suspect, and none need say so."""
    return f"{value:.3f}" if value >= 0.0005 else None


def _mean(values):
    return f"{values.mean():.2f}" if len(values) else "none"
