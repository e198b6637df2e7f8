"""The personal prior: each client's own running counts as a distribution over the next target.

Every count at a check-in holds only pairs that ended at or before it, so nothing of the future
enters, and nothing leaves the device but the frequencies that all clients share (`shared`).
"""

from dataclasses import dataclass

import numpy as np

SHARED_WEIGHT = 3.0  # check-ins that the shared frequencies count for
FREQUENCY_WEIGHT = {"markov": 5.0, "backoff": 10.0}  # own frequencies, in transitions
BACKOFF_WEIGHT = 15.0  # the coarser estimate, in transitions out of the finer context


@dataclass(frozen=True)
class ClientPrior:
    """One client's prior at each of its check-ins but the last: p = own + rest * shared.

    Attributes:
        support: int32 [num_own], the classes that the client ever counts.
        own: float64 [num_pairs, num_own], mass from the client's own counts on `support`.
        rest: float64 [num_pairs], the mass spread by the shared frequencies.
    """

    support: np.ndarray
    own: np.ndarray
    rest: np.ndarray

    def log_probs(self, shared, pairs=slice(None)):
        """Return float32 [num_pairs, num_classes], log p(next class) after each check-in.

        Args:
            shared: float64 [num_classes], frequencies of all clients, positive, sum 1.
            pairs: which rows; all by default.
        """
        probs = self.rest[pairs, None] * shared
        probs[:, self.support] += self.own[pairs]
        return np.log(probs).astype(np.float32)


def shared_frequencies(train_classes, num_classes):
    """Return float64 [num_classes], add-one-smoothed frequencies of everybody's train split.

    >>> shared_frequencies(np.array([0, 0, 1]), 3)
    array([0.5       , 0.33333333, 0.16666667])
    """
    counts = np.bincount(train_classes[train_classes >= 0], minlength=num_classes) + 1.0
    return counts / counts.sum()


def client_prior(kind, classes, local_time_s, venue_codes):
    """Return the running counts of one client's check-ins as a ClientPrior.

    With n the class counts up to and with a check-in, m the counts of what followed its class,
    g the shared frequencies and f = (n + 3 g) / (sum(n) + 3):

    * markov: p1 = (m + 5 f) / (sum(m) + 5);
    * backoff: p1 with 10 for 5; p2 = (c + 15 p1) / (sum(c) + 15), c the counts of what followed
      the same (class, hour // 4, weekend); p3 = (d + 15 p2) / (sum(d) + 15), d the counts of
      what followed the same venue.

    Args:
        kind: "markov" or "backoff".
        classes: int [n], the client's target classes in order of time, -1 unknown (not counted).
        local_time_s: int64 [n], local clock, seconds.
        venue_codes: int [n], which venue.

    Returns:
        ClientPrior with n - 1 rows; row j is the prediction of check-in j + 1.
    """
    known = classes >= 0
    support, compact = np.unique(classes[known], return_inverse=True)
    one_hot = np.zeros((len(classes), len(support)))
    one_hot[known, compact] = 1.0

    frequencies = np.cumsum(one_hot, axis=0)[:-1]
    total = frequencies.sum(axis=1) + SHARED_WEIGHT
    own, rest = frequencies / total[:, None], SHARED_WEIGHT / total

    own, rest = _back_off(_followers(classes, one_hot), own, rest, FREQUENCY_WEIGHT[kind])
    if kind == "backoff":
        hour = local_time_s // 3600 % 24
        weekend = (local_time_s // 86400 + 3) % 7 >= 5  # 1970-01-01 was a Thursday
        context = (classes * 6 + hour // 4) * 2 + weekend
        for key in (context, venue_codes):
            own, rest = _back_off(_followers(key, one_hot), own, rest, BACKOFF_WEIGHT)
    return ClientPrior(support.astype(np.int32), own, rest)


def _followers(key, one_hot):
    """Return float64 [n - 1, k]: up to each check-in, what has followed the same key so far."""
    key, following = key[:-1], one_hot[1:]
    order = np.argsort(key, kind="stable")
    sums = np.cumsum(following[order], axis=0) - following[order]  # the pair itself is the future
    first = np.concatenate([[True], key[order][1:] != key[order][:-1]])
    group_start = np.flatnonzero(first)[np.cumsum(first) - 1]
    counts = np.empty_like(sums)
    counts[order] = sums - sums[group_start]
    return counts


def _back_off(counts, own, rest, weight):
    """Mix counts with a coarser estimate that counts for `weight` observations."""
    total = counts.sum(axis=1) + weight
    return (counts + weight * own) / total[:, None], weight * rest / total
