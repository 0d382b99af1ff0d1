"""Features and logits of any Keras classifier that ends in a Dense layer."""

import re

import keras
from keras import ops

OUTPUT_ACTIVATIONS = ("linear", "softmax")


@keras.saving.register_keras_serializable("clidmu_tf")
class Logits(keras.layers.Layer):
    """What a Dense layer computes before its activation, with its weights."""

    def __init__(self, dense, **kwargs):
        super().__init__(dtype=dense.dtype_policy, **kwargs)
        self.dense = dense

    def call(self, features):
        logits = ops.matmul(features, self.dense.kernel)
        return logits + self.dense.bias if self.dense.use_bias else logits


def features_and_logits(classifier, feature_layer=None):
    """Returns a model that shares the classifier's weights and shows its inside.

    Args:
        classifier: A built Sequential or Functional model, the last layer of
            which is `Dense`, with or without a softmax (its own or a layer's
            after it).
        feature_layer: Name of the layer whose output is taken as features;
            `None` for the input of the last Dense layer.

    Returns:
        A `keras.Model` from the classifier's inputs to `(features, logits)`,
        `(n, d)` and `(n, num_classes)`.

    Raises:
        ValueError: The classifier cannot be understood; the sentence names the
            layer.
    """
    if not getattr(classifier, "outputs", None):
        raise ValueError(
            "classifier must be a Sequential or Functional model, so that its last "
            f"Dense layer can be found; received {type(classifier).__name__} "
            f"{classifier.name!r}. Build it with keras.Model(inputs, outputs) and give "
            "feature_layer= if the features are not the last Dense layer's input."
        )
    if len(classifier.outputs) != 1:
        raise ValueError(
            "classifier must have one output, the class scores; "
            f"{classifier.name!r} has {len(classifier.outputs)}."
        )
    if members_of(classifier):
        return _average_inside(classifier, feature_layer)
    features, logits = _trace(classifier)
    if feature_layer is not None:
        features = _layer_output(classifier, feature_layer)
    if len(features.shape) != 2:
        raise ValueError(
            f"features must have shape (n, d); received {tuple(features.shape)} from "
            f"{feature_layer or 'the last Dense layer'!r} of {classifier.name!r}. Pool "
            "or flatten before it, or name another layer with feature_layer=."
        )
    return keras.Model(_inputs(classifier), [features, logits], name="inside")


def average_of(classifiers, name="average"):
    """A model of the mean of what classifiers of one kind return.

    Args:
        classifiers: Built Sequential or Functional models, of one input shape, whose
            names differ.
        name: Name of the model.

    Returns:
        A `keras.Model` that shares their weights. `features_and_logits` knows it: its
        features are those of all members, side by side.
    """
    inputs = inputs_like(classifiers[0])
    scores = [classifier(inputs) for classifier in classifiers]
    return keras.Model(inputs, keras.layers.Average()(scores), name=name)


def members_of(model):
    """The classifiers of which a model is the `average_of`; none of any other."""
    layer, inputs = _producer(model.outputs[0])
    if not isinstance(layer, keras.layers.Average):
        return []
    members = [_producer(tensor)[0] for tensor in inputs]
    return members if all(isinstance(m, keras.Model) for m in members) else []


def inputs_like(classifier):
    """New inputs for a model around a classifier, in the structure of its own."""
    return keras.tree.map_structure(
        lambda tensor: keras.Input(
            batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name
        ),
        classifier.inputs[0] if len(classifier.inputs) == 1 else classifier.input,
    )


def _average_inside(model, feature_layer):
    """`features_and_logits` of an average: its softmax is what the model returns."""
    inputs = _inputs(model)
    insides = [features_and_logits(m, feature_layer) for m in members_of(model)]
    features, logits = zip(*(inside(inputs) for inside in insides), strict=True)
    if ends_in_softmax(model):
        logits = [ops.softmax(z) for z in logits]
    mean = keras.layers.Average()(list(logits))
    if ends_in_softmax(model):
        mean = ops.log(mean)
    features = keras.layers.Concatenate()(list(features))
    for i, inside in enumerate(insides):
        inside.name = f"inside_{i}"
    return keras.Model(inputs, [features, mean], name="inside")


