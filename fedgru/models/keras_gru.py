"""The model of `fedgru.models.gru` as a stock Keras model: to inspect, export and serve.

One-hot inputs, a stateful recurrent layer, a dense head or the head candidates
(`fedgru.models.keras_candidates`). The weights are those of the pure model.
"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np

from fedgru.core.types import AnyArray, Bools, Floats, Weights
from fedgru.models import keras_candidates, keras_heads
from fedgru.models.candidate_head import PREFIX, Candidates, CandidateSpec, Scored, Trained
from fedgru.models.cells import CELLS
from fedgru.models.gru import ModelSpec


class FeatureInputs(Protocol):
    """The names and sizes of a model's features, as Inputs and Schema have them."""

    @property
    def id_names(self) -> tuple[str, ...]: ...

    @property
    def number_names(self) -> tuple[str, ...]: ...

    @property
    def sizes(self) -> dict[str, int]: ...


def build(
    spec: ModelSpec,
    inputs: FeatureInputs,
    batch_size: int = 1,
    seq_len: int | None = 1,
    output: str = "probabilities",
    protected: tuple[tuple[int, ...], int] | None = None,
    represents: Collection[str] = (),
) -> Any:
    """Build the stateful Keras model of a ModelSpec, with Keras' own start weights.

    Args:
        spec: ModelSpec.
        inputs: Inputs or Schema, for the names and sizes of the features.
        batch_size: number of rows, each with its own state.
        seq_len: check-ins in a call; None for any number.
        output: "probabilities", "scores" (the softmax's input), or "hidden".
        protected: None, or (units of the head's hidden layers, values of the concept). Then, with
            output "scores", the output is a dict of "scores" and "protected"; the layers "share"
            and "reversal" scale their gradients (see `keras_heads.scale_gradient`).
        represents: changes of the hidden state before the heads, out of "erase" and "noise"; see
            `fedgru.models.gru.represent`.

    Returns:
        keras.Model. Inputs, by name: each id feature, int32 [batch, seq_len], the vocabulary's
        ids (0 is unknown); each number, float32 [batch, seq_len]; with a prior `log_prior`,
        float32 [batch, seq_len, num_classes]; with noise `noise`, float32 [batch, seq_len,
        hidden_dim], standard normal; with a CandidateSpec those of `keras_candidates.feed`.
        Output: float32 [batch, seq_len, num_classes], or [..., hidden_dim]; the scores of a
        CandidateSpec are [..., 1 + num_candidates]. The state is kept between calls; `reset_state`
        sets it to zero. (On Keras' JAX backend only a plain call keeps it, `predict` does not.)
    """
    import keras

    ops = _ops()
    shape = {"batch_size": batch_size}
    ids = {
        name: keras.Input((seq_len,), dtype="int32", name=name, **shape) for name in inputs.id_names
    }
    numbers = {name: keras.Input((seq_len,), name=name, **shape) for name in inputs.number_names}
    # id 0 is unknown: one_hot of -1 is all zeros
    columns = [ops.one_hot(ids[name] - 1, inputs.sizes[name]) for name in inputs.id_names] + [
        ops.expand_dims(number, -1) for number in numbers.values()
    ]
    joined = keras.layers.Concatenate(name="inputs")(columns) if len(columns) > 1 else columns[0]
    if spec.dropout > 0:
        # one mask per sequence; the recurrent layer's own dropout does this in Keras 3, but in a
        # compiled step of Keras 2 it draws a new mask for each check-in
        joined = keras.layers.SpatialDropout1D(spec.dropout, name="dropout")(joined)
    layer = getattr(keras.layers, CELLS[spec.cell].keras_layer)
    hidden = layer(
        spec.hidden_dim,
        recurrent_initializer="glorot_uniform",
        return_sequences=True,
        stateful=True,
        name="recurrent",
    )(joined)
    arguments = ids | numbers
    if output == "hidden":
        return keras.Model(arguments, hidden)
    if "erase" in represents:
        hidden = keras.layers.Dense(spec.hidden_dim, name="erase")(hidden)
    if "noise" in represents:
        arguments["noise"] = keras.Input((seq_len, spec.hidden_dim), name="noise", **shape)
        hidden = keras.layers.Add(name="represented")(
            [hidden, _scaled(arguments["noise"], "noise_scale")]
        )
    if isinstance(spec, CandidateSpec):
        own = (arguments, batch_size, seq_len)
        scores = keras_candidates.add_scores(spec, hidden, *own)
        if output == "probabilities":
            scores = keras_candidates.add_probabilities(spec, scores, *own)
        return keras.Model(arguments, scores)
    scores = keras.layers.Dense(spec.num_classes, name="head")(hidden)
    if spec.has_prior:
        scores = add_prior(spec, scores, arguments, batch_size, seq_len)
    if protected is not None:
        scores = keras_heads.scale_gradient("share")(scores)
        outputs = {"scores": scores, "protected": keras_heads.add_head(hidden, *protected)}
        return keras.Model(arguments, outputs)
    if output == "scores":
        return keras.Model(arguments, scores)
    return keras.Model(arguments, keras.layers.Softmax(name="probabilities")(scores))


