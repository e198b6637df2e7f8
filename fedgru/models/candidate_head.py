"""The head `candidates`: scores the places that a person knows, by what its own past says of each.

    logit_c = prior_scale * log prior(c) + f(h, context, features_c, kind_c)
    f = features_c @ linear + kind_bias[kind_c] + silu(z_c) @ output
    z_c = features_c @ input + h @ state + context @ of_context + kinds[kind_c] @ of_kind + bias

c goes over the classes that the client has been to and "somewhere new", whose probability is spread
over all other classes as the prior spreads it. f has the same weights for every class and client;
`linear`, `kind_bias` and `output` are zero at the start, so that the model starts as the prior.
h is the state of the recurrent layer, the features are those of `fedgru.task.candidates`.

Weights, beside those of the recurrent layer (`fedgru.models.gru`), with F features, G numbers of
context, H = head_dim units, K kinds; all float32, with the prefix `candidate_`:

    input [F, H], state [hidden_dim, H], of_context [G, H], kinds [K, 4], of_kind [4, H], bias [H]
    output [H], linear [F], kind_bias [K]
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fedgru.core.types import AnyArray, AnyWeights, Floats, Int32s, Weights
from fedgru.models.gru import ModelSpec, init_cell

PREFIX = "candidate_"
HEAD_DIM, HEAD_DROPOUT = 48, 0.3  # if the settings do not say
KIND_DIM = 4  # columns of the embedding of kinds
KIND_DEVIATION = 0.1  # of its start values
NO_CANDIDATE = -1e9  # log prior of padding: its probability is zero


class Candidates(NamedTuple):
    """Candidates of some predictions; the first of each is "somewhere new".

    A tuple of arrays, so that JAX goes through it as a tree.

    Attributes:
        features: float32 [..., 1 + num_candidates, F]; 0 in padding.
        context: float32 [..., G].
        log_prior: float32 [..., 1 + num_candidates], log p by the prior, of "somewhere new" that of
            all its classes together; NO_CANDIDATE in padding.
        kinds: int32 [..., 1 + num_candidates], row of the embedding; 0 for "somewhere new" and
            padding.
    """

    features: Any
    context: Any
    log_prior: Any
    kinds: Any


class Trained(NamedTuple):
    """Candidates, with what a training step needs to know of its target.

    Attributes:
        candidates: Candidates [...].
        log_within: float32 [...], log p(target, given somewhere new) by the prior; 0 if the target
            is a candidate of its own.
        log_top: float32 [...], the same of the class that is likeliest there.
        is_top: float32 [...], 1 if the target is that class.
    """

    candidates: Candidates
    log_within: Any
    log_top: Any
    is_top: Any


class CandidateRows(NamedTuple):
    """A Trained without padding: one row for each candidate of each target, as the C code reads it.

    The first row of a target is "somewhere new", with NO_CANDIDATE where nowhere is new.

    Attributes:
        first_row: int64 [num_positions + 1], the first row of each position; one without a target
            has none.
        features: float32 [num_rows, F].
        log_prior: float32 [num_rows].
        kinds: int32 [num_rows].
        context, log_within, log_top, is_top: as in Trained.
    """

    first_row: Any
    features: Any
    log_prior: Any
    kinds: Any
    context: Any
    log_within: Any
    log_top: Any
    is_top: Any

    @property
    def most_candidates(self) -> int:
        """The most candidates of one position."""
        return int(np.diff(self.first_row).max(initial=1))


def as_rows(trained: Trained, targets: Int32s, mask: Floats) -> tuple[CandidateRows, Int32s]:
    """Return the CandidateRows of a Trained, and the targets' places among them.

    Args:
        trained: Trained [...].
        targets: int32 [...], places among the candidates.
        mask: float32 [...], 0 where there is no target.
    """
    own = trained.candidates
    exists = own.log_prior > NO_CANDIDATE / 2
    exists[..., 0] = True  # somewhere new is the first row even where nowhere is new
    exists &= (mask != 0)[..., None]
    number = exists.sum(axis=-1)
    # rank of each target's candidate among those that exist
    rank = np.take_along_axis(np.cumsum(exists, axis=-1), targets[..., None], -1)[..., 0] - 1
    rows = CandidateRows(
        np.concatenate([[0], np.cumsum(number.reshape(-1))]),
        own.features[exists],
        own.log_prior[exists],
        own.kinds[exists],
        own.context,
        trained.log_within,
        trained.log_top,
        trained.is_top,
    )
    return rows, np.maximum(rank, 0).astype(np.int32)


class Scored(NamedTuple):
    """Candidates, with what their scores become probabilities of all classes by.

    Attributes:
        candidates: Candidates [num].
        classes: int32 [num, 1 + num_candidates]; only those of candidates of their own count.
        log_prior: float32 [num, num_classes], log p by the prior.
    """

    candidates: Candidates
    classes: Int32s
    log_prior: Floats


@dataclass(frozen=True)
class CandidateSpec(ModelSpec):
    """The ModelSpec of a model with this head.

    Attributes:
        head_dim: H, units of the head's hidden layer.
        head_dropout: share of these units dropped in training, the same for all candidates.
        num_features, num_context, num_kinds: F, G, K.
    """

    head_dim: int
    head_dropout: float
    num_features: int
    num_context: int
    num_kinds: int

    def init_weights(self, rng: np.random.Generator) -> Weights:
        """See ModelSpec.init_weights."""
        weights = init_cell(self, rng)
        shapes = {
            "input": (self.num_features, self.head_dim),
            "state": (self.hidden_dim, self.head_dim),
            "of_context": (self.num_context, self.head_dim),
            "of_kind": (KIND_DIM, self.head_dim),
        }
        # what comes in is one sum of all four
        fan_in = sum(fan for fan, _ in shapes.values())
        limit = np.sqrt(6.0 / (fan_in + self.head_dim))
        for name, shape in shapes.items():
            weights[PREFIX + name] = rng.uniform(-limit, limit, shape).astype(np.float32)
        kinds = rng.normal(0, KIND_DEVIATION, (self.num_kinds, KIND_DIM))
        weights[PREFIX + "kinds"] = kinds.astype(np.float32)
        zeros = {"bias": self.head_dim, "output": self.head_dim}
        zeros |= {"linear": self.num_features, "kind_bias": self.num_kinds}
        for name, size in zeros.items():
            weights[PREFIX + name] = np.zeros(size, np.float32)
        weights["prior_scale"] = np.ones((), np.float32)
        return weights

    def logits(self, weights: AnyWeights, states: Floats, beside: Any = None) -> AnyArray:
        """Return float32 [num, num_classes], log p(class).

        Args:
            weights: name -> float32 array.
            states: float32 [num, hidden_dim].
            beside: Scored.
        """
        scores = np.asarray(score(weights, states, beside.candidates, np))
        scores = scores - scores.max(axis=-1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        return spread(scores, beside)

    def at_targets(
        self, weights: AnyWeights, hidden: AnyArray, beside: Any, targets: AnyArray, key: AnyArray
    ) -> tuple[AnyArray, AnyArray]:
        """See ModelSpec.at_targets: targets are places among the candidates, beside is Trained."""
        import jax
        import jax.numpy as jnp

        dropped = None
        if self.head_dropout > 0:
            kept = jax.random.bernoulli(
                key, 1 - self.head_dropout, (*hidden.shape[:-1], self.head_dim)
            )
            dropped = kept / (1 - self.head_dropout)
        scores = score(weights, hidden, beside.candidates, jnp, dropped)
        log_probs = jax.nn.log_softmax(scores)
        at_target = jnp.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
        likeliest = scores.at[..., 0].add(beside.log_top).argmax(-1)
        correct = (likeliest == targets) * jnp.where(targets == 0, beside.is_top, 1.0)
        return at_target + beside.log_within, correct


def score(
    weights: AnyWeights, hidden: AnyArray, candidates: Candidates, xp: Any, scale: Any = None
) -> AnyArray:
    """Return float32 [..., 1 + num_candidates], the logits of the candidates.

    Args:
        weights: name -> float32 array.
        hidden: float32 [..., hidden_dim].
        candidates: Candidates [...].
        xp: jax.numpy, or numpy.
        scale: float32 [..., head_dim], dropout's factor of each unit; None for 1.
    """
    own = {name[len(PREFIX) :]: w for name, w in weights.items() if name.startswith(PREFIX)}
    of_all = hidden @ own["state"] + candidates.context @ own["of_context"] + own["bias"]
    of_kinds = own["kinds"] @ own["of_kind"]
    z = candidates.features @ own["input"] + of_kinds[candidates.kinds] + of_all[..., None, :]
    active = z / (1 + xp.exp(-z))
    output = own["output"] if scale is None else (scale * own["output"])[..., None, :]
    found = (active * output).sum(-1) + candidates.features @ own["linear"]
    found = found + own["kind_bias"][candidates.kinds]
    scores = weights["prior_scale"] * candidates.log_prior + found
    # whatever the scale is: one below zero would turn padding into what is likeliest
    return xp.where(candidates.log_prior > NO_CANDIDATE / 2, scores, NO_CANDIDATE)


def spread(log_probs: Floats, scored: Scored) -> Floats:
    """Return float32 [num, num_classes], log p(class), from log p of the candidates.

    Somewhere new is spread over all classes that are no candidates, in the prior's proportions.
    """
    given_new = scored.log_prior - scored.candidates.log_prior[:, :1]
    spread_out = np.asarray(given_new + log_probs[:, :1], np.float32)
    rows, places = np.nonzero(scored.candidates.log_prior[:, 1:] > NO_CANDIDATE / 2)
    spread_out[rows, scored.classes[rows, places + 1]] = log_probs[rows, places + 1]
    return spread_out
