"""TFDS builders of data sets that a person obtains; importing this registers them.

`tfds.load("webvision/mini", data_dir=…)` then knows them, and so does the command line:
`tfds build webvision/mini --imports=clidmu_tf.data.builders --manual_dir=…`, which
with `--beam_pipeline_options=…` prepares on many machines.
"""

from clidmu_tf.data.builders.animal10n import Animal10n
from clidmu_tf.data.builders.clothing1m import Clothing1m
from clidmu_tf.data.builders.food101n import Food101n
from clidmu_tf.data.builders.manual import ManualBuilder
from clidmu_tf.data.builders.webvision import Webvision

__all__ = ["BUILDERS", "Animal10n", "Clothing1m", "Food101n", "Webvision"]

BUILDERS: dict[str, type[ManualBuilder]] = {
    builder.name: builder for builder in (Animal10n, Clothing1m, Food101n, Webvision)
}
