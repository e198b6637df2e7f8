"""Counting baselines that rank: what a federated GRU must beat.

A *static* one counts all that lies before the split that it predicts: train and validation for
test, train alone for validation. A running one goes on counting through the split. A baseline gives
ranks, not probabilities: a class that was counted scores higher the more often it was, and no two
counted classes tie. The rules:

* among equal counts the class that was counted first comes first: in the person's own sequence;
  for the global tables in everybody's, users in order of id (numbers in numeric order);
* among classes that followed the last one equally often, the one with the higher frequency comes
  first, the person's own or everybody's; if these are equal, the one that followed most recently;
* after the classes that followed the last one come the rest, in the order of the frequencies;
* classes that this table never counted, but somebody's did, share the ranks that are left (see
  the tie rule of `fedgru.core.metrics`); a class that nobody counted is unknown: a miss.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedgru.core import metrics
from fedgru.core.types import AnyInts, Bools, Doubles, Floats, Ints
from fedgru.task.clients import Clients


@dataclass(frozen=True)
class Counting:
    """What is counted, and whose targets of which split are predicted.

    Attributes:
        clients: Clients.
        classes: int32 [num_positions], the class of each position, -1 where it is missing.
            Take the target column's codes as they are: a model's classes come from train alone,
            and without the venues first seen later the baselines come out lower than they are.
        num_classes: int.
        split: "val" or "test"; everything before it is counted.
        scored: int [num_scored], ascending, whose targets are predicted; None for `clients.scored`.
        lat_deg, lon_deg: float64 [num_positions], NaN where missing; None where nothing needs them.
    """

    clients: Clients
    classes: AnyInts
    num_classes: int
    split: str = "test"
    scored: AnyInts | None = None
    lat_deg: Doubles | None = None
    lon_deg: Doubles | None = None

    @property
    def counted_ends(self) -> Ints:
        """int64 [num_clients], where the positions that a static baseline counts end."""
        return self.clients.bounds(self.split)[0]

    def targets(self) -> Iterator[tuple[slice, slice]]:
        """Yield for each scored client the positions that are counted, and those of its targets."""
        first, end = self.clients.target_bounds(self.split)
        chosen = range(len(self.clients.scored)) if self.scored is None else self.scored.tolist()
        for client in chosen:
            counted = slice(int(self.clients.starts[client]), int(self.counted_ends[client]))
            yield counted, slice(int(first[client]), int(end[client]))

    def everybody(self) -> list[AnyInts]:
        """Return all clients' counted classes, clients in order of id."""
        ids = self.clients.client_ids
        numeric = all(client_id.isdecimal() for client_id in ids)
        key = [int(i) for i in ids] if numeric else ids
        order = sorted(range(len(ids)), key=lambda client: key[client])
        ends = self.counted_ends
        return [self.classes[self.clients.starts[client] : ends[client]] for client in order]


def evaluate_static(
    clients: Clients, classes: AnyInts, num_classes: int
) -> dict[str, dict[str, float]]:
    """Evaluate every static baseline on the test split.

    Args:
        clients, classes, num_classes: see `Counting`.

    Returns:
        {baseline: summary}, summaries as `fedgru.core.metrics.summarise` gives them, without a
        loss.

    Raises:
        TrainingError: if there are no test targets.
    """
    counting = Counting(clients, classes, num_classes)
    scored = clients.scored
    client_index = scored.client_of[scored.ends().positions("test")]
    return {
        name: metrics.summarise(rank(baseline, counting), client_index, len(scored))
        for name, baseline in STATIC_BASELINES.items()
    }


