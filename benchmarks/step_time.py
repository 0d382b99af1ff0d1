"""Time and memory of a training step, each against the plain Keras step.

    python -m benchmarks.step_time --torch_python=torchenv/bin/python

ResNet-20, 32x32x3, batch and meta batch 100, float32. Every variant lives in its own
process; they are measured in turn, a few steps a round, so that whatever else the
machine does hits all alike. Seconds are the median of the rounds, the ratio is the
median of each round's ratio to the plain Keras step of that round. Memory is the
process's peak, and how far it lies above that before the first step.

What can be hoped for, in forward passes (a backward pass costs two): a plain step
takes 3. The meta step takes 3 for the virtual step, 3 for the meta pass, about 2 for
the second-order part, and 2 for the real update, which reuses the virtual step's
forward pass: 10 in all, 3.33 times a plain step. Without that reuse it is 11.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import sys

import pandas as pd

from benchmarks import interleave, report
from benchmarks.variants import VARIANTS

TORCH = {
    "torch_plain": ("PyTorch, plain step", "plain", 3),
    "torch_meta": ("PyTorch, meta step", "meta", 11),
}


def commands_of(name, batch_size):
    """The processes of a variant: arguments and environment of each."""
    command = [sys.executable, "-m", "benchmarks.variants", name, str(batch_size)]
    variant = VARIANTS[name]
    if variant.strategy != "multi_worker":
        return [(command, {})]
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(variant.workers)]
    return [
        (command, {"TF_CONFIG": _tf_config(addresses, index)})
        for index in range(variant.workers)
    ]


def torch_commands(name, python, batch_size):
    kind = TORCH[name][1]
    command = [python, "-m", "benchmarks.torch_peer", "serve", kind, str(batch_size)]
    return [(command, {})]


def _tf_config(addresses, index):
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


def all_commands(only, torch_python, batch_size):
    """Name → processes, the plain step first."""
    names = [n for n in VARIANTS if not only or n in only or n == "plain"]
    found = {name: commands_of(name, batch_size) for name in names}
    wanted = [name for name in TORCH if not only or name in only]
    if wanted and not pathlib.Path(torch_python).is_file():
        print(f"Left out PyTorch: --torch_python={torch_python!r} is no file.")
        return found
    return found | {n: torch_commands(n, torch_python, batch_size) for n in wanted}


def table_of(measured):
    """One row a variant, from the dictionaries that `interleave.rounds` yields."""
    frame = pd.DataFrame(measured)
    plain = frame[frame.variant == "plain"].set_index("round").seconds
    frame["ratio"] = frame.seconds / frame["round"].map(plain)
    found = frame.groupby("variant", sort=False).median()
    known = {name: (v.label, v.forwards) for name, v in VARIANTS.items()}
    known |= {name: (label, count) for name, (label, _, count) in TORCH.items()}
    counts = [known[name][1] for name in found.index]
    return pd.DataFrame(
        {
            "variant": [known[name][0] for name in found.index],
            "s/step": found.seconds.map("{:.3f}".format).values,
            "ratio to plain Keras": found.ratio.map("{:.2f}".format).values,
            "ratio by count": [f"{c / 3:.2f}" if c else "" for c in counts],
            "peak MB": found.peak_mb.map("{:.0f}".format).values,
            "of it by stepping": found.step_mb.map("{:.0f}".format).values,
        }
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="a multiple of 5")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--only", nargs="*", choices=[*VARIANTS, *TORCH])
    parser.add_argument("--torch_python", default="", help="a Python with PyTorch")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    commands = all_commands(
        arguments.only, arguments.torch_python, arguments.batch_size
    )
    measured = interleave.rounds(commands, arguments.steps, arguments.rounds)
    suffix = "_" + "_".join(arguments.only) if arguments.only else ""
    report.write(f"step_time{suffix}", table_of(measured))


if __name__ == "__main__":
    main()
