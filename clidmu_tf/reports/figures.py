"""The pictures of a run."""

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  (the backend comes first)

PANELS = [
    ("Accuracy", {"accuracy": "train, given labels", "val_accuracy": "test"}),
    ("Loss", {"loss": "train, weighted", "val_loss": "test"}),
    ("CLID", {"snapshot_clid": "fixed training examples"}),
    ("Mean weight", {"mean_weight": "training batches"}),
]

PANEL = (4.4, 3.2)  # inches


def curves(rows, path, panels=PANELS, format="png"):
    """Draws accuracy, loss, CLID and mean weight over the epochs.

    Args:
        rows: One dict of numbers an epoch.
        path: File to write.
        panels: Pairs of a title and the names to draw there, with their labels.
        format: `"png"` or `"svg"`.
    """
    panels = [(t, n) for t, n in panels if any(name in rows[0] for name in n)]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(PANEL[0] * len(panels), PANEL[1]), layout="constrained"
    )
    epochs = [row["epoch"] for row in rows]
    for axis, (title, names) in zip(np.atleast_1d(axes), panels, strict=True):
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
    values, is_wrong, path, names=("right labels", "wrong labels"), format="png"
):
    """Draws the weights of the labels, right against wrong ones where known.

    Args:
        values: `(n,)` weights with mean one.
        is_wrong: `(n,)` booleans, or `None` where the truth is unknown.
        path: File to write.
        names: What the two groups are called.
        format: `"png"` or `"svg"`.
    """
    groups = {"all labels": values}
    if is_wrong is not None:
        groups = {names[0]: values[~is_wrong], names[1]: values[is_wrong]}
    figure, axis = plt.subplots(figsize=PANEL, layout="constrained")
    edges = np.linspace(0, max(np.quantile(values, 0.999), 1e-3), 41)
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


def trials(table, names, objective, path):
    """Draws what a search went by over each setting that it searched.

    Args:
        table: A DataFrame of trials, best first.
        names: Columns of the settings.
        objective: Column of what the search went by.
        path: PNG file to write.
    """
    done = table.dropna(subset=[objective])
    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=(3.6 * len(names), 3.2),
        sharey=True,
        layout="constrained",
    )
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        values = done[name]
        if values.dtype.kind in "if" and name != "warmup_epochs":
            axis.set_xscale("log" if (values > 0).all() else "symlog")
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
    np.atleast_1d(axes)[0].set_ylabel(objective + (" (oracle)" if is_oracle else ""))
    np.atleast_1d(axes)[-1].legend()
    _save(figure, path)


def weight_curve(weight_net, losses, path, format="png"):
    """Draws the weight that a WNet learnt to give to each loss, and who has it.

    Args:
        weight_net: A trained `WNet`.
        losses: `(n,)` cross-entropies of the labels, what the weight net sees.
        path: File to write.
        format: `"png"` or `"svg"`.
    """
    most = max(np.quantile(losses, 0.999), 1e-3)
    shown = np.linspace(0, most, 200, dtype="float32")
    figure, (axis, below) = plt.subplots(
        *(2, 1),
        sharex=True,
        height_ratios=[3, 1],
        figsize=PANEL,
        layout="constrained",
    )
    axis.plot(shown, np.asarray(weight_net(shown)))
    axis.set(title="The learned weight of a loss", ylabel="weight", ylim=(0, None))
    axis.grid(alpha=0.3)
    below.hist(np.minimum(losses, most), 40, range=(0, most), color="gray", alpha=0.6)
    below.set(xlabel="loss of the given label (cross-entropy)", ylabel="labels")
    _save(figure, path, format)


def _save(figure, path, format="png"):
    # Without a date and random names, so that the same run draws the same file.
    metadata = {"Date": None} if format == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "clidmu_tf"}):
        figure.savefig(path, dpi=120, format=format, metadata=metadata)
    plt.close(figure)
