"""The data of the benchmark of harm: what a default must not make worse.

Each row names a data set, its noise, the network, how many epochs, and the metric;
all else is a method's one configuration. Labels are wrong by chance (digits, CIFAR-10,
tables), because people erred (CIFAR-10N) or because a rule gave them (Hausa), and some
are not wrong at all. Classes are even but for the tables of `make_classification`.

    for row in rows(tfds_dir="…", hausa_dir="…"):
        data = row.load(seed=0)
        classifier = row.network(data, seed=0)
"""

import csv
import dataclasses
import functools
import pathlib
from collections.abc import Callable

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine, make_classification
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split

from clidmu_tf import noise
from clidmu_tf.nets import backbones
from clidmu_tf.runs.config import Config
from clidmu_tf.runs.experiment import Experiment

TEXT_FEATURES = 4000
TABLE_EXAMPLES = 4000
TABLE_COLUMNS = 20


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set to train on and one with true labels to report on.

    Attributes:
        x_train: Inputs: uint8 images, or float32 rows.
        noisy_y: `(n,)`, the labels to train on.
        clean_y: `(n,)`, the true ones; `None` where nobody knows them.
        x_test: Inputs to report on.
        y_test: Their true labels.
        num_classes: Number of classes.
    """

    x_train: np.ndarray
    noisy_y: np.ndarray
    clean_y: np.ndarray | None
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the benchmark.

    Attributes:
        name: What the tables call it.
        load: `(seed) → Data`; the seed decides the noise and, of tables, the split.
        network: `(data, seed) → classifier`, untrained.
        epochs: Passes over the training data.
        batch_size: Examples a step.
        augment: As `Config.augment`; empty for none.
        metric: `accuracy` or `balanced_accuracy`, by name.
    """

    name: str
    load: Callable
    network: Callable
    epochs: int
    batch_size: int = 100
    augment: str = ""
    metric: str = "accuracy"

    def score(self, y_true, y_predicted):
        """The row's metric of predicted classes."""
        if self.metric == "balanced_accuracy":
            return float(balanced_accuracy_score(y_true, y_predicted))
        return float(np.mean(np.equal(y_true, y_predicted)))


def rows(tfds_dir=None, hausa_dir=None):
    """Returns the rows of the benchmark, the quick ones first.

    Args:
        tfds_dir: TFDS's folder with `cifar10` and `cifar10_n`; `None` leaves the rows
            of CIFAR out.
        hausa_dir: Folder with `train_noisy.tsv`, `train_clean.tsv` and `test.tsv`;
            `None` leaves that row out.
    """
    found = [*table_rows(), *digits_rows()]
    if hausa_dir:
        load = functools.partial(hausa, hausa_dir)
        found.append(Row("Hausa, keyword labels", load, text_network, epochs=40))
    if tfds_dir:
        found += cifar_rows(tfds_dir)
    return found


def digits_rows():
    """Digits, clean and under the three kinds of noise."""
    kinds = {
        "clean": ("none", 0.0),
        "symmetric 20 %": ("symmetric", 0.2),
        "symmetric 60 %": ("symmetric", 0.6),
        "symmetric 80 %": ("symmetric", 0.8),
        "pair flip 40 %": ("asymmetric", 0.4),
        "instance 40 %": ("instance", 0.4),
    }
    network = functools.partial(image_network, "digits_cnn")
    return [
        Row(
            f"digits, {name}",
            functools.partial(images, noise=kind, noise_rate=rate),
            network,
            epochs=60,
        )
        for name, (kind, rate) in kinds.items()
    ]


def cifar_rows(tfds_dir):
    """CIFAR-10 with drawn noise, and CIFAR-10N with the worst of its human labels."""
    drawn = functools.partial(
        images,
        dataset="cifar10",
        data_dir=str(tfds_dir),
        train_examples=5000,
        noise="symmetric",
        noise_rate=0.6,
    )
    human = functools.partial(
        images,
        dataset="cifar10_n",
        data_dir=str(tfds_dir),
        label_key="worse_label",
        clean_label_key="label",
        train_examples=9000,
    )
    small = {"network": functools.partial(image_network, "small_cnn"), "epochs": 40}
    large = {"network": functools.partial(image_network, "resnet20"), "epochs": 20}
    moved = {"augment": "flip,crop"}
    return [
        Row("CIFAR-10, 5,000 images, symmetric 60 %", drawn, **small, **moved),
        Row("CIFAR-10N worst, 9,000 images", human, **small, **moved),
        Row("CIFAR-10N worst, 9,000 images, ResNet-20", human, **large, **moved),
    ]


