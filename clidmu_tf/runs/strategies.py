"""The devices of a run."""

import contextlib
import os

import tensorflow as tf

from clidmu_tf.cluster import check_tf_config, wait_for
from clidmu_tf.errors import UserError


def make(name):
    """Returns the `tf.distribute` strategy of this name, or `None` for one device.

    Args:
        name: `"auto"`, `"none"`, `"mirrored"` or `"multi_worker"`.

    Raises:
        UserError: The devices or TF_CONFIG do not fit, or no chief is there.
    """
    if name == "auto":
        gpus = tf.config.list_physical_devices("GPU")
        name = "mirrored" if len(gpus) > 1 else "none"
    if name == "none":
        return None
    if name == "multi_worker":
        # Before anything else: its collectives are set up when TensorFlow starts.
        workers, index = check_tf_config(os.environ.get("TF_CONFIG", ""))
        if index:
            wait_for(workers[0])
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices
    found = devices("GPU") or devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in found])


def scope(strategy):
    """The strategy's scope, or no scope."""
    return strategy.scope() if strategy else contextlib.nullcontext()


def is_chief(strategy):
    """Whether this process writes files: every process but the other workers."""
    return workers(strategy) == 1 or strategy.cluster_resolver.task_id == 0


def workers(strategy):
    """The number of processes that train together."""
    if strategy is None or not strategy.extended._in_multi_worker_mode():
        return 1
    return len(strategy.cluster_resolver.cluster_spec().as_dict()["worker"])


def leave_together(strategy):
    """Waits until all processes that train together have come here.

    The first to leave would otherwise be taken by the others for one that crashed.
    """
    if workers(strategy) > 1:
        strategy.run(
            lambda: tf.distribute.get_replica_context().all_reduce("sum", tf.ones([]))
        )


def distribute(strategy, make_batches, batch_size):
    """Returns batches for `fit`: a dataset, cut over workers and replicas.

    Args:
        strategy: The strategy or `None`.
        make_batches: `(num_shards, shard_index, replicas_per_shard) → Dataset`.
        batch_size: The global batch size.

    Raises:
        UserError: The global batch does not divide by the replicas.
    """
    if strategy is None:
        return make_batches(1, 0, 1)
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            f"--batch_size={batch_size} is that of all replicas and must divide by "
            f"their number, {replicas}."
        )

    def of_worker(context):
        workers = context.num_input_pipelines
        return make_batches(workers, context.input_pipeline_id, replicas // workers)

    return strategy.distribute_datasets_from_function(of_worker)
