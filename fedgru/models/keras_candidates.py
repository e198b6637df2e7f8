"""The head `candidates` as stock Keras layers: for the reference engine, and to export.

The arithmetic is that of `fedgru.models.candidate_head`, written twice on purpose, for comparison:
nothing is shared but the names of the weights. Where that adds up numbers of a lookup, this
multiplies by one-hot kinds; where that spreads probabilities class by class, this uses masks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedgru.core.types import AnyArray, Floats, Int32s, Weights
from fedgru.models.candidate_head import (
    KIND_DIM,
    NO_CANDIDATE,
    PREFIX,
    Candidates,
    CandidateSpec,
    Scored,
    Trained,
)

# layer -> the weights of it, in its order; all but the bias are its kernel
_LAYERS = {
    **{name: (name,) for name in ("input", "of_context", "of_kind")},
    "kind_vectors": ("kinds",),
    "state": ("state", "bias"),
    **{name: (name,) for name in ("output", "linear", "kind_bias")},
}


def add_scores(
    spec: CandidateSpec,
    hidden: Any,
    arguments: dict[str, Any],
    batch_size: int,
    seq_len: int | None,
) -> Any:
    """Return the scores of the candidates on a Keras tensor, [batch, seq_len, 1 + num_candidates].

    Args:
        spec: CandidateSpec.
        hidden: Keras tensor [batch, seq_len, hidden_dim].
        arguments: name -> Keras input; those of Candidates are added, see `feed`.
        batch_size, seq_len: of the model.
    """
    import keras
    from keras import ops

    def dense(units: int, name: str, use_bias: bool = False) -> Any:
        return keras.layers.Dense(units, use_bias=use_bias, name=PREFIX + name)

    shapes = {"features": (None, spec.num_features), "context": (spec.num_context,)}
    for name, shape in (shapes | {"log_prior": (None,), "kinds": (None,)}).items():
        arguments[PREFIX + name] = keras.Input(
            (seq_len, *shape),
            batch_size=batch_size,
            dtype="int32" if name == "kinds" else "float32",
            name=PREFIX + name,
        )
    features, context, log_prior, kinds = (arguments[PREFIX + n] for n in Candidates._fields)
    kind = ops.one_hot(kinds, spec.num_kinds)
    of_all = dense(spec.head_dim, "state", use_bias=True)(hidden)
    of_all += dense(spec.head_dim, "of_context")(context)
    of_kind = dense(spec.head_dim, "of_kind")(dense(KIND_DIM, "kind_vectors")(kind))
    z = dense(spec.head_dim, "input")(features) + of_kind + ops.expand_dims(of_all, -2)
    active = keras.layers.Activation("silu")(z)
    if spec.head_dropout > 0 and seq_len is not None:
        # the same units for all candidates of a check-in
        same = (batch_size, seq_len, 1, spec.head_dim)
        drop = keras.layers.Dropout(spec.head_dropout, same, name=f"{PREFIX}dropout")
        active = drop(active)
    scale = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="prior_scale")(
        ops.expand_dims(log_prior, -1)
    )
    parts = dense(1, "output")(active), dense(1, "linear")(features), dense(1, "kind_bias")(kind)
    scores = ops.squeeze(sum(parts, start=scale), -1)
    return ops.where(log_prior > NO_CANDIDATE / 2, scores, NO_CANDIDATE)


def add_probabilities(
    spec: CandidateSpec,
    scores: Any,
    arguments: dict[str, Any],
    batch_size: int,
    seq_len: int | None,
) -> Any:
    """Return the probabilities of all classes on a Keras tensor, [batch, seq_len, num_classes].

    Args:
        spec, arguments, batch_size, seq_len: as for `add_scores`.
        scores: what it returned.
    """
    import keras
    from keras import ops

    classes = keras.Input(
        (seq_len, None), batch_size=batch_size, dtype="int32", name=f"{PREFIX}classes"
    )
    shape = (seq_len, spec.num_classes)
    log_prior = keras.Input(shape, batch_size=batch_size, name="log_prior")
    arguments |= {f"{PREFIX}classes": classes, "log_prior": log_prior}
    log_probs = ops.log_softmax(scores)
    # the first candidate, somewhere new, has class -1: a row of zeros
    is_class = ops.one_hot(classes, spec.num_classes)
    own = ops.sum(is_class * ops.expand_dims(ops.exp(log_probs), -1), axis=-2)
    log_new = log_probs - arguments[f"{PREFIX}log_prior"]
    new = ops.exp(log_prior + ops.take(log_new, [0], axis=-1))
    return ops.where(ops.sum(is_class, axis=-2) > 0, own, new)


def feed(beside: Candidates | Trained | Scored) -> dict[str, AnyArray]:
    """Return the inputs by name, of arrays [batch, seq_len, ...].

    `candidate_features`, `candidate_context`, `candidate_log_prior` and `candidate_kinds` are those
    of Candidates. For probabilities there are `log_prior`, and `candidate_classes`, which is -1 for
    "somewhere new" and in padding.
    """
    own = beside if isinstance(beside, Candidates) else beside.candidates
    fed = {PREFIX + name: array for name, array in own._asdict().items()}
    if isinstance(beside, Scored):
        classes: Int32s = beside.classes.copy()
        classes[..., 0] = -1
        fed |= {f"{PREFIX}classes": classes, "log_prior": beside.log_prior}
    return fed


def labels(places: AnyArray, trained: Trained) -> Floats:
    """Return what loss and measures compare scores with, float32 [..., 4].

    Args:
        places: int32 [...], which candidate each target is.
        trained: Trained [...].
    """
    return np.stack([places, trained.log_within, trained.log_top, trained.is_top], -1, dtype="f4")


def _nll(labels: Any, scores: Any) -> Any:
    """-log p(target), [batch, seq_len]: of its candidate, times its share of what is new."""
    from keras import ops

    places = ops.cast(labels[..., 0], "int32")
    return ops.sparse_categorical_crossentropy(places, scores, from_logits=True) - labels[..., 1]


def _is_first(labels: Any, scores: Any) -> Any:
    """1 where no class is likelier than the target, [batch, seq_len]."""
    from keras import ops

    # somewhere new is as likely as the likeliest class there
    of_classes = ops.concatenate([scores[..., :1] + labels[..., 2:3], scores[..., 1:]], axis=-1)
    is_first = ops.equal(ops.argmax(of_classes, -1), ops.cast(labels[..., 0], "int32"))
    is_class = ops.where(labels[..., 0] > 0, 1.0, labels[..., 3])
    return ops.cast(is_first, "float32") * is_class


def summed_loss() -> Any:
    """Return the Keras loss of scores, compared with `labels`."""
    import keras

    class SummedLoss(keras.losses.Loss):
        def call(self, labels: Any, scores: Any) -> Any:
            return _nll(labels, scores)

    return SummedLoss(reduction="sum")


def measures() -> list[Any]:
    """Return Keras metrics of scores, compared with `labels`: mean loss and share of hits."""
    import keras

    return [
        keras.metrics.MeanMetricWrapper(_nll, name="nll_of_scores"),
        keras.metrics.MeanMetricWrapper(_is_first, name="accuracy_of_scores"),
    ]


def set_weights(layers: Mapping[str, Any], weights: Mapping[str, Floats]) -> None:
    """Set the weights of the head's layers.

    Args:
        layers: name -> layer of a model.
        weights: name -> float32 array, see `fedgru.models.candidate_head`.
    """
    for name, own in _LAYERS.items():
        layer = layers[PREFIX + name]
        layer.set_weights(
            [
                np.reshape(weights[PREFIX + weight], variable.shape)
                for weight, variable in zip(own, layer.weights, strict=True)
            ]
        )


def get_weights(layers: Mapping[str, Any]) -> Weights:
    """Return the weights of the head's layers by their names, see `set_weights`."""
    found = {}
    for name, own in _LAYERS.items():
        for weight, value in zip(own, layers[PREFIX + name].get_weights(), strict=True):
            is_row = weight in ("output", "linear", "kind_bias")
            found[PREFIX + weight] = value[:, 0] if is_row else value
    return found
