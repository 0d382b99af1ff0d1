"""Copies of a classifier: with its weights, with others, or drawn anew."""

import tempfile

import keras


def copy_of(classifier, weights=None):
    """A copy of a classifier, which shares nothing with it.

    `keras.models.clone_model` draws new weights, and leaves out what layers were
    adapted to: the mean and deviation of a `Normalization`, a vocabulary.

    Args:
        classifier: Sequential or Functional model.
        weights: What its `get_weights()` returned, now or before; `None` for now.
    """
    copy = keras.models.clone_model(classifier)
    for layer, own in _layers_of(classifier, copy):
        _adapt(own, layer)
    set_weights(copy, classifier.get_weights() if weights is None else weights)
    return copy


def drawn_anew(classifier):
    """A network of the same layers, whose trainable weights are drawn anew.

    What no training changes, such as a frozen backbone or a mean that inputs are
    normalised by, is as in the classifier.
    """
    copy = keras.models.clone_model(classifier)
    for layer, own in _layers_of(classifier, copy):
        if not layer.trainable_variables:
            own.set_weights(layer.get_weights())
        _adapt(own, layer)
    copy.name = f"{classifier.name}_peer"
    return copy


def set_weights(layer, weights):
    """Keras's, after which a `Normalization` inside goes by what it was given."""
    layer.set_weights(weights)
    for part in layer._flatten_layers():
        if isinstance(part, keras.layers.Normalization):
            part.finalize_state()


def _layers_of(classifier, copy):
    """The layers of both, those of models inside of them one by one."""
    for layer, own in zip(classifier.layers, copy.layers, strict=True):
        if getattr(layer, "layers", None):
            yield from _layers_of(layer, own)
        else:
            yield layer, own


def _adapt(copy, layer):
    """Gives a layer what another was adapted to, as Keras saves and loads it."""
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)
    if hasattr(layer, "adapt"):
        adapted = {}
        layer.save_own_variables(adapted)
        copy.load_own_variables(adapted)
