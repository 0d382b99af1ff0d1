"""Runs the exported meta step on whatever device jax has, checks it and times it.

    pip install numpy jax                      (0.10.2 and 0.11.2 were tried)
    python -m benchmarks.run_exported exported/ --out=exported_step.md

Needs what `benchmarks.export_step` wrote, and no TensorFlow. On a GPU convolutions of
float32 use TF32, unless NVIDIA_TF32_OVERRIDE=0 is set.
"""

import argparse
import pathlib
import time

import jax
import numpy as np
from jaxlib import _jax, xla_client

jax.config.update("jax_enable_x64", True)


def load(path):
    """Compiles a serialised HLO module for jax's first device."""
    device = jax.devices()[0]
    module = _jax.mlir.hlo_to_stablehlo(path.read_bytes())
    devices = xla_client.DeviceList((device,))
    return device.client.compile_and_load(module, devices, xla_client.CompileOptions())


def call(program, inputs):
    """Runs the program once and returns its outputs, when they are there."""
    outputs = program.execute_sharded(inputs).disassemble_into_single_device_arrays()
    return jax.block_until_ready([shards[0] for shards in outputs])


def relative_errors(record, outputs):
    """Of each group of outputs (such as `meta_gradient`), from what was recorded."""
    groups = {}
    names = [name for name in record if name.startswith("output/")]
    for name, found in zip(names, outputs, strict=True):
        expected = record[name].astype("float64").ravel()
        error = np.asarray(found, "float64").ravel() - expected
        group = groups.setdefault(name.split("/")[1], ([], []))
        group[0].append(error)
        group[1].append(expected)
    return {
        name: _norm(error) / _norm(expected)
        for name, (error, expected) in groups.items()
    }


def _norm(parts):
    return np.linalg.norm(np.concatenate(parts))


def measure(program, inputs, steps):
    """Median seconds of a step."""
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        call(program, inputs)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--out", type=pathlib.Path, help="also write the table here")
    arguments = parser.parse_args()
    with np.load(arguments.folder / "step.npz") as file:
        record = {name: file[name] for name in file.files}
    names = [name for name in record if name.startswith("input/")]
    inputs = [jax.device_put(record[name]) for name in names]
    program = load(arguments.folder / "step.hlo")
    errors = relative_errors(record, call(program, inputs))
    rows = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "batch": f"{record['input/x'].shape}, {record['input/x'].dtype}",
        "seconds per step": f"{measure(program, inputs, arguments.steps):.5f}",
        **{f"relative error, {name}": f"{e:.1e}" for name, e in errors.items()},
    }
    lines = ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())]
    table = "\n".join(lines) + "\n"
    print(table)
    if arguments.out:
        arguments.out.write_text(table)
    if not max(errors.values()) < arguments.tolerance:
        raise SystemExit(f"An error exceeds the tolerance, {arguments.tolerance}.")


if __name__ == "__main__":
    main()
