"""Trains whole epochs from exported programs, on whatever device jax has.

    pip install numpy jax
    python -m benchmarks.train_exported exported/ --check
    python -m benchmarks.train_exported exported/ --epochs=100 --out=table.md

Needs what `benchmarks.export_training` wrote, NumPy and jaxlib: no TensorFlow, no Keras
and nothing of the package. `--check` takes the first steps alone, and compares every
variable with what `model.fit` made of it: at a low learning rate, since at a high one
rounding grows within few steps, also between two `model.fit`, with and without XLA;
and of a network without dropout, whose masks XLA draws otherwise. On a GPU convolutions
of float32 use TF32, unless NVIDIA_TF32_OVERRIDE=0 is set.
"""

import argparse
import pathlib
import time

import jax
import numpy as np

from benchmarks import packed_images
from benchmarks.run_exported import call, load

TOLERANCE = 1e-4


class Training:
    """A run as it stands: the value of every variable, on the device.

    Args:
        folder: What `benchmarks.export_training` wrote.
    """

    def __init__(self, folder):
        with np.load(folder / "run.npz") as file:
            record = dict(file)
        self.names = [str(name) for name in record["names"]]
        self.kinds = [str(kind) for kind in record["kinds"]]
        self.size = int(record["batch_size"])
        self.values = {n: jax.device_put(v) for n, v in group(record, "variable")}
        self.plan = dict(group(record, "plan"))
        self.given = {n: [str(v) for v in names] for n, names in group(record, "given")}
        self.programs = {name: load(folder / f"{name}.hlo") for name in self.given}
        train = packed_images.unpack(dict(group(record, "train")))
        self.test = packed_images.unpack(dict(group(record, "test")))
        self.labels = record["test_labels"]
        self.data = [jax.device_put(v) for v in (train, record["train_labels"])]
        self.step = 0
        self.steps_per_epoch = self.plan["index"].shape[1] // self.size

    def take_step(self):
        """One training step; returns its running mean loss, on the device."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        rows = slice(place * self.size, (place + 1) * self.size)
        batch = [
            self.plan["index"][epoch, rows].astype("int32"),
            self.plan["mirrored"][epoch, rows],
            self.plan["shifts"][epoch, rows].astype("int32"),
        ]
        name = f"step_{self.kinds[self.step]}"
        loss, *values = self._call(name, [*self.data, *map(jax.device_put, batch)])
        # What follows are the updated variables once more, as TensorFlow adds them.
        self.values |= dict(zip(self.names, values, strict=False))
        self.step += 1
        if place + 1 == self.steps_per_epoch:
            self._reset_metrics()
        return loss

    def accuracy(self, at_a_time=500):
        """Share of the test images that are predicted right."""
        found = []
        for start in range(0, len(self.test), at_a_time):
            part = self.test[start : start + at_a_time]
            padding = [(0, at_a_time - len(part)), (0, 0), (0, 0), (0, 0)]
            labels = self._call("predict", [jax.device_put(np.pad(part, padding))])[0]
            found.append(np.asarray(labels)[: len(part)])
        return float(np.mean(np.concatenate(found) == self.labels))

    def _call(self, name, data):
        variables = [self.values[given] for given in self.given[name]]
        return call(self.programs[name], [*data, *variables])

    def _reset_metrics(self):
        """As Keras does before an epoch."""
        for name in self.names:
            if name.startswith("metric."):
                zero = np.zeros_like(np.asarray(self.values[name]))
                self.values[name] = jax.device_put(zero)


def group(record, prefix):
    """The arrays under a prefix, with what their names are behind it."""
    start = f"{prefix}/"
    return [(n[len(start) :], v) for n, v in record.items() if n.startswith(start)]


def check(training, folder):
    """Compares with `model.fit` after as many steps as it took."""
    with np.load(folder / "check.npz") as file:
        expected = dict(file)
    for _ in range(int(expected.pop("steps"))):
        training.take_step()
    worst = {}
    for name, value in expected.items():
        owner = name.split(".")[0]
        if owner == "metric" or name == "slot.progress":  # which Keras's fit moves
            continue
        error = np.abs(np.asarray(training.values[name], "float64") - value).max()
        # Moving variances may be large: of those, relative to their largest.
        error = float(error / max(np.abs(value).max(), 1))
        worst[owner] = max(worst.get(owner, 0.0), error)
    for owner, error in worst.items():
        print(f"{owner}: {error:.1e} apart at most after {training.step} steps")
    if not worst["classifier"] < TOLERANCE:
        raise SystemExit(f"The weights are more than {TOLERANCE} apart.")


def train(training, epochs, out):
    lines = ["| epoch | seconds | loss | test accuracy |", "| --- | --- | --- | --- |"]
    for epoch in range(epochs):
        start = time.perf_counter()
        for _ in range(training.steps_per_epoch):
            loss = training.take_step()
        seconds = time.perf_counter() - start
        accuracy = training.accuracy()
        row = (epoch + 1, f"{seconds:.1f}", f"{float(loss):.3f}", f"{accuracy:.4f}")
        lines.append(f"| {' | '.join(map(str, row))} |")
        print(lines[-1], flush=True)
        if out:
            kind = jax.devices()[0].device_kind
            out.write_text("\n".join([*lines, "", f"{kind}, jax {jax.__version__}\n"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="compare, don't train")
    parser.add_argument("--epochs", type=int, default=0, help="0: as exported")
    parser.add_argument("--out", type=pathlib.Path, help="also write the table here")
    arguments = parser.parse_args()
    training = Training(arguments.folder)
    if arguments.check:
        check(training, arguments.folder)
        return
    epochs = arguments.epochs or len(training.plan["index"])
    train(training, epochs, arguments.out)


if __name__ == "__main__":
    main()
