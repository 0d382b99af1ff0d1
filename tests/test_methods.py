"""The contract of every method: one that joins the registry is under all of it."""

import functools
import itertools
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import clidmu_tf as clidmu
import feeds
from clidmu_tf.engine import checkpoints
from clidmu_tf.engine.callbacks import MetricsLog
from clidmu_tf.engine.checkpoints import Checkpointer, variables_of
from clidmu_tf.engine.examples import ArrayExamples, with_index
from clidmu_tf.engine.settings import settings_of
from clidmu_tf.errors import UserError
from clidmu_tf.methods import JOINED, METHODS, flags_of, method_of
from clidmu_tf.nets import backbones
from clidmu_tf.runs import config as config_module
from clidmu_tf.runs import tasks
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment
from clidmu_tf.runs.training import segments
from test_distributed import finish, start

pytestmark = pytest.mark.slow

layers = keras.layers
BATCH, STEPS, EPOCHS = 12, 2, 2
EXAMPLES, CLASSES = BATCH * STEPS, 3
GENERATOR = np.random.default_rng(1)
X = GENERATOR.normal(size=(EXAMPLES, 4)).astype("float32")
Y = GENERATOR.integers(0, CLASSES, EXAMPLES)


def classifier(between=lambda: []):
    """A network of few weights, with what else is to lie between its two layers."""
    keras.utils.set_random_seed(0)  # first, since a layer draws its seed when made
    hidden = [layers.Dense(8, "tanh"), *between()]
    return keras.Sequential([keras.Input((4,)), *hidden, layers.Dense(CLASSES)])


def unbuilt():
    """One whose input is not known yet: no model of it is built, which takes long."""
    return keras.Sequential([layers.Dense(8, "tanh"), layers.Dense(CLASSES)])


def with_state():
    return [layers.BatchNormalization(), layers.Dropout(0.2)]


def state_of(model):
    """All that a model is: weights, optimizers, slots, memories, seeds."""
    variables = variables_of(model).items()
    return {n: v.numpy() for n, v in variables if not n.startswith("metric.")}


