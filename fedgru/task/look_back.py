"""Sums over what a client's check-ins see of their past, class by class.

Public names: look_back, which gives Seen, the counts and the recency of some predictions.

Arrays of pairs of check-ins are [columns, rows], as in fedgru/task/similarities.py. Sums over the
columns of a class are products with a sparse matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedgru.core.types import Floats, Int32s, Ints
from fedgru.task.candidate_features import NEVER, RECENCY, FeatureSet
from fedgru.task.similarities import HOUR_S, Buffers, CheckInFacts, Similarities, shifted

AnyFloats: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Seen:
    """What some rows see of the past, over the client's support.

    Attributes:
        feature_set: FeatureSet.
        counts: float32 [num_weights, num_own, rows], in the order of its `counts`.
        totals: float32 [num_weights, rows], their sums.
        recency: float32 [len(RECENCY), num_own, rows].
    """

    feature_set: FeatureSet
    counts: Floats
    totals: Floats
    recency: Floats

    def visited(self, name: str) -> Floats:
        """Return float32 [num_own, rows], the counts of a weight of `visited`."""
        return self.counts[self.feature_set.counts.index(f"visited_{name}")]


def look_back(
    facts: CheckInFacts,
    feature_set: FeatureSet,
    support: Int32s,
    first: int,
    end: int,
    window: int,
    block: int,
) -> Iterator[tuple[Ints, Seen]]:
    """Yield some rows, int64 [rows], and the Seen of them, block by block.

    Args:
        facts: CheckInFacts.
        feature_set: FeatureSet; with `asked_at` the facts know the moments that are asked for.
        support: int32 [num_own], ascending; every class that is not -1 is in it.
        first, end: the range of check-ins from which is predicted.
        window: how many check-ins are seen, the last one included.
        block: most rows of a block.
    """
    buffers = Buffers()
    places = np.searchsorted(support, facts.classes)
    places = np.where(facts.classes >= 0, places, -1)
    for start in range(first, end, block):
        rows = np.arange(start, min(start + block, end))
        yield rows, _see(facts, feature_set, places, len(support), rows, window, buffers)


def _see(
    facts: CheckInFacts,
    feature_set: FeatureSet,
    places: Ints,
    num_own: int,
    rows: Ints,
    window: int,
    buffers: Buffers,
) -> Seen:
    """Return the Seen of some rows; places: int64 [n], those of the classes in the support."""
    columns = np.arange(max(0, int(rows[0]) - window + 1), int(rows[-1]) + 1)
    counts = np.empty((len(feature_set.counts), num_own, len(rows)), np.float32)
    alike = Similarities(facts, rows, columns, window, buffers)
    # what follows the last column is the future
    followed = _ByClass(np.append(places[columns[1:]], -1), num_own)
    visited = _ByClass(places[columns], num_own)
    for place, weight in alike.products(feature_set.followed, sees_itself=False):
        counts[place] = followed.sums(weight)
    for place, weight in alike.products(feature_set.visited, sees_itself=True):
        counts[len(feature_set.followed) + place] = visited.sums(weight)
    recency = np.empty((len(RECENCY), num_own, len(rows)), np.float32)
    recency[...] = np.array(NEVER, np.float32)[:, None, None]
    # some classes at a time: one running float32 sum of hundreds would lose a digit
    totals = [counts[:, i : i + 32].sum(axis=1) for i in range(0, max(num_own, 1), 32)]
    seen = Seen(feature_set, counts, np.sum(totals, axis=0), recency)
    if len(visited.order):
        _fill_recency(seen, facts, places, alike, visited, window)
    for ago, name in enumerate(("is_last", "is_before", "is_before_that")):
        before = shifted(places, ago)[rows]
        recency[RECENCY.index(name)] = np.arange(num_own)[:, None] == before
    return seen


def _fill_recency(
    seen: Seen,
    facts: CheckInFacts,
    places: Ints,
    alike: Similarities,
    visited: "_ByClass",
    window: int,
) -> None:
    """Write all but `is_...` of RECENCY, where a class was visited."""
    rows, columns = alike.rows, alike.columns
    counts = seen.visited("all")
    first, last = _first_and_last(places, len(counts), rows, window)
    there = np.nonzero(last >= 0)
    first, last, count, at_row = first[there], last[there], counts[there], rows[there[1]]

    def hours(seconds: Ints) -> Floats:
        return (seconds / HOUR_S).astype(np.float32)

    now_s = facts.time_s if facts.asked is None else facts.asked.time_s
    since_h = hours(now_s[at_row] - facts.time_s[last])
    between_h = hours(facts.time_s[last] - facts.time_s[first]) / np.maximum(count - 1, 1)
    between_h[count < 2] = 9999
    squared = alike["squared_km"]
    last_km = np.sqrt(squared[last - columns[0], there[1]])
    km = alike.new("km")
    km[...] = squared
    nearest = np.sqrt(visited.least(alike.unseen(km, 99.0**2))[there])
    # float32 would lose a digit: sums of hundreds of distances
    mean = visited.sums(alike.unseen(np.sqrt(squared, out=km)).astype(float))[there] / count
    found = {
        "log_hours_since": np.log1p(since_h),
        "log_check_ins_since": np.log1p((at_row - last).astype(np.float32)),
        "log_interval": np.log1p(between_h),
        "log_overdue": np.clip(np.log((since_h + 1) / (between_h + 1)), -6.0, 4.0),
        "log_km_nearest": np.log(np.float32(0.05) + nearest),
        "log_km_mean": np.log(np.float32(0.05) + mean),
        "log_km_last": np.log(np.float32(0.05) + last_km),
    }
    for name, values in found.items():
        seen.recency[RECENCY.index(name)][there] = values


class _ByClass:
    """The columns of each class, for sums and minima over them.

    Args:
        classes: int64 [columns], place in the support, -1 for columns that do not count.
        num_own: size of the support.

    Attributes:
        order: int64, the columns that count, sorted by their class.
    """

    def __init__(self, classes: Ints, num_own: int) -> None:
        from scipy.sparse import csr_matrix

        self.order = np.argsort(classes, kind="stable")[np.count_nonzero(classes < 0) :]
        number = np.bincount(classes[self.order], minlength=num_own)
        ends = np.append(0, np.cumsum(number))
        self._occurs = np.flatnonzero(number)
        self._begins = ends[self._occurs]
        ones = np.ones(len(self.order), np.float32)
        self._matrix = csr_matrix((ones, self.order, ends), (num_own, len(classes)))

    def sums(self, weights: AnyFloats) -> AnyFloats:
        """Return [num_own, rows], the sums of weights [columns, rows], in their precision."""
        found: AnyFloats = self._matrix @ weights
        return found

    def least(self, values: Floats) -> Floats:
        """Return float32 [num_own, rows], the least value of each class; 0 if it has no column."""
        found = np.zeros((self._matrix.shape[0], values.shape[1]), np.float32)
        ordered = np.take(values, self.order, axis=0)
        found[self._occurs] = np.minimum.reduceat(ordered, self._begins, axis=0)
        return found


def _first_and_last(places: Ints, num_own: int, rows: Ints, window: int) -> tuple[Ints, Ints]:
    """Return the first and the last visit seen, int64 [num_own, rows]; last is -1 if there is none.

    Where there is none, first is of no meaning.
    """
    begins = np.maximum(rows - window + 1, 0)
    last = np.full((num_own, len(rows)), -1)
    before = np.arange(begins[0], rows[0])
    before = before[places[before] >= 0]
    last[places[before], 0] = before  # in order: the last one stays
    at = places[rows]
    known = np.flatnonzero(at >= 0)
    last[at[known], known] = rows[known]
    last = np.maximum.accumulate(last, axis=1)
    last[last < begins] = -1

    none = len(places)
    first = np.full((num_own, len(rows)), none)
    after = np.arange(rows[-1], begins[-1] - 1, -1)
    after = after[places[after] >= 0]
    first[places[after], -1] = after
    at = places[begins]
    known = np.flatnonzero(at >= 0)
    # rows of the same beginning write the same
    first[at[known], known] = np.minimum(first[at[known], known], begins[known])
    first = np.minimum.accumulate(first[:, ::-1], axis=1)[:, ::-1]
    return first, last
