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
from clidmu_tf.errors import UserError

__all__ = ["BUILDERS", "builder_of", "Animal10n", "Clothing1m", "Food101n", "Webvision"]

BUILDERS: dict[str, type[ManualBuilder]] = {
    builder.name: builder for builder in (Animal10n, Clothing1m, Food101n, Webvision)
}


def builder_of(name: str) -> tuple[type[ManualBuilder], str]:
    """Returns the builder of a data set of these, and the config that is named.

    Args:
        name: What --dataset calls it, which begins with a name in `BUILDERS`.

    Raises:
        UserError: It has no such config, or is prepared in another version.
    """
    whole, _, version = name.partition(":")
    base, _, config = whole.partition("/")
    builder = BUILDERS[base]
    configs = [*builder.builder_configs]
    if config and config not in configs:
        names = ", ".join(f"{base}/{known}" for known in configs) or base
        raise UserError(f"--dataset={name} is unknown: use {names}.")
    if version and version != str(builder.VERSION):
        raise UserError(
            f"--dataset={name} names version {version}, and there is {builder.VERSION} "
            f"alone: write {whole}."
        )
    return builder, config
