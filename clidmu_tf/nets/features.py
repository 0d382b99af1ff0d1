"""Features and logits of any Keras classifier that ends in a Dense layer."""

import re

import keras
from keras import ops

LEAST_PROBABILITY = 1e-30  # Keeps the logarithm of a mean of probabilities finite.
# Of a last layer of several units, and of a single one, which tells two classes apart.
OUTPUT_ACTIVATIONS = {False: ("linear", "softmax"), True: ("linear", "sigmoid")}


RECIPE = (
    "Of a subclassed model, have `call` return the features, and put the last layer "
    "behind it:\n"
    "  inputs = keras.Input(shape)\n"
    "  classifier = keras.Model(inputs, keras.layers.Dense(num_classes)(body(inputs)))"
)


@keras.saving.register_keras_serializable("clidmu_tf")
class Logits(keras.layers.Layer):
    """What a Dense layer computes before its activation, with its weights.

    A single unit, whose sigmoid is the probability of the second of two classes, is
    the logit of that class beside a 0 for the first: their softmax says the same.
    """

    def __init__(self, dense, **kwargs):
        super().__init__(dtype=dense.dtype_policy, **kwargs)
        self.dense = dense

    def call(self, features):
        logits = ops.matmul(features, self.dense.kernel)
        logits = logits + self.dense.bias if self.dense.use_bias else logits
        return in_columns(logits)


def in_columns(logits):
    """Logits `(n, 1)` of the second of two classes as `(n, 2)`; others as they are."""
    if logits.shape[-1] > 1:
        return logits
    return ops.concatenate([ops.zeros_like(logits), logits], axis=-1)


def features_and_logits(classifier, feature_layer=None):
    """Returns a model that shares the classifier's weights and shows its inside.

    Args:
        classifier: A built Sequential or Functional model, the last layer of
            which is `Dense`, with or without a softmax (its own or a layer's
            after it); of two classes also `Dense(1)`, with or without a sigmoid.
        feature_layer: Name of the layer whose output is taken as features;
            `None` for the input of the last Dense layer.

    Returns:
        A `keras.Model` from the classifier's inputs to `(features, logits)`,
        `(n, d)` and `(n, num_classes)`.

    Raises:
        ValueError: The classifier cannot be understood; the sentence names the
            layer.
    """
    if isinstance(classifier, keras.Sequential) and not classifier.built:
        raise ValueError(
            f"classifier {classifier.name!r} has no input shape yet: put keras.Input "
            "first, or fit it to arrays or a tf.data.Dataset."
        )
    if not getattr(classifier, "outputs", None):
        raise ValueError(
            "classifier must be a Sequential or Functional model, so that its last "
            f"Dense layer can be found; received {type(classifier).__name__} "
            f"{classifier.name!r}. {RECIPE}"
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
    """`features_and_logits` of an average: its scores are what the model returns."""
    inputs = _inputs(model)
    insides = [features_and_logits(m, feature_layer) for m in members_of(model)]
    features, logits = zip(*(inside(inputs) for inside in insides), strict=True)
    is_linear = output_activation(model) == "linear"
    if not is_linear:
        logits = [ops.softmax(z) for z in logits]
    mean = keras.layers.Average()(list(logits))
    mean = mean if is_linear else ops.log(ops.maximum(mean, LEAST_PROBABILITY))
    features = keras.layers.Concatenate()(list(features))
    for i, inside in enumerate(insides):
        inside.name = f"inside_{i}"
    return keras.Model(inputs, [features, mean], name="inside")


def output_activation(classifier):
    """What the classifier makes of its logits: `"linear"`, `"softmax"`, `"sigmoid"`."""
    members = members_of(classifier)
    if members:
        return output_activation(members[0])
    layer = _producer(classifier.outputs[0])[0]
    if isinstance(layer, keras.Model):
        return output_activation(layer)
    return _activation(layer) or "linear"


def has_single_unit(classifier):
    """Whether one number tells two classes apart, the probability of the second."""
    members = members_of(classifier)
    if members:
        return has_single_unit(members[0])
    return getattr(head_of(classifier), "units", None) == 1


def returns_single_logit(classifier):
    """Whether the classifier, which need not be built, returns one number, above 0 for
    the second of two classes."""
    if isinstance(classifier, keras.Sequential) and not classifier.built:
        last = classifier.layers[-1] if classifier.layers else None
        return getattr(last, "units", None) == 1 and _activation(last) == "linear"
    is_linear = output_activation(classifier) == "linear"
    return is_linear and has_single_unit(classifier)


def scores_of(classifier, logits):
    """What the classifier returns for logits `(n, num_classes)`."""
    if has_single_unit(classifier):
        logits = logits[:, 1:] - logits[:, :1]
    activation = output_activation(classifier)
    return logits if activation == "linear" else getattr(ops, activation)(logits)


def probabilities_of(classifier, scores):
    """Probabilities `(n, num_classes)`, of what the classifier returns."""
    activation = output_activation(classifier)
    if not has_single_unit(classifier):
        return scores if activation == "softmax" else ops.softmax(scores)
    second = scores if activation == "sigmoid" else ops.sigmoid(scores)
    return ops.concatenate([1 - second, second], axis=-1)


def head_of(classifier):
    """Returns the classifier's last Dense layer."""
    layer, inputs = _producer(classifier.outputs[0])
    if _is_output_activation(layer):
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
    activation = None
    if _is_output_activation(layer):
        activation = _activation(layer)
        layer, inputs = _producer(inputs[0])
    if isinstance(layer, keras.Model) and not _is_subclassed(layer):
        inner = keras.Model(_inputs(layer), _trace(layer))
        return inner(inputs if len(inputs) > 1 else inputs[0])
    if not isinstance(layer, keras.layers.Dense):
        raise ValueError(
            "classifier must end in a Dense layer, with or without a softmax; "
            f"{model.name!r} ends in {type(layer).__name__} {layer.name!r}. Put a "
            f"Dense(num_classes) layer last. {RECIPE if _is_subclassed(layer) else ''}"
        )
    for name in (_activation(layer), activation or "linear"):
        known = OUTPUT_ACTIVATIONS[layer.units == 1]
        if name not in known:
            raise ValueError(
                f"the last Dense layer {layer.name!r} of {layer.units} units must have "
                f"no activation or {known[1]}; received activation={name!r}"
                f"{_why_not(layer.units, name)}."
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


def _is_subclassed(layer):
    return isinstance(layer, keras.Model) and not getattr(layer, "outputs", None)


def _why_not(units, activation):
    if activation == "sigmoid":
        return ": multi-label, several labels an example, is not supported"
    if units == 1:
        return f": {activation} of one unit tells no two classes apart"
    return ""


def _activation(layer):
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", None)


def _is_output_activation(layer):
    kinds = (keras.layers.Softmax, keras.layers.Activation)
    return isinstance(layer, kinds)


def _layer_output(model, name):
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise ValueError(
            f"feature_layer must be a layer of {model.name!r}; received {name!r}, "
            f"which has: {', '.join(names)}."
        )
    return model.get_layer(name).output
