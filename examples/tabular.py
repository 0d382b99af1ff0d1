"""Table data with wrong labels: your own Keras model, inside CLID-MU.

python examples/tabular.py
"""

import keras
import numpy as np

import clidmu_tf as clidmu

# --- 2,000 rows of 10 columns; the classes are 3 clouds of points that overlap a little

rng = np.random.default_rng(0)
centres = rng.normal(size=(3, 10))
true_y = rng.integers(0, 3, 2000)
x = (centres[true_y] + 0.8 * rng.normal(size=(2000, 10))).astype("float32")

# The last 1,000 rows are for the test. Of the others, whoever gave the labels mistook
# four in ten for the next class. Training sees those labels alone.
train_x, test_x, test_y = x[:1000], x[1000:], true_y[1000:]
noisy_y = clidmu.noise.asymmetric(true_y[:1000], rate=0.4, seed=0)
print(f"wrong training labels  {np.mean(noisy_y != true_y[:1000]):.0%}")

# --- any classifier that ends in Dense; trained as ever, it learns wrong labels, too


def build_classifier():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((10,)), layers.Dense(128, "relu"), layers.Dense(3)]
    )


plain = build_classifier()
plain.compile(
    keras.optimizers.SGD(0.05, momentum=0.9),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
plain.fit(train_x, noisy_y, epochs=30, batch_size=100, verbose=0)

# --- the same classifier, optimizer and epochs, in CLID-MU

model = clidmu.CLIDMU(build_classifier())
model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9))
model.fit(train_x, noisy_y, epochs=30, batch_size=100, verbose=0)

for name, classifier in [("cross-entropy", plain), ("CLID-MU", model)]:
    predicted = classifier.predict(test_x, verbose=0).argmax(axis=1)
    print(f"test accuracy, {name:<13}  {np.mean(predicted == test_y):.3f}")