def table_rows():
    """Tables of scikit-learn, and drawn ones with rare classes; 20 % wrong labels.

    Few examples, so many epochs and the batches of 32 that Keras takes by itself.
    """
    real = {"wine": load_wine, "breast cancer": load_breast_cancer}
    drawn = {"80 / 15 / 5 %": (0.8, 0.15, 0.05), "90 / 10 %": (0.9, 0.1)}
    found = []
    for name, loader in real.items():
        for wrong in (0.0, 0.2):
            load = functools.partial(real_table, loader, wrong)
            found.append(
                Row(_named(name, wrong), load, row_network, epochs=100, batch_size=32)
            )
    for name, shares in drawn.items():
        for wrong in (0.0, 0.2) if len(shares) > 2 else (0.0, 0.1, 0.2):
            load = functools.partial(drawn_table, shares, wrong)
            found.append(
                Row(
                    _named(name, wrong),
                    load,
                    row_network,
                    epochs=60,
                    batch_size=32,
                    metric="balanced_accuracy",
                )
            )
    return found


def images(seed, **settings):
    """The images that a `Config` names, with its noise, all of them in memory."""
    source = Experiment(Config(seed=seed, **settings)).source
    train, test = source.train, source.test
    known = train.clean_labels
    if known is None and settings.get("noise", "none") == "none":
        known = None if source.name == "cifar10_n" else train.labels
    return Data(
        train.inputs,
        train.labels,
        known,
        test.inputs,
        test.labels,
        len(source.class_names),
    )


def hausa(folder, seed=0):
    """Headlines in Hausa by topic, labelled by lists of keywords (50 % wrong).

    TF-IDF of the character n-grams of length 2 to 5. The noise is what it is: nothing
    is drawn, so the seed decides nothing here.

    Reference:
        Hedderich et al., "Transfer Learning and Distant Supervision for Multilingual
        Transformer Models", EMNLP 2020.
    """
    folder = pathlib.Path(folder)
    noisy, clean, test = (
        _read_topics(folder / f"{name}.tsv")
        for name in ("train_noisy", "train_clean", "test")
    )
    truth = dict(clean)
    topics = sorted({label for _, label in (*noisy, *clean, *test)})
    vectorizer = TfidfVectorizer(
        analyzer="char",
        ngram_range=(2, 5),
        max_features=TEXT_FEATURES,
    )
    x_train = vectorizer.fit_transform([title for title, _ in noisy])
    x_test = vectorizer.transform([title for title, _ in test])
    return Data(
        x_train.toarray().astype("float32"),
        np.array([topics.index(label) for _, label in noisy]),
        np.array([topics.index(truth[title]) for title, _ in noisy]),
        x_test.toarray().astype("float32"),
        np.array([topics.index(label) for _, label in test]),
        len(topics),
    )


def real_table(loader, wrong, seed):
    """A table of scikit-learn, a third of it to report on."""
    x, y = loader(return_X_y=True)
    return _table(x, y, wrong, seed, test_share=1 / 3)


def drawn_table(shares, wrong, seed):
    """A table with classes of these shares, half of it to report on.

    Half of the columns tell something; every class is two clusters of them.
    """
    x, y = make_classification(
        TABLE_EXAMPLES,
        TABLE_COLUMNS,
        n_informative=TABLE_COLUMNS // 2,
        n_redundant=0,
        n_classes=len(shares),
        weights=list(shares),
        flip_y=0.0,
        random_state=seed,
    )
    return _table(x, y, wrong, seed, test_share=1 / 2)


def image_network(backbone, data, seed):
    """One of the package's networks, for images of this data set's size."""
    return backbones.build(backbone, data.x_train.shape[1:], data.num_classes, seed)


def text_network(data, seed):
    """One hidden layer of 128 units."""
    return _dense_network(data, [128], seed)


def row_network(data, seed):
    """Two hidden layers of 64 units."""
    return _dense_network(data, [64, 64], seed)


def _dense_network(data, widths, seed):
    def initial(number):
        return keras.initializers.GlorotUniform(seed + 1000 * number)

    x = inputs = keras.Input(data.x_train.shape[1:])
    for number, width in enumerate(widths, 1):
        x = keras.layers.Dense(width, "relu", kernel_initializer=initial(number))(x)
    outputs = keras.layers.Dense(data.num_classes, kernel_initializer=initial(0))(x)
    return keras.Model(inputs, outputs)


def _table(x, y, wrong, seed, test_share):
    """Splits, scales by the training rows, and makes a share of the labels wrong."""
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=test_share, stratify=y, random_state=seed
    )
    mean, std = x_train.mean(0), x_train.std(0) + 1e-9
    classes = int(y.max()) + 1
    # A redrawn label may come out right, so more are redrawn than are to be wrong.
    noisy = noise.apply(
        "symmetric", y_train, wrong * classes / (classes - 1), seed, num_classes=classes
    )
    return Data(
        ((x_train - mean) / std).astype("float32"),
        noisy,
        y_train,
        ((x_test - mean) / std).astype("float32"),
        y_test,
        classes,
    )


def _read_topics(path):
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(line["news_title"], line["label"]) for line in lines]


def _named(name, wrong):
    return f"{name}, {f'{wrong:.0%} wrong'.replace('%', ' %') if wrong else 'clean'}"
