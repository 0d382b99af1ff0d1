"""Short texts of two topics, to be told apart by their words."""


def message(topic, rng):
    """A text of topic 0, deliveries, or 1, payments, among words of neither."""
    words = [["parcel", "late", "courier"], ["card", "price", "bank"]][topic]
    fillers = ["please", "hello", "my", "is", "again", "could", "help", "Größe"]
    return " ".join(rng.permutation([*rng.choice(words, 2), *rng.choice(fillers, 4)]))
