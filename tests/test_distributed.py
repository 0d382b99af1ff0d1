"""One device, two replicas and two workers make the same update."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import replica
from clidmu_tf.core.meta_gradient import local_forward, meta_step, real_gradient
from clidmu_tf.methods.reweighting import CLASS_SLOTS
from clidmu_tf.methods.weighting import update_classes
from clidmu_tf.runs import strategies
from reference import values

pytestmark = pytest.mark.slow

HERE = pathlib.Path(__file__).parent
BASE = {
    "strategy": "none",
    "devices": 1,
    "jit": False,
    "eager": False,
    "batch_scope": "global",
    "warmup": 1,
    "steps": 4,
    "examples": 0,  # of arrays; 0: batches that divide, as a run makes them
    "batch": 8,
}

ALONE = {"method": "wnet", "batch_scope": "replica", "warmup": 0, "steps": 1}


def environment(**more):
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def start(jobs, **more):
    """Starts a process that does jobs, `(settings, path)`, one after the other."""
    jobs = json.dumps([(settings, str(path)) for settings, path in jobs])
    command = [sys.executable, str(HERE / "replica.py"), jobs]
    return subprocess.Popen(
        command, env=environment(**more), stderr=subprocess.PIPE, text=True
    )


def finish(process, timeout=240):
    _, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors[-3000:]


def train_on_one(tmp_path, **settings):
    path = tmp_path / "one.npz"
    replica.train({**BASE, **settings}, strategies.make("none"), path)
    return np.load(path)


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """What becomes of models on two replicas with XLA, all in one process."""
    folder = tmp_path_factory.mktemp("devices")
    mirrored = {**BASE, "strategy": "mirrored", "devices": 2, "jit": True}
    jobs = {"vri": {"method": "vri"}, "alone": ALONE}
    paths = {name: folder / f"{name}.npz" for name in jobs}
    finish(start([({**mirrored, **jobs[name]}, paths[name]) for name in jobs]))
    return {name: np.load(path) for name, path in paths.items()}


def train_on_workers(tmp_path, **settings):
    ports = [free_port() for _ in range(2)]
    workers = [f"127.0.0.1:{port}" for port in ports]
    processes = []
    for index in range(2):
        cluster = {
            "cluster": {"worker": workers},
            "task": {"type": "worker", "index": index},
        }
        path = tmp_path / f"worker{index}.npz"
        settings = {**BASE, **settings, "strategy": "multi_worker"}
        jobs = [(settings, path)]
        processes.append(start(jobs, TF_CONFIG=json.dumps(cluster)))
    for process in processes:
        finish(process)
    return [np.load(tmp_path / f"worker{index}.npz") for index in range(2)]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def assert_same(first, second, tolerance=2e-5, logs=True):
    names = [n for n in first.files if logs or not n.startswith("log_")]
    for name in names:
        np.testing.assert_allclose(
            first[name], second[name], atol=tolerance, err_msg=name
        )


def test_two_replicas_with_xla_make_the_update_of_one_device(tmp_path, on_two):
    """Of VRI; the workers below show it of a WNet."""
    one = train_on_one(tmp_path, method="vri")
    assert_same(one, on_two["vri"])


def test_two_workers_with_xla_make_the_update_of_one_device(tmp_path):
    one = train_on_one(tmp_path, method="wnet")
    first, second = train_on_workers(tmp_path, method="wnet", jit=True)
    assert_same(first, second, 0)
    assert_same(one, first)
    written = [len(list((tmp_path / f"worker{i}").glob("step-*"))) for i in (0, 1)]
    assert written == [2, 0]


def test_two_workers_of_one_command_end_quietly_and_one_prints(tmp_path, cli):
    arguments = ["--train_examples=300", "--meta_examples=100", "--epochs=1"]
    arguments += [f"--workdir={tmp_path / 'run'}"]
    whole = cli(*arguments)
    assert whole.code == 0, whole.err
    command = [sys.executable, HERE.parent / "train.py", *arguments]
    quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    # A run that is finished is when one is soonest done, and gone.
    workers = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": workers}, "task": task})
        processes.append(
            subprocess.Popen(
                [*command, "--strategy=multi_worker"],
                env=environment(TF_CONFIG=config, **quiet),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    (first, first_error), (second, second_error) = (
        process.communicate(timeout=240) for process in processes
    )
    assert [process.returncode for process in processes] == [0, 0]
    assert "This run is finished" in first and "snapshot ensemble" in first
    assert second == first_error == second_error == ""


def test_replicas_alone_take_the_mean_of_what_each_would_do(on_two):
    """The documented difference of batch_scope="replica", and nothing else."""
    two = on_two["alone"]
    model = replica.make_model({**BASE, **ALONE})
    x, y = replica.data()
    velocity = [0.0] * 6, [0.0] * 4
    for step in range(2):
        velocity = take_the_mean(model, x[8 * step :], y[8 * step :], *velocity)
    *weights, _ = replica.weights_of(model)  # nobody counts epochs by hand
    for i, weight in enumerate(weights):
        np.testing.assert_allclose(two[f"w{i}"], weight, atol=2e-5, err_msg=str(i))


def take_the_mean(model, x, y, velocity, meta_velocity):
    halves = [(tf.constant(x[i : i + 4]), y[i : i + 4]) for i in (0, 4)]
    batches = [model.gather_batch(tf.constant(labels), None) for _, labels in halves]
    losses = [model.weighting.loss(batch, model.classes()) for batch in batches]
    theta, phi, state = (
        values(model)["theta"],
        values(model)["phi"],
        values(model)["state"],
    )
    results = [
        meta_step(
            local_forward(model.network.apply),
            loss,
            model.meta_objective_of(None),
            lambda gradient: phi,
            theta=theta,
            phi=phi,
            state=state,
            x=half,
            meta_x=half,
            learning_rate=replica.LEARNING_RATE,
        )
        for (half, _), loss in zip(halves, losses, strict=True)
    ]
    meta = [(a + b) / 2 for a, b in zip(*(r[4] for r in results), strict=True)]
    meta_velocity = move(
        model.weight_net.trainable_variables,
        meta,
        meta_velocity,
        replica.META_LEARNING_RATE,
    )
    here = [result[2] for result in results]
    phi = values(model)["phi"]
    real = [
        real_gradient(loss, phi, outputs)
        for loss, outputs in zip(losses, here, strict=True)
    ]
    classes = [
        update_classes(
            model.classes(),
            model.weighting.raw_weights(phi, outputs.features, outputs.logits, batch),
            outputs.logits,
            batch["targets"],
            "meta",
        )
        for outputs, batch in zip(here, batches, strict=True)
    ]
    kept = [model.slots[name] for name in CLASS_SLOTS]
    for variable, a, b in zip(kept, *classes, strict=True):
        variable.assign((a + b) / 2)
    real = [(a + b) / 2 for a, b in zip(*real, strict=True)]
    variables = model.classifier.trainable_variables
    return move(variables, real, velocity, replica.LEARNING_RATE), meta_velocity


def move(variables, gradient, velocity, rate):
    velocity = [
        0.9 * v - rate * slope for v, slope in zip(velocity, gradient, strict=True)
    ]
    for variable, v in zip(variables, velocity, strict=True):
        variable.assign_add(v)
    return velocity
