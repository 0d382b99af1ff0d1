"""What a run says of its own training labels: a table, a page, a picture."""

import pandas as pd

from clidmu_tf.data import Split
from clidmu_tf.engine.callbacks import SnapshotEnsemble
from clidmu_tf.engine.method import Method
from clidmu_tf.files import write_atomically, write_text
from clidmu_tf.reports import figures
from clidmu_tf.reports import page as report
from clidmu_tf.reports.audit import audit
from clidmu_tf.reports.csv import to_csv
from clidmu_tf.runs.batches import Reader
from clidmu_tf.runs.workdir import Workdir


def write(
    model: Method,
    reader: Reader,
    snapshots: SnapshotEnsemble,
    rows: list[dict[str, float]],
    workdir: Workdir,
    title: str,
) -> pd.DataFrame:
    """Audits the training labels and writes `label_issues.csv` and `report.html`.

    Args:
        model: The trained model.
        reader: Reads the source that it was trained on.
        snapshots: The run's snapshots, of which there may be none yet.
        rows: The run's metrics, one dict an epoch.
        workdir: The run's workdir.
        title: What the page calls the data.

    Returns:
        What `audit` returned.
    """
    split = reader.source.train
    issues = audit(
        model,
        reader.in_order(split),
        snapshots=snapshots if snapshots.snapshots else None,
        ids=split.ids,
        paths=split.paths,
        class_names=reader.source.class_names,
    )
    write_text(workdir.label_issues, to_csv(issues, float_format="%.6g"))
    page = report.render(
        issues,
        reader.source.class_names,
        title=f"Labels of {title}",
        examples=reader.examples,
        rows=rows,
        weight_net=getattr(model, "weight_net", None),
        test_is_given=reader.source.test_is_given,
    )
    write_text(workdir.report, page)
    return issues


def draw_weights(issues: pd.DataFrame, split: Split, workdir: Workdir) -> None:
    """Draws the weights of the labels, right against wrong where the truth is known."""
    if issues.weight.isna().any():
        return
    known = split.clean_labels is not None
    is_wrong = split.labels != split.clean_labels if known else None
    weights = issues.weight.to_numpy()
    write_atomically(
        workdir.weights, lambda file: figures.weights(weights, is_wrong, file)
    )