def rank(
    baseline: Callable[[Counting], Iterator[Floats]],
    counting: Counting,
    listed: Bools | None = None,
    num_listed: int = 0,
) -> metrics.TargetScores:
    """Return the TargetScores of a baseline, client after client.

    All clients are counted, those that `counting` scores are scored.

    Args:
        baseline: one of the functions of this module, or one like them.
        counting: Counting.
        listed: bool [num_positions], whether the class of a position is on a list that everybody
            has: it is known even if none of these clients counted it. None: there is no list.
        num_listed: int, how many classes that list has.
    """
    classes, clients = counting.classes, counting.clients
    starts, ends = clients.starts[:-1], clients.bounds(counting.split)[1]
    used = _within(starts, ends, len(classes)) & (classes >= 0)
    is_known = used & _within(starts, counting.counted_ends, len(classes))
    if listed is not None:
        is_known |= used & listed
    # known classes first, then those on the list that these clients never meet, then the unknown
    known = np.unique(classes[is_known])
    unknown = np.setdiff1d(classes[used], known)
    others = max(0, num_listed - len(known), 1 - len(known))
    begin = len(known) + others
    values = np.concatenate([known, np.zeros(others, known.dtype), unknown])
    places = np.full(counting.num_classes, -1, np.int64)
    places[known] = np.arange(len(known))
    places[unknown] = begin + np.arange(len(unknown))
    compact = np.where(used, places[classes], -1)
    counting = replace(counting, classes=compact, num_classes=len(values))
    parts = []
    for scores, (_, own) in zip(baseline(counting), counting.targets(), strict=True):
        nobodys = scores[:, begin:]
        nobodys[nobodys == 0] = -np.inf
        targets = compact[own]
        reached = scores[np.arange(len(targets)), targets] > -np.inf
        parts.append(metrics.rank_targets(scores, np.where(reached, targets, -1)))
    found = metrics.concatenate(parts)
    return replace(found, predicted=values[found.predicted].astype(np.int32))


def commonest(counting: Counting) -> Iterator[Floats]:
    """Everybody's commonest class.

    As every baseline here:

    Args:
        counting: Counting.

    Yields:
        float32 [num_targets, num_classes] for each scored client, so that memory is bounded by one
        client's targets; higher is better, 0 was never counted.
    """
    scores = frequency_scores(counting.everybody(), counting.num_classes)
    for _, own in counting.targets():
        yield np.tile(scores, (own.stop - own.start, 1))


def last(counting: Counting) -> Iterator[Floats]:
    """The class of the last check-in, then the person's own frequencies."""
    classes, num_classes = counting.classes, counting.num_classes
    for counted, own in counting.targets():
        last_classes = _before(classes, own)
        own_scores = frequency_scores([classes[counted]], num_classes)
        scores = np.tile(own_scores, (len(last_classes), 1))
        rows = np.flatnonzero(last_classes >= 0)
        scores[rows, last_classes[rows]] = num_classes + 1
        yield scores


def global_markov(counting: Counting) -> Iterator[Floats]:
    """What most often follows the last class for everybody, then everybody's frequencies."""
    score = _markov(counting.everybody(), counting.num_classes)
    for _, own in counting.targets():
        yield score(_before(counting.classes, own))


def frequency(counting: Counting) -> Iterator[Floats]:
    """The person's own commonest class."""
    for counted, own in counting.targets():
        own_scores = frequency_scores([counting.classes[counted]], counting.num_classes)
        yield np.tile(own_scores, (own.stop - own.start, 1))


def user_markov(counting: Counting) -> Iterator[Floats]:
    """What most often follows the last class for this person, then their own frequencies."""
    classes = counting.classes
    for counted, own in counting.targets():
        yield _markov([classes[counted]], counting.num_classes)(_before(classes, own))


STATIC_BASELINES = {
    baseline.__name__: baseline
    for baseline in (commonest, last, global_markov, frequency, user_markov)
}


def running_user_markov(counting: Counting) -> Iterator[Floats]:
    """As `user_markov`, but the person's counts go on through the split, up to each target."""
    classes = counting.classes
    for counted, own in counting.targets():
        part = classes[counted.start : own.stop]
        yield _running_markov(part, own.start - counted.start, counting.num_classes)


RUNNING_COUNTS = {running_user_markov.__name__: running_user_markov}


