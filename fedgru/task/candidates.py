"""Candidates: the classes that a person has been to, and what its own past says of each of them.

The head `candidates` (fedgru/models/candidate_head.py) scores every class that a client has been to
in its last `WINDOW` check-ins, and one "somewhere new", which stands for all other classes. What it
scores them by is computed here, on the client, from its own check-ins up to and including the last
one: nothing of the future enters, and nothing leaves the client. With `asked_at` the moment of the
next check-in is known, and nothing else of it.

A candidate's features are of three kinds. Let i be the last check-in and c the candidate:

* a count that earlier check-ins j vote in, each with a weight between 0 and 1: those *followed* by
  c (FOLLOWED, weights by how alike i and j are), and those *at* c (VISITED, weights by when they
  were). With base b_c = (recent frequency of c + 5 shared_c) / (their sum + 5), the feature is
  log((count_c + b_c) / (sum of counts + 1)) - log b_c: how much more than usual;
* when c was visited last, how regularly, and how far away it is (RECENCY);
* what other estimates say: log of b_c, of the shared frequency, of the prior and of back-off counts
  (ESTIMATES). The shared frequency is left out, 0, for venues: see `client_candidates`.

The context, the same for all candidates, is the clock, the gap, and how much there was to count.

Weights follow a study of New York's validation split; the forms are those of a Nadaraya-Watson
estimate (1964).
"""

from dataclasses import dataclass

import numpy as np

from fedgru.core.types import AnyInts, Bools, Doubles, Floats, Int32s, Ints
from fedgru.models.candidate_head import NO_CANDIDATE, Candidates
from fedgru.task.candidate_features import CONTEXT_LIMIT, NEVER, NEXT, FeatureSet
from fedgru.task.look_back import Seen, look_back
from fedgru.task.priors import ClientPrior, History
from fedgru.task.similarities import CheckInFacts

WINDOW = 1024  # check-ins before the last one that are looked at: the cost is linear in a history
MOST_CANDIDATES = 256  # of one prediction; beyond it, those that the prior finds likeliest
BLOCK = 96  # predictions computed at once
TINY = 1e-9  # smaller probabilities are this, in features
LEAST = 1e-30  # and this, where a model starts from them
SHARED_WEIGHT = 5.0  # check-ins that the shared frequencies count for in the base


@dataclass(frozen=True)
class ClientCandidates:
    """The candidates of one client's predictions.

    Attributes:
        candidates: Candidates [num_pairs, ...].
        classes: int32 [num_pairs, 1 + num_candidates]: its class; of "somewhere new" the class that
            is likeliest there by the prior; -1 in padding, and where nowhere is new.
        log_top: float32 [num_pairs], log p(that class, given somewhere new) by the prior.
    """

    candidates: Candidates
    classes: Int32s
    log_top: Floats

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, pairs: slice | AnyInts) -> "ClientCandidates":
        chosen = Candidates(*(array[pairs] for array in self.candidates))
        return ClientCandidates(chosen, self.classes[pairs], self.log_top[pairs])

    def places(self, targets: AnyInts) -> Int32s:
        """Return int32 [num_pairs], which candidate each target class is; 0: somewhere new."""
        is_target = self.classes[:, 1:] == np.asarray(targets)[:, None]
        return np.where(is_target.any(axis=1), 1 + is_target.argmax(axis=1), 0).astype(np.int32)


def client_candidates(
    history: History,
    shared: Doubles,
    prior: ClientPrior,
    backoff: ClientPrior,
    common_classes: bool = True,
    first: int = 0,
    feature_set: FeatureSet = NEXT,
) -> ClientCandidates:
    """Return the candidates of a client's predictions.

    Args:
        history: History of n check-ins.
        shared: float64 [num_classes], frequencies of all clients.
        prior: ClientPrior of the run, whose last row predicts the last check-in.
        backoff: the same, of back-off counts.
        common_classes: whether all clients go to the same classes, as to categories. Then a
            candidate's kind is its class. Otherwise all that were visited are of one kind, and
            log_shared is 0: where a venue has one or two visitors, its frequency in train tells how
            often the client comes back before train ends, and nothing of the time after that.
        first: leave out the predictions of the check-ins up to and including this one.
        feature_set: FeatureSet, what they are scored by.

    Returns:
        ClientCandidates with n - 1 - first rows; row j predicts check-in first + j + 1.
    """
    facts = CheckInFacts.of(history, feature_set.asked_at)
    support = prior.support
    width = min(len(support), MOST_CANDIDATES)
    num_pairs = len(history) - 1 - first
    estimates = _Estimates(support, shared, prior, backoff)
    found = ClientCandidates(
        Candidates(
            features=np.zeros((num_pairs, 1 + width, len(feature_set.features)), np.float32),
            context=np.empty((num_pairs, len(feature_set.context)), np.float32),
            log_prior=np.full((num_pairs, 1 + width), NO_CANDIDATE, np.float32),
            kinds=np.zeros((num_pairs, 1 + width), np.int32),
        ),
        np.full((num_pairs, 1 + width), -1, np.int32),
        np.zeros(num_pairs, np.float32),
    )
    offset = len(history) - 1 - len(prior.log_rest)  # of the priors' rows
    end = first + num_pairs
    for rows, seen in look_back(facts, feature_set, support, first, end, WINDOW, BLOCK):
        part = slice(int(rows[0]) - first, int(rows[-1]) + 1 - first)
        _fill(found[part], facts, rows, seen, estimates, rows - offset, common_classes)
    if not common_classes:
        found.candidates.features[..., feature_set.features.index("log_shared")] = 0
    return found


