"""What a Config becomes at the door: objects, each made once."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from clidmu_tf.errors import UserError
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.workdir import Described, Workdir

SMALL = Config(train_examples=120, batch_size=40, noise="symmetric", noise_rate=0.4)


def test_every_part_is_made_once():
    experiment = Experiment(SMALL)
    for name in ("loaded", "source", "data", "meta_split", "described", "model"):
        assert getattr(experiment, name) is getattr(experiment, name), name
    assert experiment.data.source is experiment.source


def test_a_model_needs_no_data_where_they_are_described():
    shape, names = (8, 8, 1), ("a", "b", "c")
    described = Described(names, shape, steps=5, num_examples=70)
    settings = {
        "dataset": "gone",
        "method": "small_loss",
        "small_loss_warmup_epochs": 1,
    }
    model = Experiment(Config(**settings), described=described).model
    assert model.num_classes == 3
    assert model.memories["chosen"].shape == (70, 1)


def test_a_workdir_remembers_what_the_model_needs(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.write_source(Experiment(SMALL).described)
    assert workdir.read_source() == Experiment(SMALL).described
    found = workdir.source.read_text().replace('"num_examples": 120', '"then": 0')
    workdir.source.write_text(found)  # as version 0.1 wrote it
    assert workdir.read_source() == dataclasses.replace(
        Experiment(SMALL).described, num_examples=0
    )


def test_a_source_may_be_given():
    whole = Experiment(SMALL).source
    part = dataclasses.replace(whole, train=whole.train.take(np.arange(80)))
    experiment = Experiment(SMALL, source=part)
    assert experiment.described.steps == 2
    assert experiment.fit_arguments()["num_examples"] == 80


@pytest.mark.parametrize("method", ["clid_mu", "mw_net"])
def test_meta_batches_are_the_same_with_devices_and_without(method):
    objective = "clid" if method == "clid_mu" else None
    config = SMALL.replace(method=method, meta_batch_size=20, meta_objective=objective)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    found, expected = (
        next(iter(Experiment(config, devices).meta_arguments(3)["meta_data"]))
        for devices in (strategy, None)
    )
    assert (
        isinstance(found, tuple) == isinstance(expected, tuple) == (method != "clid_mu")
    )
    for one, other in zip(
        tf.nest.flatten(found), tf.nest.flatten(expected), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="--batch_size=130 is larger .* 120 examples"):
        _ = Experiment(SMALL.replace(batch_size=130)).source