def assert_same(first, second, tolerance=0.0):
    assert list(first) == list(second)
    for name, array in first.items():
        np.testing.assert_allclose(
            array, second[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


class Case:
    """A method and its fits, each of which is made once, for the test that asks."""

    def __init__(self, name, folder):
        self.name, self.method, self.folder = name, method_of(name), folder
        # What the command line calls it.
        outer, _, inner = name.partition("+")
        self.flags = {"method": outer} | ({"inner": inner} if inner else {})
        assert self.method.least_batch <= BATCH, "the contract needs larger batches"

    def model(self, run_eagerly=True, **arguments):
        """A model with all kinds of state, eager, since to trace takes longest."""
        arguments["run_eagerly"] = run_eagerly
        return feeds.compiled(self.method, classifier(with_state), STEPS, **arguments)

    def plain_model(self, **how):
        """One without masks, which XLA draws otherwise, and without a warm-up."""
        return feeds.compiled(self.method, classifier(), warmup=0, **how)

    def fit_arrays(self, model, first=0, last=EPOCHS):
        further = feeds.further_data(self.method, X, Y, BATCH, first * STEPS)
        return model.fit(
            X,
            Y,
            batch_size=BATCH,
            initial_epoch=first,
            epochs=last,
            shuffle=False,
            verbose=0,
            **further,
        )

    def fit_dataset(self, model, done=0, callbacks=()):
        """Goes on after so many steps as a run does: the rest of an epoch first."""
        dataset = tf.data.Dataset.from_tensor_slices((X, Y, np.arange(EXAMPLES)))
        if model.memory():
            dataset = dataset.map(lambda x, y, index: (with_index(x, index), y))
        else:
            dataset = dataset.map(lambda x, y, index: (x, y))
        dataset = dataset.batch(BATCH, drop_remainder=True).repeat()
        for first, last, size in segments(done, STEPS, EPOCHS):
            model.fit(
                dataset.skip(done),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=size,
                shuffle=False,
                verbose=0,
                callbacks=list(callbacks),
                num_examples=EXAMPLES,
                examples=ArrayExamples(X, Y, feeds.SEED),
                **feeds.further_data(self.method, X, Y, BATCH, done),
            )
            done = last * STEPS
        return state_of(model)

    def saver(self):
        log = MetricsLog(self.folder / "metrics.csv")
        return Checkpointer(self.folder, log, every_steps=1)

    @functools.cached_property
    def from_arrays(self):
        """The model after a fit to arrays, saved to `half.keras` on its way."""
        model = self.model(metrics=["accuracy"])
        self.fit_arrays(model, last=1)
        model.save(self.folder / "half.keras")
        self.fit_arrays(model, first=1)
        return model

    @functools.cached_property
    def plain_steps(self):
        """What eager steps come to, and the last of them: its function and tensors."""
        model, seen = self.plain_model(run_eagerly=True), []

        def compute_of(kind):
            def compute(*tensors):
                seen.append((model.pure_step(kind), tensors))
                return seen[-1][0](*tensors)

            return compute

        model.compute = compute_of
        self.fit_arrays(model)
        return state_of(model), seen[-1]

    @functools.cached_property
    def from_dataset(self):
        """What a fit to a dataset comes to, with a checkpoint after every step."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "KEEP", EPOCHS * STEPS)
            model, saver = self.model(), self.saver()
            model.build_memory(EXAMPLES, EXAMPLES)
            return self.fit_dataset(model, callbacks=[saver.metrics_log, saver])


@pytest.fixture(autouse=True)
def fresh_session():
    """In place of `conftest.py`'s: what was fitted is used by several tests here."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module", params=[*METHODS, *JOINED])
def case(request, tmp_path_factory):
    """A method; what its tests share is made once."""
    return Case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", autouse=True)
def on_devices(request, tmp_path_factory):
    """What methods come to on one device and on two; waits for it when called.

    It takes longest, and a process of its own: that runs beside the other tests.
    """
    folder = tmp_path_factory.mktemp("devices")
    # The last batch of an epoch is short, and the replicas' shares of it differ.
    settings = {
        "devices": 2,
        "jit": False,
        "batch_scope": "global",
        "warmup": 0,
        "examples": 2 * BATCH - 1,
        "batch": BATCH,
    }
    of_it = test_two_replicas_make_the_update_of_one_device
    asking = [i for i in request.session.items if getattr(i, "function", "") is of_it]
    names = [item.callspec.params["name"] for item in asking]
    jobs = [
        (
            {**settings, "method": name, "strategy": where, "eager": where == "none"},
            folder / f"{name}.{where}.npz",
        )
        for name, where in itertools.product(names, ("none", "mirrored"))
    ]
    process = start(jobs) if jobs else None

    @functools.cache
    def finished():
        finish(process, timeout=900)
        return folder

    yield finished
    if process:
        process.kill()


# --- one training, however it is run


def test_arrays_and_a_dataset_train_alike(case):
    assert_same(state_of(case.from_arrays), case.from_dataset)


def test_steps_in_a_graph_are_the_eager_ones(case):
    model = case.model(run_eagerly=False)
    case.fit_arrays(model)
    assert_same(state_of(model), case.from_dataset, 1e-5)


def test_steps_under_xla_are_the_eager_ones(case):
    model = case.plain_model(jit_compile=True)
    case.fit_arrays(model)
    eager, _ = case.plain_steps
    assert_same(state_of(model), eager, 2e-5)


def test_xla_need_not_compile_anew_for_the_values_of_a_batch(case):
    _, (step, tensors) = case.plain_steps
    compiled = tf.function(step, jit_compile=True, autograph=False)
    captured = compiled.get_concrete_function(*tensors).captured_inputs
    hlo = compiled.experimental_get_compiler_ir(*tensors)(stage="hlo")
    # Whatever XLA must know to compile is no parameter, but written into the program.
    found = hlo[hlo.index("ENTRY") :].count(" parameter(")
    given = [value for value in tf.nest.flatten(tensors) if value is not None]
    assert found == len(given) + len(captured)


def test_a_killed_training_ends_as_the_whole_one(case):
    whole = case.from_dataset
    # Inside the second epoch, then between the two.
    model, saver = case.model(), case.saver()
    model.build_memory(EXAMPLES, EXAMPLES)
    for step in (STEPS + 1, STEPS):
        for path in case.folder.glob("step-*.npz"):
            if int(path.stem[-9:]) > step:
                path.unlink()
        assert saver.restore(model) == step
        assert_same(case.fit_dataset(model, done=step), whole)


def test_a_loaded_model_goes_on_as_if_never_saved(case):
    whole = case.from_arrays
    model = keras.saving.load_model(case.folder / "half.keras")
    case.fit_arrays(model, first=1)
    assert_same(state_of(model), state_of(whole))
    assert_same(model.get_metrics_result(), whole.get_metrics_result())


def small_network(name, input_shape, num_classes, seed=0, vocabulary_size=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(8, "tanh"),
            layers.Dense(num_classes),
        ]
    )


def test_the_command_line_trains_as_fit_does(case, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "build", small_network)
    waits = feeds.short_settings(case.method, warmup=1)  # an epoch
    flags = {flag: name for flag, (name, _) in flags_of(case.name).items()}
    count = 1 + case.method.takes_unlabeled_data
    config = Config(
        **case.flags,
        workdir=str(tmp_path / "run"),
        train_examples=count * EXAMPLES,
        num_labels=EXAMPLES if count > 1 else 0,
        batch_size=BATCH,
        epochs=EPOCHS,
        noise="symmetric",
        noise_rate=0.4,
        meta_examples=BATCH,
        learning_rate=feeds.LEARNING_RATE,
        seed=feeds.SEED,
        snapshots=1,
        **{flag: waits[name] for flag, name in flags.items() if name in waits},
    )
    tasks.train(config, is_trial=True)  # without the pictures, which take longest
    experiment = Experiment(config)
    network = small_network("", experiment.source.image_shape, 10, feeds.SEED)
    meta_optimizer = keras.optimizers.Adam(config.meta_learning_rate)
    peer = {}
    if case.method.num_networks > 1:
        peer = {"peer": small_network("", network.input_shape[1:], 10, feeds.SEED + 1)}
    model = feeds.compiled(
        case.method, network, STEPS, meta_optimizer, run_eagerly=True, settings=peer
    )
    data = experiment.fit_arguments()
    model.fit(**data, epochs=EPOCHS, steps_per_epoch=STEPS, verbose=0)
    *_, last = sorted((tmp_path / "run" / "checkpoints").glob("step-*.npz"))
    by_hand, record = state_of(model), np.load(last)
    assert_same(by_hand, {name: record[name] for name in by_hand}, 1e-5)


# --- use of what was trained


def test_export_serves_what_the_model_predicts(case, tmp_path):
    model = case.from_arrays
    model.export(tmp_path / "served", verbose=False)
    exported = tf.saved_model.load(tmp_path / "served")
    served = exported.serve(X)
    np.testing.assert_allclose(served, model.predict(X, verbose=0), atol=1e-6)
    np.testing.assert_allclose(served, model.served(X), atol=1e-6)


def test_audit_says_something_of_every_label(case):
    model = case.from_arrays
    found = clidmu.audit(model, X, Y)
    assert found.label_quality.between(0, 1).all() and found.loss.ge(0).all()
    weights = model.label_weights(X, Y)
    assert weights.shape == (EXAMPLES,) and (weights >= 0).all()
    np.testing.assert_allclose(weights.mean(), 1, atol=1e-5)
    trusts_all_alike = found.weight.isna()
    assert trusts_all_alike.all() or not trusts_all_alike.any()
    expected = np.where(trusts_all_alike, 1, found.weight)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def another(declared):
    """A value that a setting may have, and does not have by default."""
    setting, default = declared.setting, declared.default
    if setting.choices:
        return next(choice for choice in setting.choices if choice != default)
    if declared.type is bool:
        return not default
    for value in (2 * default, default / 2, default + 1):
        value = declared.type(value)
        if value != default and is_legal(setting, value):
            return value
    raise AssertionError(f"no other value of {declared} was found")


def is_legal(setting, value):
    try:
        setting.check("", value)
    except ValueError:
        return False
    return True


def test_config_brings_every_setting_back(case):
    # One at a time, since some go together with certain others alone.
    declared = settings_of(case.method).items()
    for settings in [{}, *({name: another(found)} for name, found in declared)]:
        model = case.method(unbuilt(), seed=7, name="mine", **settings)
        again = case.method.from_config(model.get_config())
        assert again.get_config() == model.get_config()
        assert again.seed == 7 and again.name == "mine"
        for name, value in settings.items():
            if not isinstance(getattr(model, name), keras.layers.Layer):
                assert getattr(model, name) == getattr(again, name) == value


# --- what is wrong, in one sentence


def assert_refused(call, *words, error=ValueError):
    with pytest.raises(error) as found:
        call()
    message = str(found.value)
    assert "\n" not in message and message.endswith(".")
    for word in words:
        assert word in message


def illegal(declared):
    """Values beyond each of a setting's bounds, and what is no number of its kind."""
    setting = declared.setting
    beyond = [setting.above, setting.below]
    beyond += [None if setting.least is None else setting.least - 1]
    beyond += [None if setting.most is None else setting.most + 1]
    values = [value for value in beyond if value is not None]
    if setting.choices:
        return ["nonsense"]
    values += [0.5] if declared.type is int else []
    return [*values, math.nan, math.inf] if declared.type in (int, float) else values


def test_values_out_of_range_are_refused_by_name(case):
    flags = {name: flag for flag, (name, _) in flags_of(case.name).items()}
    for name, declared in settings_of(case.method).items():
        for value in illegal(declared):
            make = functools.partial(case.method, unbuilt(), **{name: value})
            assert_refused(make, f"{name} must be", repr(value))
            flag = flags[name]
            make = functools.partial(Config, **case.flags, **{flag: value})
            assert_refused(make, f"--{flag} must be", repr(value), error=UserError)


def test_settings_of_another_method_are_refused_or_named(case):
    own = settings_of(case.method)
    theirs = {n for method in METHODS.values() for n in settings_of(method)}
    theirs -= {*own, *case.flags}
    for name in theirs:
        make = functools.partial(case.method, unbuilt(), **{name: 1})
        assert_refused(make, f"{case.method.__name__} has no setting {name}", *own)
    for other in METHODS:
        for flag, (_, declared) in flags_of(other).items():
            if flag not in {*flags_of(case.name), *case.flags}:
                config = Config(**case.flags, **{flag: another(declared)})
                assert [text.split("=")[0] for text in config.unused()] == [f"--{flag}"]


def test_a_temperature_that_judges_nothing_is_named():
    assert Config(temperature=2.0).unused() == ["--temperature=2.0"]
    assert Config(temperature=2.0, meta_objective="clid").unused() == []


def test_a_stream_that_is_missing_is_named(case):
    for name in feeds.needed_streams(case.method):
        assert_refused(lambda: case.model().fit(X, Y, verbose=0), f"{name}_data=")


def test_batches_that_are_too_small_are_refused(case, monkeypatch):
    least = max(case.method.least_batch, 3)  # of one, some say something else
    monkeypatch.setattr(case.method, "least_batch", least)
    further = feeds.further_data(case.method, X, Y, BATCH)
    # Of so many batches, the last holds so many.
    too_small = [(least - 1, 2 * (least - 1), least - 1), (least, least + 1, 1)]
    for size, examples, last in too_small:
        fit = functools.partial(
            case.model().fit, X[:examples], Y[:examples], batch_size=size, **further
        )
        assert_refused(fit, f"needs batches of {least}", f"{last} of them in the last")
    make = functools.partial(Config, **case.flags, batch_size=least - 1)
    assert_refused(make, f"needs {least} examples a batch", error=UserError)


def test_a_method_that_nobody_knows_is_refused():
    assert_refused(lambda: Config(method="nonsense"), *METHODS, error=UserError)


def test_a_method_is_public_and_has_a_config(case):
    if case.name in METHODS:
        assert getattr(clidmu, case.method.__name__) is case.method
        assert case.method.__name__ in clidmu.__all__
        paths = (pathlib.Path(__file__).parents[1] / "configs").glob("*.cfg")
        methods = {config_module.read(path).method for path in paths}
        assert case.name in methods, f"no file in configs/ trains {case.name}"


# --- last, since it waits for a process that the others run beside


@pytest.mark.parametrize("name", [*METHODS, *JOINED])
def test_two_replicas_make_the_update_of_one_device(name, on_devices):
    folder = on_devices()
    one, two = (
        dict(np.load(folder / f"{name}.{strategy}.npz"))
        for strategy in ("none", "mirrored")
    )
    assert_same(one, two, 2e-5)
