"""The personal prior: each client's own past as a distribution over the next target.

The prior at a check-in uses only pairs that ended at or before it, so nothing of the future enters.
Only the frequencies that all clients share (`shared`) leave the device and, for the kernel, the
gradients of eleven shared numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedgru.core.types import AnyInts, Bools, Doubles, Floats, Int32s, Ints

COUNTS = ("markov", "backoff")  # plain counts; "kernel" is in fedgru/task/kernel_prior.py
ASKED_COUNTS = ("by_hour", "backoff")  # those that know the moment of the next check-in
SHARED_WEIGHT = 3.0  # check-ins that the shared frequencies count for
FREQUENCY_WEIGHT = {"markov": 5.0, "backoff": 10.0}  # own frequencies, in transitions
BACKOFF_WEIGHT = 15.0  # the coarser estimate, in transitions out of the finer context
CELLS_AT_ONCE = 1 << 20  # check-ins times classes that are counted at once: 8 MB in each array


@dataclass(frozen=True)
class Moments:
    """Some moments, in two clocks.

    Attributes:
        time_s: int64 [n], Unix seconds.
        local_time_s: int64 [n], the same on the local clock.
    """

    time_s: Ints
    local_time_s: Ints

    @property
    def local_hour(self) -> Doubles:
        """float64 [n], 0 to 24."""
        return self.local_time_s % 86400 / 3600

    @property
    def weekday(self) -> Ints:
        """int64 [n], 0 to 6, Monday first."""
        return (self.local_time_s // 86400 + 3) % 7  # 1970-01-01 was a Thursday

    @property
    def weekend(self) -> Bools:
        """bool [n], Saturday or Sunday on the local clock."""
        return self.weekday >= 5


@dataclass(frozen=True)
class History:
    """What a client's own device knows of its check-ins, in order of time.

    Attributes:
        classes: int32 [n], target classes, -1 unknown (not counted).
        categories: int32 [n], codes, -1 missing.
        venues: int32 [n], codes.
        time_s: int64 [n], Unix seconds.
        local_time_s: int64 [n], the same on the local clock.
        lat_deg, lon_deg: float64 [n], NaN where missing.
    """

    classes: Int32s
    categories: Int32s
    venues: Int32s
    time_s: Ints
    local_time_s: Ints
    lat_deg: Doubles
    lon_deg: Doubles

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, part: slice | AnyInts) -> "History":
        return History(*(values[part] for values in vars(self).values()))

    def join(self, other: "History") -> "History":
        """Return the History of these check-ins and then the other's."""
        joined = zip(vars(self).values(), vars(other).values(), strict=True)
        return History(*(np.concatenate(values) for values in joined))

    def with_open_end(self, moment: Moments | None = None) -> "History":
        """Return the History with one more check-in, whose class is unknown.

        The last row of a prior is then the prediction of the check-in to come.

        Args:
            moment: Moments [1], when that is, with `asked_at`; None where nothing reads it.
        """
        last = self[-1:]
        last = replace(last, classes=np.full_like(last.classes, -1))
        return self.join(last if moment is None else replace(last, **vars(moment)))

    @property
    def moments(self) -> Moments:
        """Moments [n] of the check-ins."""
        return Moments(self.time_s, self.local_time_s)

    @property
    def asked(self) -> Moments:
        """Moments [n] at which the check-in after each is asked for: when that one was.

        Of the last check-in, which nothing is predicted from, it is its own.
        """
        return Moments(*(np.append(v[1:], v[-1:]) for v in vars(self.moments).values()))

    @property
    def log_asked_gap(self) -> Doubles:
        """float64 [n], log(1 + hours) from each check-in to the moment in `asked`."""
        return np.log1p(np.maximum(self.asked.time_s - self.time_s, 0) / 3600)

    @property
    def local_hour(self) -> Doubles:
        """float64 [n], 0 to 24."""
        return self.moments.local_hour

    @property
    def weekend(self) -> Bools:
        """bool [n], Saturday or Sunday on the local clock."""
        return self.moments.weekend


