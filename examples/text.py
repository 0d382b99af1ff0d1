"""Short texts with wrong labels: an Embedding layer, inside CLID-MU.

python examples/text.py
"""

import keras
import numpy as np

import clidmu_tf as clidmu

# --- 1,600 invented messages to a shop, about one of four topics

TOPICS = {
    "delivery": "parcel courier late address arrived lost tracking doorstep",
    "payment": "card charged invoice price bank twice discount receipt",
    "returns": "refund broken exchange size replace faulty label warranty",
    "account": "password login email profile locked username settings delete",
}
FILLERS = """please hello my the is was about again why could you help with it today so
yesterday friend never still because happened week ago maybe really tell me now what
thanks regards sorry question need urgent first second long after before since"""

rng = np.random.default_rng(0)
true_y = rng.integers(0, len(TOPICS), 1600)
words = [text.split() for text in TOPICS.values()]
fillers = FILLERS.split()
texts = [
    " ".join(rng.permutation([*rng.choice(words[i], 2), *rng.choice(fillers, 7)]))
    for i in true_y
]
print(f"a message              {texts[0]!r}: {list(TOPICS)[true_y[0]]}")

# Half of the first 800 were filed under a topic drawn by chance; the rest are the test.
noisy_y = clidmu.noise.symmetric(true_y[:800], rate=0.5, seed=0)
print(f"wrong training labels  {np.mean(noisy_y != true_y[:800]):.0%}")

vectorize = keras.layers.TextVectorization(output_sequence_length=9)
vectorize.adapt(texts[:800])
tokens = np.array(vectorize(texts))
train_x, test_x, test_y = tokens[:800], tokens[800:], true_y[800:]


def build_classifier():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((9,), dtype="int64"),
            layers.Embedding(vectorize.vocabulary_size(), 32),
            layers.GlobalAveragePooling1D(),
            layers.Dense(64, "relu"),
            layers.Dense(len(TOPICS)),
        ]
    )


plain = build_classifier()
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
plain.compile(keras.optimizers.Adam(0.01), loss)
model = clidmu.CLIDMU(build_classifier())
model.compile(optimizer=keras.optimizers.Adam(0.01))
for name, classifier in [("cross-entropy", plain), ("CLID-MU", model)]:
    classifier.fit(train_x, noisy_y, epochs=30, batch_size=100, verbose=0)
    predicted = classifier.predict(test_x, verbose=0).argmax(axis=1)
    print(f"test accuracy, {name:<13}  {np.mean(predicted == test_y):.3f}")
