"""Find wrong labels, mend them, train again: handwritten digits.

python examples/find_and_fix_labels.py
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import clidmu_tf as clidmu

# --- scikit-learn's 8x8 digits, with three in ten training labels taken for the next

digits = load_digits()
train_x, test_x, true_y, test_y = train_test_split(
    digits.images[..., None].astype("float32") / 16, digits.target, random_state=0
)
given_y = clidmu.noise.asymmetric(true_y, rate=0.3, seed=0)


def build_classifier():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dense(10),
        ]
    )


def accuracy_when_trained_on(labels):
    """Test accuracy of plain cross-entropy."""
    model = build_classifier()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, 0.9), loss, metrics=["accuracy"])
    model.fit(train_x, labels, epochs=20, batch_size=100, verbose=0)
    return model.evaluate(test_x, test_y, verbose=0)[1]


# --- CLID-MU does not learn them by heart, so its audit can tell which they are

model = clidmu.CLIDMU(build_classifier())
model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9))
model.fit(train_x, given_y, epochs=20, batch_size=100, verbose=0)
issues = clidmu.audit(model, train_x, given_y)

worst_first = issues.sort_values("label_quality")
columns = ["given_label", "suggested_label", "label_quality", "weight"]
print(worst_first[columns].head(3).round(3).to_string(), end="\n\n")
is_wrong, found = given_y != true_y, issues.is_label_issue
print(f"wrong labels           {is_wrong.sum()} of {len(given_y)}")
print(f"called likely wrong    {found.sum()}, of which {(found & is_wrong).sum()} are")

# --- take the suggestions (a person would look at them first), and train again

fixed_y = np.where(found, issues.suggested_label, given_y)
print(f"wrong after fixing     {(fixed_y != true_y).sum()}")
print(f"test accuracy, before  {accuracy_when_trained_on(given_y):.3f}")
print(f"test accuracy, after   {accuracy_when_trained_on(fixed_y):.3f}")
