"""Choosing an epoch without a label, and what TensorBoard gets to see."""

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

import clidmu_tf as clidmu
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.workdir import Workdir
from command import train

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def plain_classifier():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    )
    model.compile(keras.optimizers.SGD(0.0), LOSS, metrics=["accuracy"])
    return model


class Schedule(keras.callbacks.Callback):
    """Puts given weights into the model at the end of each epoch."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def on_epoch_end(self, epoch, logs=None):
        self.model.set_weights(self.weights[epoch])


@pytest.mark.parametrize("best", [0, 2])
def test_unlabelled_data_stop_training_and_choose_the_checkpoint(best, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype("float32"), np.arange(40) % 3
    unlabelled = rng.normal(size=(50, 4)).astype("float32")
    # The less certain its predictions, the higher is a model's CLID.
    model = plain_classifier()
    first = model.get_weights()
    scales = np.abs(np.arange(8) - best)
    schedule = [[*first[:2], first[2] * 9 / (1 + s), first[3]] for s in scales]
    callbacks = [
        Schedule(schedule),
        clidmu.ValidationCLID(unlabelled, batch_size=20),
        keras.callbacks.EarlyStopping("val_clid", mode="min", patience=2),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "val_clid", mode="min", save_best_only=True
        ),
    ]
    history = model.fit(
        *(x, y), epochs=8, verbose=0, callbacks=callbacks, validation_split=0.25
    ).history
    assert len(history["val_clid"]) == best + 3
    assert int(np.argmin(history["val_clid"])) == best
    assert "val_accuracy" in history
    kept = keras.saving.load_model(tmp_path / "best.keras").get_weights()
    for array, expected in zip(kept, schedule[best], strict=True):
        np.testing.assert_array_equal(array, expected)
    # The mean over the two whole batches of the fifty examples.
    model.set_weights(schedule[0])
    features = keras.Model(model.inputs[0], model.layers[0].output)
    values = [
        clidmu.clid(features(part), model(part))
        for part in (unlabelled[:20], unlabelled[20:40])
    ]
    assert history["val_clid"][0] == pytest.approx(float(np.mean(values)), rel=1e-6)


def test_of_a_clidmu_it_is_the_classifiers():
    x, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 3
    model = clidmu.CLIDMU(plain_classifier())
    model.compile(optimizer="sgd")
    mine = clidmu.ValidationCLID(x, batch_size=20)
    theirs = clidmu.SnapshotEnsemble(x, batch_size=20)
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[mine, theirs]).history
    assert history["val_clid"] == history["snapshot_clid"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"data": np.zeros((1, 4))}, "2 or more examples; received 1"),
        ({"data": np.zeros((9, 4)), "temperature": 0}, "temperature must be above 0"),
    ],
)
def test_validation_clid_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        clidmu.ValidationCLID(**arguments)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The workdir of a run of two epochs, and what TensorBoard reads of it."""
    config = Config(
        **{"train_examples": 200, "epochs": 2, "batch_size": 50, "snapshots": 1},
        **{"meta_examples": 120, "noise": "symmetric", "noise_rate": 0.4},
        workdir=str(tmp_path_factory.mktemp("log") / "run"),
    )
    train(config)
    workdir = Workdir(config.workdir)
    events = EventAccumulator(str(workdir.tensorboard), size_guidance={"tensors": 0})
    return config, workdir, events.Reload()


def test_tensorboard_gets_the_label_weights_of_every_epoch(logged):
    _, _, events = logged
    found = events.Tensors("label_weights")
    assert [event.step for event in found] == [0, 1]
    for event in found:
        buckets = make_ndarray(event.tensor_proto)  # rows of left, right, count
        assert buckets[:, 2].sum() == 120
        middles = buckets[:, :2].mean(axis=1)
        spread = buckets[-1, 1] - buckets[0, 0]
        assert abs(middles @ buckets[:, 2] / 120 - 1) <= spread / len(buckets)


def test_tensorboard_gets_the_settings_and_the_numbers(logged):
    config, workdir, events = logged
    content = events.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    assert hparams["noise_rate"].number_value == config.noise_rate
    assert hparams["weight_net"].string_value == "wnet"
    assert hparams["class_balance"].bool_value is True
    assert "workdir" not in hparams
    scalars = EventAccumulator(str(workdir.tensorboard / "train")).Reload()
    assert "epoch_loss" in scalars.Tags()["tensors"]


def test_snapshots_are_of_one_model_and_of_all_its_epochs():
    x, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 3
    snapshots = clidmu.SnapshotEnsemble(x.astype("float32"), k=4, batch_size=20)
    model = clidmu.CrossEntropy(plain_classifier())
    model.compile(keras.optimizers.SGD(0.1))
    for _ in range(2):
        model.fit(x, y, epochs=2, verbose=0, callbacks=[snapshots])
    assert sorted(epoch for _, epoch, _ in snapshots.snapshots) == [0, 1, 2, 3]
    other = clidmu.CrossEntropy(plain_classifier())
    other.compile(keras.optimizers.SGD(0.1))
    other.fit(x, y, verbose=0, callbacks=[snapshots])
    assert len(snapshots.snapshots) == 1