class _Estimates:
    """What the prior and other estimates say of the classes of the support, and of the rest."""

    def __init__(
        self, support: Int32s, shared: Doubles, prior: ClientPrior, backoff: ClientPrior
    ) -> None:
        if not np.array_equal(prior.support, backoff.support):
            raise ValueError("the two priors are not of the same check-ins")
        self.support, self.shared, self.prior, self.backoff = support, shared, prior, backoff
        others = np.delete(shared, support)
        self._others = {power: float((others**power).sum()) for power in (prior.power, 1.0)}
        is_other = np.ones(len(shared), bool)
        is_other[support] = False
        self.top_other = int(np.where(is_other, shared, -1).argmax()) if is_other.any() else -1

    def probs(self, prior: ClientPrior, pairs: Ints) -> tuple[Doubles, Doubles]:
        """Return float64 p [rows, num_own], and the sum of all other classes' p [rows]."""
        others = self._others[prior.power] * np.exp(prior.log_rest[pairs].astype(np.float64))
        return np.exp(prior.log_own[pairs].astype(np.float64)), others


@dataclass(frozen=True)
class _Chosen:
    """Which classes are candidates in some rows.

    Attributes:
        own: int64 [rows, width], places in the support.
        exists: bool [rows, width], whether the client has been there; others are padding.
        is_candidate: bool [rows, num_own].
        is_whole: whether `own` is the whole support, in its order.
    """

    own: Ints
    exists: Bools
    is_candidate: Bools
    is_whole: bool

    @classmethod
    def of(cls, visited: Bools, prior: Doubles, width: int) -> "_Chosen":
        """Choose among the visited classes, [rows, num_own], the likeliest by the prior."""
        is_whole = visited.shape[1] <= width
        if is_whole:
            own = np.broadcast_to(np.arange(width), (len(visited), width))
        else:
            order = np.argsort(np.where(visited, -prior, 1.0), axis=1, kind="stable")
            own = np.sort(order[:, :width], axis=1)
        exists = np.take_along_axis(visited, own, axis=1)
        is_candidate = np.zeros_like(visited)
        np.put_along_axis(is_candidate, own, exists, axis=1)
        return cls(own, exists, is_candidate, is_whole)

    def take(self, values: Doubles) -> Doubles:
        """Return the candidates' values [rows, width] of values [rows, num_own]."""
        return np.take_along_axis(values, self.own, axis=1)

    def take_each(self, values: Floats) -> Floats:
        """Return [number, width, rows] of values [number, num_own, rows]."""
        return values if self.is_whole else values[:, self.own.T, np.arange(len(self.own))]

    def new(self, of_own: Doubles, others: Doubles | float) -> Doubles:
        """Return the sums over the classes that are no candidates [rows], with `others`' sum."""
        return np.where(self.is_candidate, 0.0, of_own).sum(axis=1) + others


