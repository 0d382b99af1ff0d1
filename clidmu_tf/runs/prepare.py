"""`--task=prepare`: makes a data set of a folder, and prints what was found."""

import logging
import shlex

from clidmu_tf import data
from clidmu_tf.runs.config import Config

# The published recipe of each data set.
RECIPES = {
    "webvision": "webvision",
    "webvision/mini": "webvision",
    "webvision/full": "webvision_full",
    "clothing1m/balanced": "clothing1m",
    "animal10n": "animal10n",
    "food101n": "food101n",
}


def prepare(config: Config) -> None:
    """Prepares `--dataset` from `--manual_dir`, or finds that it is prepared."""
    # TFDS draws its progress bars itself; of its log, warnings will do.
    logging.getLogger("tensorflow_datasets").setLevel(logging.WARNING)
    prepared = data.prepare(
        config.dataset,
        manual_dir=config.manual_dir,
        data_dir=config.data_dir or None,
        size=config.prepare_size,
        max_pixels=config.max_pixels,
    )
    print(f"\n{prepared.name}\n")
    print(f"{'split':<22}{'images':>11}{'published':>11}{'left out':>11}")
    for split, count in prepared.counts.items():
        bad = sum(n for (where, _), n in prepared.bad.items() if where == split)
        known = prepared.published.get(split)
        published = "unknown" if known is None else f"{known:,}"
        print(f"{split:<22}{count:>11,}{published:>11}{bad:>11,}")
    if prepared.bad:
        print(f"\n{'left out of':<22}{'because':<30}{'entries':>14}")
        for (split, reason), count in sorted(prepared.bad.items()):
            print(f"{split:<22}{reason:<30}{count:>14,}")
        print(f"\nEach is named in {prepared.report}")
    command = train_command(config.dataset, config.data_dir)
    print(f"\nThe data lie in {prepared.path}\nTrain with: {command}")


def train_command(dataset: str, data_dir: str) -> str:
    """The command that trains on what was prepared."""
    recipe = RECIPES.get(dataset)
    settings = [f"--flagfile=configs/{recipe}.cfg"] if recipe else []
    if not recipe:
        settings.append(f"--dataset={dataset}")
    if data_dir:
        settings.append(f"--data_dir={data_dir}")
    return shlex.join(["python", "train.py", *settings])
