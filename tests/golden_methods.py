"""Golden numbers of the methods beside CLID-MU, and a network to run them on."""

import pathlib

import numpy as np
import tensorflow as tf

from clidmu_tf.nets.weight_nets import WNet

METHODS = np.load(pathlib.Path(__file__).parent / "data" / "methods.npz")
DENSE = ("w1", "b1", "w2", "b2")


def values(prefix, names=DENSE):
    """Golden arrays as float64 tensors, Dense kernels turned the Keras way round."""
    arrays = [METHODS[f"{prefix}_{name}"] for name in names]
    return [tf.constant(array.T, "float64") for array in arrays]


def golden_weight_net(prefix):
    """A float64 `WNet` of 8 units with the golden weights."""
    net = WNet(dtype="float64")
    net.build_for(8, 4)
    for layer, (kernel, bias) in zip(
        [net.hidden, net.weight], [DENSE[:2], DENSE[2:]], strict=True
    ):
        layer.kernel.assign(METHODS[f"{prefix}_wn_{kernel}"].T)
        layer.bias.assign(METHODS[f"{prefix}_wn_{bias}"])
    return net


def two_layers(theta, state, x):
    """Dense → ReLU → Dense, the network of every golden case, as a pure function."""
    w1, b1, w2, b2 = theta
    features = tf.nn.relu(tf.matmul(x, w1) + b1)
    return features, tf.matmul(features, w2) + b2, state


def one_hot(labels, num_classes=4):
    return tf.one_hot(labels, num_classes, dtype="float64")