def ends_in_softmax(classifier):
    """Whether the classifier returns probabilities rather than logits."""
    members = members_of(classifier)
    if members:
        return ends_in_softmax(members[0])
    layer = _producer(classifier.outputs[0])[0]
    if isinstance(layer, keras.Model):
        return ends_in_softmax(layer)
    return isinstance(layer, keras.layers.Softmax) or _activation(layer) == "softmax"


def head_of(classifier):
    """Returns the classifier's last Dense layer."""
    layer, inputs = _producer(classifier.outputs[0])
    if _is_softmax_layer(layer):
        layer, _ = _producer(inputs[0])
    return head_of(layer) if isinstance(layer, keras.Model) else layer


def virtual_variables(classifier, scope):
    """Which trainable variables a virtual step of this scope moves.

    Args:
        classifier: A built Sequential or Functional model.
        scope: `"all"`; `"head"`, the last Dense layer; or `"last_block"`, the last
            block (`…block3_…`) that layer names show, or else the last layer with
            weights, and all that follows it.

    Returns:
        A boolean for each of the classifier's trainable variables, in order.
    """
    variables = classifier.trainable_variables
    if scope == "all":
        return [True] * len(variables)
    head = head_of(classifier)
    layers = [head] if scope == "head" else [head, *_last_block(classifier, head)]
    moved = {id(v) for layer in layers for v in layer.trainable_variables}
    return [id(variable) in moved for variable in variables]


def _last_block(classifier, head):
    layers = [layer for layer in _leaves(classifier) if layer.weights]
    names_blocks = any(_block_name(layer) for layer in layers)
    block, name = [], None
    for layer in reversed([layer for layer in layers if layer is not head]):
        if name is not None and _block_name(layer) != name:
            break
        block.append(layer)
        if not names_blocks:
            break
        name = _block_name(layer)
    return block


def _block_name(layer):
    found = re.match(r".*?block_?\d+[a-z]?", layer.name)
    return found and found.group()


def _leaves(model):
    """The layers of a model and of the models within, in their order."""
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, keras.Model) else [layer]


def _trace(model):
    layer, inputs = _producer(model.outputs[0])
    if _is_softmax_layer(layer):
        layer, inputs = _producer(inputs[0])
    if isinstance(layer, keras.Model):
        inner = keras.Model(_inputs(layer), _trace(layer))
        return inner(inputs if len(inputs) > 1 else inputs[0])
    if not isinstance(layer, keras.layers.Dense):
        raise ValueError(
            "classifier must end in a Dense layer, with or without a softmax; "
            f"{model.name!r} ends in {type(layer).__name__} {layer.name!r}. Put a "
            "Dense(num_classes) layer last."
        )
    if _activation(layer) not in OUTPUT_ACTIVATIONS:
        raise ValueError(
            f"the last Dense layer {layer.name!r} must have no activation or softmax; "
            f"received activation={_activation(layer)!r}."
        )
    if layer.units < 2:
        raise ValueError(
            f"the last Dense layer {layer.name!r} must have one unit per class, two "
            f"or more; received units={layer.units}. For two classes use Dense(2)."
        )
    features = inputs[0]
    logits = Logits(layer, name=f"{layer.name}_before_activation")(features)
    return features, logits


def _inputs(model):
    sequential = isinstance(model, keras.Sequential)
    return model.inputs[0] if sequential else model.input


def _producer(tensor):
    """The layer that made a tensor, and the tensors that it was made from."""
    operation, node_index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node_index].input_tensors


def _activation(layer):
    return getattr(getattr(layer, "activation", None), "__name__", None)


def _is_softmax_layer(layer):
    return isinstance(layer, keras.layers.Softmax) or (
        isinstance(layer, keras.layers.Activation) and _activation(layer) == "softmax"
    )


def _layer_output(model, name):
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise ValueError(
            f"feature_layer must be a layer of {model.name!r}; received {name!r}, "
            f"which has: {', '.join(names)}."
        )
    return model.get_layer(name).output
