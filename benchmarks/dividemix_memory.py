"""Peak memory of DivideMix on WebVision's pipeline, by the number of images.

    python -m benchmarks.dividemix_memory                 # 20,000 images, ten minutes
    python -m benchmarks.dividemix_memory --images=2000   # a try

Prepares small JPEGs in WebVision's layout, and trains two small networks for a warm-up
epoch and one after a split, which passes over all images; a process for each number of
images, whose memory is sampled.
"""

import argparse
import pathlib
import tempfile

import pandas as pd

from benchmarks import prepare, report

SIDE = 64
FLAGS = [
    "--dataset=webvision/mini",
    "--image_size=32",
    "--resize_size=36",
    "--augment=flip,crop",
    "--method=dividemix",
    "--dividemix_warmup_epochs=1",
    "--dividemix_labeled_only=true",
    "--backbone=small_cnn",
    "--epochs=2",
    "--steps_per_epoch=50",
    "--batch_size=64",
    "--meta_examples=200",
    "--snapshots=1",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    total = parser.parse_args().images
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        lines, _ = prepare.write_images(root, total, SIDE)
        for count in (total // 4, total // 2, total):
            prepare.write_lists(root, lines[:count])
            data_dir = root / f"tfds{count}"
            prepare.prepare(root, data_dir)
            flags = [*FLAGS, f"--data_dir={data_dir}", f"--workdir={root / str(count)}"]
            seconds, peak = prepare.watch(flags)
            rows.append((f"{count:,}", f"{seconds:.0f}", f"{peak:.0f}"))
    columns = ["images", "seconds", "peak memory, MB"]
    report.write("dividemix_memory", pd.DataFrame(rows, columns=columns))


if __name__ == "__main__":
    main()
