"""Uniform random numbers of many seeds at once.

TensorFlow draws from one seed at a time, and a loop over the images of a batch is slow:
it took three quarters of the time of small images' pipelines. This is TensorFlow's own
generator, Philox, over tensors of seeds. It draws the same numbers, to the bit.
"""

import tensorflow as tf

# Philox4x32-10. Words of 32 bits lie in uint64, where their products fit; the four of
# a state are the rows of two tensors, (0, 2) and (1, 3).
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
SEEDING_KEY = (0x3EC8F720, 0x02461E29)  # by which TensorFlow makes a state of a seed
WORD = 2**32 - 1
MANTISSA_BITS = 23


def uniform(seeds, count):
    """Draws `count` numbers in [0, 1) from each pair of seeds.

    Args:
        seeds: int32 tensor of shape `(b, 2)`.
        count: How many of each.

    Returns:
        float32 tensor of shape `(b, count)`, row by row what
        `tf.random.stateless_uniform([count], seed, alg="philox")` draws.

    Reference:
        Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
    """
    if seeds.shape[0] == 1:  # one operation is faster than many
        return tf.random.stateless_uniform([count], seeds[0], alg="philox")[None]
    return _uniform(seeds, count)


@tf.function(reduce_retracing=True)  # many small operations, and slow outside a graph
def _uniform(seeds, count):
    seeds = tf.cast(tf.cast(tf.transpose(seeds), "int64"), "uint64")[..., None]
    even, odd = _philox(_column(SEEDING_KEY), seeds & WORD, _upper(seeds))
    key = tf.stack([even[0], odd[0]])
    # Half of a state is the seed's, the other counts blocks of four numbers.
    block = tf.cast(tf.range(-(-count // 4)), "uint64") * tf.ones_like(even[1])
    none = tf.zeros_like(block)
    state = tf.stack([block, none + even[1]]), tf.stack([none, none + odd[1]])
    even, odd = _philox(key, *state)
    words = tf.transpose(tf.stack([even, odd]), [2, 3, 1, 0])  # block by block
    words = tf.reshape(words, [tf.shape(words)[0], -1])[:, :count]
    return tf.cast(words % 2**MANTISSA_BITS, "float32") / 2**MANTISSA_BITS


def _philox(key, even, odd):
    """Ten rounds over the words of states, of shape `(2, ...)`, by keys like them."""
    for _ in range(ROUNDS):
        products = tf.reverse(even * _column(MULTIPLIERS), [0])
        even, odd = _upper(products) ^ odd ^ key, products & WORD
        key = key + _column(KEY_STEPS) & WORD
    return even, odd


def _upper(values):
    return tf.bitwise.right_shift(values, tf.constant(32, "uint64"))


def _column(words):
    return tf.constant(words, "uint64", (2, 1, 1))
