"""What a run says of its own training labels: a table, a page, a picture."""

import functools
import pathlib

import numpy as np

from clidmu_tf import data
from clidmu_tf.files import write_atomically, write_text
from clidmu_tf.reports import figures
from clidmu_tf.reports import page as report
from clidmu_tf.reports.audit import audit


def write(config, source, model, workdir, snapshots, rows):
    """Audits the training labels and writes `label_issues.csv` and `report.html`.

    Args:
        config: The run's `Config`.
        source: The `Source` it trains on.
        model: The trained model.
        workdir: The run's `Workdir`.
        snapshots: Its `SnapshotEnsemble`, which may hold no snapshot yet.
        rows: Its metrics, one dict an epoch.

    Returns:
        What `audit` returned.
    """
    split, names = source.train, np.array(source.class_names)
    batches = data.evaluation_batches(
        split, batch_size=config.batch_size, image_shape=source.image_shape
    )
    issues = audit(
        model,
        batches,
        snapshots=snapshots if snapshots.snapshots else None,
        ids=split.ids,
        paths=split.paths,
    )
    table = issues.assign(
        given_class=names[issues.given_label],
        suggested_class=names[issues.suggested_label],
    )
    write_text(workdir.label_issues, table.to_csv(float_format="%.6g"))
    is_folder = config.dataset == "folder"
    name = pathlib.Path(config.data_dir).resolve().name if is_folder else source.name
    page = report.render(
        issues,
        source.class_names,
        title=f"Labels of {name}",
        images=functools.partial(images_at, source),
        rows=rows,
        weight_net=getattr(model, "weight_net", None),
    )
    write_text(workdir.report, page)
    return issues


def images_at(source, positions):
    """The training images at these positions, `(k, height, width, channels)`."""
    batches = data.evaluation_batches(
        source.train.take(positions), batch_size=100, image_shape=source.image_shape
    )
    return np.concatenate([x for x, _ in batches.as_numpy_iterator()])


def draw_weights(issues, split, workdir):
    """Draws the weights of the labels, right against wrong where the truth is known."""
    if issues.weight.isna().any():
        return
    known = split.clean_labels is not None
    is_wrong = split.labels != split.clean_labels if known else None
    weights = issues.weight.to_numpy()
    write_atomically(
        workdir.weights, lambda file: figures.weights(weights, is_wrong, file)
    )
