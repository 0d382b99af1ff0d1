"""Peak memory of preparing a data set, at a quarter, half and all of its images.

    python -m benchmarks.prepare                 # 20,000 images, about ten minutes
    python -m benchmarks.prepare --images=1000   # a try

Writes JPEGs in WebVision's layout to a temporary folder, and prepares a part of them in
a process of its own, whose memory is sampled.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import tensorflow as tf

from benchmarks import report

CLASSES = 50
SIDE = 256
ROOT = pathlib.Path(__file__).parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    total = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        lines, size = write_images(root, total)
        rows = []
        for count in (total // 4, total // 2, total):
            write_lists(root, lines[:count])
            seconds, peak = prepare(root, root / f"tfds{count}")
            rows.append((count, size / total * count, seconds, peak))
    report.write("prepare", table(rows))


def write_images(root, count, side=SIDE):
    """Writes JPEGs; returns the lines of their list, and how many bytes they are."""
    rng = np.random.default_rng(0)
    lines, size = [], 0
    for i in range(count):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), "uint8")
        image = tf.image.resize(coarse, (side, side), "bicubic")
        image = image + rng.normal(0, 12, (side, side, 1))
        image = tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)
        data = tf.io.encode_jpeg(image, quality=90).numpy()
        name = f"google/q{i % CLASSES:04d}/{i:06d}.jpg"
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        lines.append(f"{name} {i % CLASSES}")
        size += len(data)
    return lines, size


def write_lists(root, lines):
    """Writes WebVision's lists, with one image to validate on."""
    (root / "info").mkdir(exist_ok=True)
    synsets = "".join(f"n{i:08d} thing {i}\n" for i in range(1000))
    (root / "info" / "synsets.txt").write_text(synsets)
    (root / "info" / "train_filelist_google.txt").write_text("\n".join(lines))
    (root / "info" / "val_filelist.txt").write_text("first.jpg 0")
    first = root / "val_images_256" / "first.jpg"
    first.parent.mkdir(exist_ok=True)
    first.write_bytes((root / lines[0].split()[0]).read_bytes())


def prepare(root, data_dir):
    """Prepares in a child process; returns its seconds and its peak memory in MB."""
    flags = ["--task=prepare", "--dataset=webvision/mini"]
    return watch([*flags, f"--manual_dir={root}", f"--data_dir={data_dir}"])


def watch(flags):
    """Runs `train.py`; returns its seconds and its peak memory in MB."""
    start = time.perf_counter()
    command = [sys.executable, "train.py", *flags]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = 0
    while child.poll() is None:
        peak = max(peak, memory(child.pid))
        time.sleep(0.05)
    if child.returncode:
        raise RuntimeError(child.stderr.read().decode())
    return time.perf_counter() - start, peak


def memory(pid):
    """Resident memory of a process in MB, as Linux has it; 0 once it has ended."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmRSS")), 0)


def table(rows):
    """The rows as a DataFrame of text."""
    columns = ["images", "MB of images", "seconds", "images/s", "peak memory, MB"]
    return pd.DataFrame(
        [
            (f"{n:,}", f"{size / 2**20:.0f}", f"{s:.0f}", f"{n / s:.0f}", f"{peak:.0f}")
            for n, size, s, peak in rows
        ],
        columns=columns,
    )


if __name__ == "__main__":
    main()