def _fill(
    found: ClientCandidates,
    facts: CheckInFacts,
    rows: Ints,
    seen: Seen,
    estimates: _Estimates,
    pairs: Ints,
    common_classes: bool,
) -> None:
    """Write the candidates of some rows; `pairs` are the rows of the priors."""
    prior, other_prior = estimates.probs(estimates.prior, pairs)
    chosen = _Chosen.of(seen.visited("all").T > 0, prior, found.classes.shape[1] - 1)
    new_prior = np.maximum(chosen.new(prior, other_prior), LEAST)
    _fill_features(found.candidates, seen, estimates, pairs, chosen)

    num_others = len(estimates.shared) - len(estimates.support)
    is_new = chosen.new(np.ones_like(prior), num_others) > 0  # whether anywhere is
    log_prior = found.candidates.log_prior
    log_prior[:, 0] = np.where(is_new, np.log(new_prior), NO_CANDIDATE)
    log_own = np.log(np.maximum(chosen.take(prior), LEAST))
    log_prior[:, 1:] = np.where(chosen.exists, log_own, NO_CANDIDATE)
    classes = np.where(chosen.exists, estimates.support[chosen.own], -1)
    found.classes[:, 1:] = classes
    found.candidates.kinds[:, 1:] = (classes + 1) if common_classes else chosen.exists

    top, top_prob = _top_of_new(estimates, pairs, np.where(chosen.is_candidate, -1.0, prior))
    found.classes[:, 0] = np.where(is_new, top, -1)
    found.log_top[:] = np.log(np.maximum(top_prob, LEAST)) - np.log(new_prior)

    shifts, scales = seen.feature_set.context_scaling
    own = facts.context(rows) + [np.log1p(np.minimum(rows, WINDOW))]
    standard = np.stack([*own, *np.log1p(seen.totals)], axis=1) - shifts
    standard /= scales
    found.candidates.context[...] = np.clip(standard, -CONTEXT_LIMIT, CONTEXT_LIMIT)


def _fill_features(
    candidates: Candidates, seen: Seen, estimates: _Estimates, pairs: Ints, chosen: _Chosen
) -> None:
    """Write the features, in the order of the FeatureSet."""
    support, shared = estimates.support, estimates.shared
    recent = seen.visited("half_15").T
    total = recent.sum(axis=1, keepdims=True) + SHARED_WEIGHT
    own_shared = np.broadcast_to(shared[support], recent.shape)
    other_shared = max(1.0 - float(shared[support].sum()), 0.0)
    base = (recent + SHARED_WEIGHT * own_shared) / total
    by_estimate = (  # of the support, and the sum of all other classes
        (base, SHARED_WEIGHT * other_shared / total[:, 0]),
        (own_shared, other_shared),
        estimates.probs(estimates.prior, pairs),
        estimates.probs(estimates.backoff, pairs),
    )
    shifts, scales = seen.feature_set.scaling
    log_totals = np.log1p(seen.totals)
    # [features, candidates, rows] until they are written
    ratios = chosen.take_each(seen.counts) / chosen.take(base).T.astype(np.float32)
    ratios += 1
    np.log(ratios, out=ratios)
    ratios -= log_totals[:, None]
    logs = [np.log(np.maximum(chosen.take(own), TINY)).T for own, _ in by_estimate]
    begin = 0
    for values in (ratios, chosen.take_each(seen.recency), np.array(logs, np.float32)):
        part = slice(begin, begin + len(values))
        values = (values - shifts[part, None, None]) / scales[part, None, None]
        np.copyto(values, 0, where=~chosen.exists.T)
        candidates.features[:, 1:, part] = values.transpose(2, 1, 0)
        begin = part.stop

    never = np.broadcast_to(np.array(NEVER, np.float32)[:, None], (len(NEVER), len(pairs)))
    new_logs = [np.log(np.maximum(chosen.new(*each), TINY)) for each in by_estimate]
    somewhere_new = np.concatenate([-log_totals, never, new_logs]).T.astype(np.float32)
    candidates.features[:, 0] = (somewhere_new - shifts) / scales


def _top_of_new(estimates: _Estimates, pairs: Ints, of_own: Doubles) -> tuple[Int32s, Doubles]:
    """Return the likeliest class by the prior that is no candidate, and its probability, [rows].

    Args:
        estimates: _Estimates.
        pairs: int64 [rows], rows of the prior.
        of_own: float64 [rows, num_own], p of the support's classes, below 0 for candidates.
    """
    if len(estimates.support):
        classes, probs = estimates.support[of_own.argmax(axis=1)], of_own.max(axis=1)
    else:
        classes, probs = np.full(len(pairs), -1, np.int32), np.full(len(pairs), -1.0)
    if estimates.top_other < 0:
        return classes, probs
    rest = np.exp(estimates.prior.log_rest[pairs].astype(np.float64))
    of_other = rest * estimates.shared[estimates.top_other] ** estimates.prior.power
    classes = np.where(of_other > probs, estimates.top_other, classes).astype(np.int32)
    return classes, np.maximum(of_other, probs)