@dataclass(frozen=True)
class ClientPrior:
    """One client's prior at each of its check-ins but the last.

    log p(class) = log_own on the classes that the client counts, and log_rest + power * log
    shared(class) on all others: only the shared frequencies tell those apart.

    Attributes:
        support: int32 [num_own], the classes that the client ever counts.
        log_own: float32 [num_pairs, num_own].
        log_rest: float32 [num_pairs].
        power: float.
    """

    support: Int32s
    log_own: Floats
    log_rest: Floats
    power: float

    def log_probs(self, shared: Doubles, pairs: slice | AnyInts = slice(None)) -> Floats:
        """Return float32 [num_pairs, num_classes], log p(next class) after each check-in.

        Args:
            shared: float64 [num_classes], frequencies of all clients, positive, sum 1.
            pairs: which rows; all by default.
        """
        log_shared = (self.power * np.log(shared)).astype(np.float32)
        log_probs = self.log_rest[pairs, None] + log_shared
        log_probs[:, self.support] = self.log_own[pairs]
        return log_probs

    def log_prob_of(self, shared: Doubles, pairs: AnyInts, classes: AnyInts) -> Floats:
        """Return float32 [num_pairs], log p of one class at each of some rows."""
        log_shared = (self.power * np.log(shared)).astype(np.float32)
        found = self.log_rest[pairs] + log_shared[classes]
        if len(self.support):
            place = np.minimum(np.searchsorted(self.support, classes), len(self.support) - 1)
            is_own = self.support[place] == classes
            found = np.where(is_own, self.log_own[pairs, place], found)
        return found

    def __getitem__(self, pairs: slice) -> "ClientPrior":
        """Return the ClientPrior of a range of the pairs."""
        return replace(self, log_own=self.log_own[pairs], log_rest=self.log_rest[pairs])


def shared_frequencies(train_classes: AnyInts, num_classes: int) -> Doubles:
    """Return float64 [num_classes], add-one-smoothed frequencies of everybody's train split.

    >>> shared_frequencies(np.array([0, 0, 1]), 3)
    array([0.5       , 0.33333333, 0.16666667])
    """
    counts = np.bincount(train_classes[train_classes >= 0], minlength=num_classes) + 1.0
    return counts / counts.sum()


def noised_frequencies(
    classes: Sequence[AnyInts], num_classes: int, noise: float, generator: np.random.Generator
) -> Doubles:
    """Return float64 [num_classes], shared frequencies with differential privacy.

    Each client sends the frequencies of its own classes, whose norm is at most 1, so that clients
    count equally; the sum gets noise. What noise makes less than one client is one client.

    Args:
        classes: of each client the classes of its train split, -1 unknown.
        num_classes: int.
        noise: standard deviation of the noise in the sum.
        generator: numpy Generator.
    """
    total = np.zeros(num_classes)
    for own in classes:
        counts = np.bincount(own[own >= 0], minlength=num_classes)
        total += counts / max(counts.sum(), 1)
    total = np.maximum(total + noise * generator.standard_normal(num_classes), 0.0) + 1.0
    return total / total.sum()


