"""Static counting baselines: what a federated GRU must beat.

Counts come from train and validation together. A baseline gives ranks, not probabilities: a
class that was counted scores higher the more often it was, and no two counted classes tie.
The rules, which the published tables are made with:

* among equal counts the class that was counted first comes first: in the person's own sequence;
  for the global tables in everybody's, users in order of id (numbers in numeric order);
* "counted first" for a transition table is the first time that the class followed that one;
* after the classes that followed the last one come the rest, in the order of the frequencies;
* classes never counted share the ranks that are left (see the tie rule of `fedgru.core.metrics`).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fedgru.core import metrics
from fedgru.core.types import AnyInts, Floats
from fedgru.task.clients import Clients


def evaluate_static(
    clients: Clients, classes: AnyInts, num_classes: int
) -> dict[str, dict[str, float]]:
    """Evaluate every static baseline on the test split.

    Args:
        clients: Clients.
        classes: int32 [num_positions], the class of each position, -1 where it is missing.
            Take the target column's codes as they are: a model's classes come from train alone,
            and without the venues first seen later the baselines come out lower than they are.
        num_classes: int.

    Returns:
        {baseline: summary}, summaries as `fedgru.core.metrics.summarise` gives them, without a
        loss.

    Raises:
        TrainingError: if there are no test targets.
    """
    scored = clients.scored
    client_index = scored.client_of[scored.target_positions("test")]
    return {
        name: metrics.summarise(
            score_static(name, clients, classes, num_classes), client_index, len(scored)
        )
        for name in STATIC_BASELINES
    }


def score_static(
    name: str, clients: Clients, classes: AnyInts, num_classes: int
) -> metrics.TargetScores:
    """Return the TargetScores of one static baseline on the test split, client after client.

    All clients are counted, `clients.scored` are scored.

    Args:
        name: a key of STATIC_BASELINES.
        clients, classes, num_classes: as for `evaluate_static`.
    """
    scored = STATIC_BASELINES[name](clients, classes, num_classes)
    return metrics.concatenate(
        metrics.rank_targets(scores, classes[first:end])
        for first, end, scores in zip(*clients.scored.target_bounds("test"), scored, strict=False)
    )


def commonest(clients: Clients, classes: AnyInts, num_classes: int) -> Iterator[Floats]:
    """Everybody's commonest class.

    As every baseline here:

    Args:
        clients, classes, num_classes: as for `evaluate_static`.

    Yields:
        float32 [num_targets, num_classes] for each client, so that memory is bounded by one
        client's test targets; higher is better.
    """
    scores = _frequency_scores(_everybody(clients, classes), num_classes)
    for _, last_classes in _each_client(clients, classes):
        yield np.tile(scores, (len(last_classes), 1))


def last(clients: Clients, classes: AnyInts, num_classes: int) -> Iterator[Floats]:
    """The class of the last check-in, then the person's own frequencies."""
    for counted, last_classes in _each_client(clients, classes):
        scores = np.tile(_frequency_scores([counted], num_classes), (len(last_classes), 1))
        rows = np.flatnonzero(last_classes >= 0)
        scores[rows, last_classes[rows]] = num_classes + 1
        yield scores


def global_markov(clients: Clients, classes: AnyInts, num_classes: int) -> Iterator[Floats]:
    """What most often follows the last class for everybody, then everybody's frequencies."""
    score = _markov(_everybody(clients, classes), num_classes)
    for _, last_classes in _each_client(clients, classes):
        yield score(last_classes)


def frequency(clients: Clients, classes: AnyInts, num_classes: int) -> Iterator[Floats]:
    """The person's own commonest class."""
    for counted, last_classes in _each_client(clients, classes):
        yield np.tile(_frequency_scores([counted], num_classes), (len(last_classes), 1))


def user_markov(clients: Clients, classes: AnyInts, num_classes: int) -> Iterator[Floats]:
    """What most often follows the last class for this person, then their own frequencies."""
    for counted, last_classes in _each_client(clients, classes):
        yield _markov([counted], num_classes)(last_classes)


STATIC_BASELINES = {
    baseline.__name__: baseline
    for baseline in (commonest, last, global_markov, frequency, user_markov)
}


def _each_client(clients: Clients, classes: AnyInts) -> Iterator[tuple[AnyInts, AnyInts]]:
    """Yield each client's train and validation classes, and what each test target follows."""
    for start, val_end, end in zip(
        clients.starts[:-1], clients.val_ends, clients.starts[1:], strict=True
    ):
        first_target = max(val_end, start + 1)
        yield classes[start:val_end], classes[first_target - 1 : max(end - 1, start)]


def _everybody(clients: Clients, classes: AnyInts) -> list[AnyInts]:
    """Return the clients' train and validation classes, clients in order of id."""
    numeric = all(client_id.isdecimal() for client_id in clients.client_ids)
    key = [int(i) for i in clients.client_ids] if numeric else clients.client_ids
    order = sorted(range(len(clients)), key=lambda client: key[client])
    return [classes[clients.starts[client] : clients.val_ends[client]] for client in order]


def _by_count(values: AnyInts) -> AnyInts:
    """Return the distinct values, most frequent first, among equals the first to appear.

    >>> _by_count(np.array([3, 1, 1, 2, 3]))
    array([3, 1, 2])
    """
    distinct, first, counts = np.unique(values, return_index=True, return_counts=True)
    return distinct[np.lexsort((first, -counts))]


def _frequency_scores(sequences: Sequence[AnyInts], num_classes: int) -> Floats:
    """Return float32 [num_classes]: n for the most frequent of n counted classes, then n - 1 ..."""
    values = np.concatenate(sequences)
    order = _by_count(values[values >= 0])
    scores = np.zeros(num_classes, np.float32)
    scores[order] = np.arange(len(order), 0, -1)
    return scores


def _markov(sequences: Sequence[AnyInts], num_classes: int) -> Callable[[AnyInts], Floats]:
    """Return the function last classes [n] -> scores [n, num_classes]."""
    frequencies = _frequency_scores(sequences, num_classes)
    before = np.concatenate([sequence[:-1] for sequence in sequences])
    after = np.concatenate([sequence[1:] for sequence in sequences])
    known = (before >= 0) & (after >= 0)
    before, after = before[known], after[known]
    order = np.argsort(before, kind="stable")
    distinct, first = np.unique(before[order], return_index=True)
    groups = np.split(after[order], first[1:])
    followers = {c: _by_count(group) for c, group in zip(distinct, groups, strict=False)}

    def score(last_classes: AnyInts) -> Floats:
        scores = np.tile(frequencies, (len(last_classes), 1))
        for last_class in np.intersect1d(last_classes, distinct):
            rows = np.flatnonzero(last_classes == last_class)
            best = followers[last_class]
            scores[np.ix_(rows, best)] = num_classes + np.arange(len(best), 0, -1)
        return scores

    return score
