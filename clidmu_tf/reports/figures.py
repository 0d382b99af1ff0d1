"""The pictures of a run, drawn without pyplot, whose backend is the user's choice."""

import os
from collections.abc import Mapping, Sequence
from typing import IO

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from clidmu_tf.nets.weight_nets import WNet

Row = Mapping[str, float]  # the numbers of an epoch, by name
Panel = tuple[str, Mapping[str, str]]  # a title; what is drawn there, with its label
Destination = str | os.PathLike[str] | IO[bytes]  # a file, by path or open

PANELS: list[Panel] = [
    ("Accuracy", {"accuracy": "train, given labels", "val_accuracy": "test"}),
    ("Training loss", {"loss": "weighted"}),
    ("Mean absolute error", {"val_loss": "test"}),
    ("CLID", {"snapshot_clid": "fixed training examples"}),
    ("Mean weight", {"mean_weight": "training batches"}),
]

PANEL = (4.4, 3.2)  # inches
MOST_TICKS = 5


def panels_of(test_is_given: bool) -> list[Panel]:
    """The panels of a run, by what its labels to test on are.

    Args:
        test_is_given: Whether they are given ones, of which some may be wrong.
    """
    names = {"test": "held-out given labels" if test_is_given else "test"}
    return [
        (title, {name: names.get(label, label) for name, label in shown.items()})
        for title, shown in PANELS
    ]


def curves(
    rows: Sequence[Row],
    path: Destination,
    panels: Sequence[Panel] = PANELS,
    format: str = "png",
) -> None:
    """Draws accuracy, loss, CLID and mean weight over the epochs.

    Args:
        rows: One dict of numbers an epoch.
        path: File to write, or one that is open.
        panels: Pairs of a title and the names to draw there, with their labels.
        format: `"png"` or `"svg"`.
    """
    panels = [(t, n) for t, n in panels if any(name in rows[0] for name in n)]
    size = (PANEL[0] * len(panels), PANEL[1])
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    epochs = [row["epoch"] for row in rows]
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name, label in names.items():
            if name in rows[0]:
                marker = "o" if len(rows) < 10 else None
                axis.plot(epochs, [r[name] for r in rows], label=label, marker=marker)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path, format)


def weights(
    values: np.ndarray,
    is_wrong: np.ndarray | None,
    path: Destination,
    names: tuple[str, str] = ("right labels", "wrong labels"),
    format: str = "png",
) -> None:
    """Draws the weights of the labels, right against wrong ones where known.

    Args:
        values: `(n,)` weights with mean one.
        is_wrong: `(n,)` booleans, or `None` where the truth is unknown.
        path: File to write, or one that is open.
        names: What the two groups are called.
        format: `"png"` or `"svg"`.
    """
    groups = {"all labels": values}
    if is_wrong is not None:
        groups = {names[0]: values[~is_wrong], names[1]: values[is_wrong]}
    figure = Figure(PANEL, layout="constrained")
    axis = figure.subplots()
    edges = np.linspace(0, max(np.quantile(values, 0.999), 1e-3), 41).tolist()
    for name, group in groups.items():
        if len(group):
            label = f"{name} ({len(group)}, mean {group.mean():.2f})"
            axis.hist(np.minimum(group, edges[-1]), edges, alpha=0.6, label=label)
    axis.set(
        title="What the network was taught to trust",
        xlabel="weight (mean 1)",
        ylabel="examples",
    )
    axis.legend()
    _save(figure, path, format)


def trials(
    table: pd.DataFrame, names: Sequence[str], objective: str, path: Destination
) -> None:
    """Draws what a search went by over each setting that it searched.

    Args:
        table: A DataFrame of trials, best first.
        names: Columns of the settings.
        objective: Column of what the search went by.
        path: PNG file to write, or one that is open.
    """
    done = table.dropna(subset=[objective])
    figure = Figure((3.6 * len(names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        values = done[name]
        _scale(axis, values)
        axis.scatter(values, done[objective], alpha=0.7, label="trials")
        axis.scatter(
            *(values.iloc[:1], done[objective].iloc[:1]),
            marker="*",
            s=160,
            label="best",
        )
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    is_oracle = objective == "clean_accuracy"
    axes[0].set_ylabel(objective + (" (oracle)" if is_oracle else ""))
    axes[-1].legend()
    _save(figure, path)


def _scale(axis, values: pd.Series) -> None:
    """Numbers that a reader finds at once: each of a few, or round ones between."""
    if values.dtype.kind not in "if":
        return
    different = np.unique(values)
    if values.dtype.kind == "i" and len(different) > MOST_TICKS:
        axis.xaxis.set_major_locator(MaxNLocator(MOST_TICKS, integer=True))
        return
    if len(different) > 1:
        axis.set_xscale("log" if different[0] > 0 else "symlog")
    if len(different) <= MOST_TICKS:
        axis.set_xticks(different, [f"{value:g}" for value in different])
    elif 0 < different[-1] < 10 * different[0]:
        between = np.geomspace(different[0], different[-1], 4)
        ticks = np.unique([float(f"{tick:.1g}") for tick in between])
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    else:
        axis.xaxis.set_major_locator(LogLocator(numticks=MOST_TICKS))
        axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())


def weight_curve(
    weight_net: WNet, losses: np.ndarray, path: Destination, format: str = "png"
) -> None:
    """Draws the weight that a WNet learnt to give to each loss, and who has it.

    Args:
        weight_net: A trained `WNet`.
        losses: `(n,)` cross-entropies of the labels, what the weight net sees.
        path: File to write, or one that is open.
        format: `"png"` or `"svg"`.
    """
    most = max(np.quantile(losses, 0.999), 1e-3)
    shown = np.linspace(0, most, 200, dtype="float32")
    figure = Figure(PANEL, layout="constrained")
    axis, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axis.plot(shown, np.asarray(weight_net(shown)))
    axis.set(title="The learned weight of a loss", ylabel="weight", ylim=(0, None))
    axis.grid(alpha=0.3)
    below.hist(np.minimum(losses, most), 40, range=(0, most), color="gray", alpha=0.6)
    below.set(xlabel="loss of the given label (cross-entropy)", ylabel="labels")
    _save(figure, path, format)


def _save(figure: Figure, path: Destination, format: str = "png") -> None:
    # Without a date and random names, so that the same run draws the same file.
    metadata = {"Date": None} if format == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "clidmu_tf"}):
        figure.savefig(path, dpi=120, format=format, metadata=metadata)