def count_prior(
    kind: str, history: History, shared: Doubles, asked_at: bool = False
) -> ClientPrior:
    """Return the running counts of one client's check-ins as a ClientPrior.

    With n the class counts up to and including a check-in, m the counts of what followed its class,
    g the shared frequencies and f = (n + 3 g) / (sum(n) + 3):

    * markov: p1 = (m + 5 f) / (sum(m) + 5);
    * backoff: p1 with 10 for 5; p2 = (c + 15 p1) / (sum(c) + 15), c the counts of what followed
      the same (class, hour // 4, weekend); p3 = (d + 15 p2) / (sum(d) + 15), d the counts of
      what followed the same venue.

    With `asked_at` the moment of check-in j + 1 is known in row j, and the hour and the weekend are
    those of that moment: (h, w) = (hour // 4, weekend) there, and of each counted check-in its own.

    * by_hour: p1 with (h, w) in place of the class: what the person does at that time;
    * backoff: p0 = by_hour; p1 as above from p0, p2 with this (h, w) and p3 with the venue and this
      (h, w).

    Args:
        kind: "markov" or "backoff"; with `asked_at` out of ASKED_COUNTS.
        history: History of n check-ins.
        shared: float64 [num_classes].
        asked_at: bool.

    Returns:
        ClientPrior with n - 1 rows; row j is the prediction of check-in j + 1.
    """
    support, places = own_classes(history)
    keys = _asked_contexts(kind, history) if asked_at else _contexts(kind, history)

    # the sums of counts first: then the classes do not need one another
    known = (places >= 0).astype(float)[:, None]
    total = np.cumsum(known)[:-1] + SHARED_WEIGHT
    totals, rest = [total], SHARED_WEIGHT / total
    for key, weight in keys:
        total = followers(key, known)[:, 0] + weight
        totals.append(total)
        rest = weight * rest / total

    log_own = np.empty((len(history) - 1, len(support)), np.float32)
    size = max(1, CELLS_AT_ONCE // len(history))
    for first in range(0, len(support), size):
        some = slice(first, first + size)
        # class after class in memory, along which it is counted
        one_hot = (np.arange(len(support))[some, None] == places).astype(float).T
        own = np.cumsum(one_hot, axis=0)[:-1] / totals[0][:, None]
        for (key, weight), total in zip(keys, totals[1:], strict=True):
            own = (followers(key, one_hot) + weight * own) / total[:, None]
        log_own[:, some] = np.log(own + rest[:, None] * shared[support[some]])
    return ClientPrior(support, log_own, np.log(rest).astype(np.float32), 1.0)


def _contexts(kind: str, history: History) -> list[tuple[AnyInts, float]]:
    """Return what check-ins are counted by, and the weight of what is coarser, [(key, weight)]."""
    keys: list[tuple[AnyInts, float]] = [(history.classes, FREQUENCY_WEIGHT[kind])]
    if kind == "backoff":
        keys.append((_at_hour(history.classes, history.moments), BACKOFF_WEIGHT))
        keys.append((history.venues, BACKOFF_WEIGHT))
    return keys


def _asked_contexts(kind: str, history: History) -> list[tuple[AnyInts, float]]:
    """As `_contexts`, where the moment of the next check-in is known."""
    asked = history.asked
    keys: list[tuple[AnyInts, float]] = [
        (_at_hour(np.zeros_like(history.classes), asked), FREQUENCY_WEIGHT["backoff"])
    ]
    if kind == "backoff":
        keys.append((history.classes, FREQUENCY_WEIGHT[kind]))
        keys.append((_at_hour(history.classes, asked), BACKOFF_WEIGHT))
        keys.append((_at_hour(history.venues, asked), BACKOFF_WEIGHT))
    return keys


def _at_hour(codes: AnyInts, moments: Moments) -> AnyInts:
    """Return int64 [n], equal where code, hour // 4 and weekend are."""
    hour_block = moments.local_hour.astype(np.int64) // 4
    key: AnyInts = (codes * 6 + hour_block) * 2 + moments.weekend
    return key


def own_classes(history: History) -> tuple[Int32s, Ints]:
    """Return the classes that a client ever counts, and which of them each check-in is at.

    Returns:
        (support, int32 [num_own], ascending; int64 [n], place in the support, -1 unknown).
    """
    known = history.classes >= 0
    support, places = np.unique(history.classes[known], return_inverse=True)
    of_all = np.full(len(history), -1, np.int64)
    of_all[known] = places
    return support.astype(np.int32), of_all


def followers(key: AnyInts, one_hot: Doubles) -> Doubles:
    """Return float64 [n - 1, k]: up to each check-in, what has followed the same key so far."""
    key, following = key[:-1], one_hot[1:].T
    order = np.argsort(key, kind="stable")
    following = np.take(following, order, axis=1)
    sums = np.cumsum(following, axis=1)
    sums -= following  # the pair itself is the future
    first = np.concatenate([[True], key[order][1:] != key[order][:-1]])
    begins = np.flatnonzero(first)
    sums -= np.repeat(sums[:, begins], np.diff(begins, append=len(key)), axis=1)
    counts = np.empty_like(sums)
    counts[:, order] = sums
    return counts.T