def frequency_scores(sequences: Sequence[AnyInts], num_classes: int) -> Floats:
    """Return float32 [num_classes]: n for the most frequent of n counted classes, then n - 1 ..."""
    values = np.concatenate(sequences)
    order = _by_count(values[values >= 0])
    scores = np.zeros(num_classes, np.float32)
    scores[order] = np.arange(len(order), 0, -1)
    return scores


def _before(classes: AnyInts, own: slice) -> AnyInts:
    """Return the classes that a client's targets follow."""
    return classes[own.start - 1 : own.stop - 1] if own.stop > own.start else classes[:0]


def _within(starts: Ints, ends: Ints, num_positions: int) -> Bools:
    """Return bool [num_positions], whether a position lies in one of some disjoint ranges."""
    steps = np.zeros(num_positions + 1, np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    return np.cumsum(steps)[:-1] > 0


def _by_count(values: AnyInts) -> AnyInts:
    """Return the distinct values, most frequent first, among equals the first to appear.

    >>> _by_count(np.array([3, 1, 1, 2, 3]))
    array([3, 1, 2])
    """
    distinct, first, counts = np.unique(values, return_index=True, return_counts=True)
    return distinct[np.lexsort((first, -counts))]


def _by_following(values: AnyInts, totals: AnyInts) -> AnyInts:
    """Return the distinct values, most frequent first, then by their totals, then the latest.

    >>> _by_following(np.array([0, 1, 2, 3, 3]), np.array([1, 5, 5, 1]))
    array([3, 2, 1, 0])
    """
    distinct, from_end, counts = np.unique(values[::-1], return_index=True, return_counts=True)
    return distinct[np.lexsort((from_end, -totals[distinct], -counts))]


def _markov(sequences: Sequence[AnyInts], num_classes: int) -> Callable[[AnyInts], Floats]:
    """Return the function last classes [n] -> scores [n, num_classes]."""
    frequencies = frequency_scores(sequences, num_classes)
    values = np.concatenate(sequences)
    totals = np.bincount(values[values >= 0], minlength=num_classes)
    before = np.concatenate([sequence[:-1] for sequence in sequences])
    after = np.concatenate([sequence[1:] for sequence in sequences])
    known = (before >= 0) & (after >= 0)
    before, after = before[known], after[known]
    order = np.argsort(before, kind="stable")
    distinct, first = np.unique(before[order], return_index=True)
    groups = np.split(after[order], first[1:])
    followers = {
        c: _by_following(group, totals) for c, group in zip(distinct, groups, strict=False)
    }

    def score(last_classes: AnyInts) -> Floats:
        scores = np.tile(frequencies, (len(last_classes), 1))
        for last_class in np.intersect1d(last_classes, distinct):
            rows = np.flatnonzero(last_classes == last_class)
            best = followers[last_class]
            scores[np.ix_(rows, best)] = num_classes + np.arange(len(best), 0, -1)
        return scores

    return score


def _running_markov(classes: AnyInts, first: int, num_classes: int) -> Floats:
    """Return float32 [len(classes) - first, num_classes], one client's, from counts up to each."""
    own, places = np.unique(classes, return_inverse=True)
    totals, first_seen = np.zeros((2, len(own)), np.int64)
    followed: dict[int, dict[int, tuple[int, int]]] = {}  # place -> follower -> count, last time
    scores = np.zeros((max(len(classes) - first, 0), num_classes), np.float32)
    for at, (code, place) in enumerate(zip(classes.tolist(), places.tolist(), strict=True)):
        if at >= first:
            counts, latest = np.zeros((2, len(own)), np.int64)
            for follower, (count, time) in followed.get(int(places[at - 1]), {}).items():
                counts[follower], latest[follower] = count, time
            order = np.lexsort((-first_seen, latest, totals, counts))
            order = order[totals[order] > 0]
            scores[at - first, own[order]] = np.arange(1, len(order) + 1)
        if code < 0:
            continue
        first_seen[place] = first_seen[place] if totals[place] else at
        totals[place] += 1
        if at and classes[at - 1] >= 0:
            after = followed.setdefault(int(places[at - 1]), {})
            after[place] = (after.get(place, (0, 0))[0] + 1, at)
    return scores