def add_prior(
    spec: ModelSpec, scores: Any, arguments: dict[str, Any], batch_size: int, seq_len: int | None
) -> Any:
    """Return scores plus the scaled log prior, which becomes one more input in `arguments`."""
    import keras

    shape = (seq_len, spec.num_classes)
    arguments["log_prior"] = keras.Input(shape, name="log_prior", batch_size=batch_size)
    scaled = _scaled(arguments["log_prior"], "prior_scale")
    return keras.layers.Add(name="scores")([scores, scaled])


def _scaled(tensor: Any, name: str) -> Any:
    """Return a tensor times one trainable number: a 1 x 1 kernel on an extra axis."""
    import keras

    ops = _ops()
    scale = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=name)
    return ops.squeeze(scale(ops.expand_dims(tensor, -1)), -1)


def _ops() -> Any:
    """Return keras.ops, or in Keras 2, which has none, TensorFlow, with the same names."""
    import keras

    if hasattr(keras, "ops"):
        return keras.ops
    import tensorflow

    return tensorflow


def set_weights(model: Any, weights: Mapping[str, Floats]) -> None:
    """Set the weights of a model from `build` to the pure model's weights.

    Args:
        model: keras.Model.
        weights: name -> float32 array, see `fedgru.models.gru`.
    """
    kernel = np.concatenate([weights["rows"], weights["numbers"]])
    model.get_layer("recurrent").set_weights([kernel, weights["recurrent"], weights["bias"]])
    layers = {layer.name: layer for layer in model.layers}
    if "head" in layers:
        layers["head"].set_weights([weights["head_kernel"], weights["head_bias"]])
    elif f"{PREFIX}state" in layers:
        keras_candidates.set_weights(layers, weights)
    for name in {"prior_scale", "noise_scale"} & set(layers):
        layers[name].set_weights([np.reshape(weights[name], (1, 1))])
    if "erase" in layers:  # h - (h - mean) @ removed
        mean, removed = weights["erase_mean"], weights["erase_removed"]
        kept = np.eye(len(mean), dtype=np.float32) - removed
        layers["erase"].set_weights([kept, mean @ removed])
    for name, layer in keras_heads.head_layers(model).items():
        layer.set_weights([weights[f"{name}_kernel"], weights[f"{name}_bias"]])


def get_weights(model: Any, num_rows: int) -> Weights:
    """Return the weights of a model from `build` under the pure model's names.

    Args:
        model: keras.Model.
        num_rows: number of the kernel's rows that belong to id features.
    """
    kernel, recurrent, bias = model.get_layer("recurrent").get_weights()
    weights = {
        "rows": kernel[:num_rows],
        "numbers": kernel[num_rows:],
        "recurrent": recurrent,
        "bias": bias,
    }
    layers = {layer.name: layer for layer in model.layers}
    if "head" in layers:
        weights["head_kernel"], weights["head_bias"] = layers["head"].get_weights()
    else:
        weights |= keras_candidates.get_weights(layers)
    if "prior_scale" in layers:
        weights["prior_scale"] = layers["prior_scale"].get_weights()[0].reshape(())
    for name, layer in keras_heads.head_layers(model).items():
        weights[f"{name}_kernel"], weights[f"{name}_bias"] = layer.get_weights()
    return weights


def feed(
    inputs: FeatureInputs, rows: AnyArray, numbers: AnyArray, beside: Any = None
) -> dict[str, AnyArray]:
    """Return the inputs of a model from `build`, by name, from the pure model's arrays.

    Args:
        inputs: Inputs.
        rows: int32 [batch, seq_len, num_id_features], table rows; -1 unknown.
        numbers: float32 [batch, seq_len, num_numbers].
        beside: what the head reads beside the states: the log prior, float32 [batch, seq_len,
            num_classes], or None without a prior; Candidates, Trained or Scored [batch, seq_len].
    """
    sizes = [inputs.sizes[name] for name in inputs.id_names]
    offsets = np.cumsum([0, *sizes[:-1]])
    by_name = {
        name: np.where(rows[..., i] < 0, 0, rows[..., i] - offsets[i] + 1).astype(np.int32)
        for i, name in enumerate(inputs.id_names)
    }
    by_name |= {name: numbers[..., i] for i, name in enumerate(inputs.number_names)}
    if isinstance(beside, (Candidates, Trained, Scored)):
        return by_name | keras_candidates.feed(beside)
    return by_name if beside is None else by_name | {"log_prior": beside}


def reset_state(model: Any) -> None:
    """Set the state of a model from `build` to zero."""
    layer = model.get_layer("recurrent")
    layer.reset_states()


def reset_rows(model: Any, fresh: Bools) -> None:
    """Set the state of some rows of a model from `build` to zero.

    Args:
        model: keras.Model.
        fresh: bool [batch], which rows.
    """
    for state in model.get_layer("recurrent").states:
        state.assign(np.where(fresh[:, None], np.float32(0), np.asarray(state)))
