"""Means for cohorts in which some clients may lie: median, trimmed mean, Krum.

They need the updates one by one, so memory holds a cohort's updates at once. A client's examples
do not count in the median and the trimmed mean: a liar could claim any number. A table row is
averaged over its owners in each; where one or two own a row, no rule can tell who lies.
"""

import numpy as np

from fedgru.algorithms.client_rule import DEFAULT_RULE
from fedgru.algorithms.fed_avg import FedAvg, UpdateSum, check_fits
from fedgru.algorithms.fed_sub_avg import FedSubAvg

DEFAULT_LIAR_SHARE = 0.2


class UpdateList:
    """A cohort's updates, one by one."""

    def __init__(self, weights):
        self._weights = weights
        self.updates = []
        self.num_examples = 0

    def __len__(self):
        return len(self.updates)

    def add(self, update):
        """Add one ClientUpdate; errors as `UpdateSum.add`."""
        check_fits(update, self._weights)
        self.updates.append(update)
        self.num_examples += update.num_examples

    def merge(self, other):
        """Add the updates of another UpdateList."""
        self.updates += other.updates
        self.num_examples += other.num_examples

    def __getstate__(self):
        # what goes to another process is a part, to be merged where the weights are
        return self.__dict__ | {"_weights": None}


class _CoordinateWise(FedAvg):
    """One number per coordinate from all clients' numbers there; a row's from its owners'."""

    def start(self, weights, row_ids=None):
        return UpdateList(weights)

    def mean_update(self, total):
        """Return name -> float32 array, the shapes of the weights; see FedAvg.mean_update."""
        updates = sorted(total.updates, key=lambda update: update.client)
        mean = {
            name: self._middle(np.stack([update.dense[name] for update in updates]))
            for name in updates[0].dense
        }
        return {"rows": self._rows(updates, total._weights["rows"]), **mean}

    def _rows(self, updates, table):
        """Rows with the same number of owners are worked on together."""
        rows = np.zeros_like(table)
        ids = np.concatenate([update.row_ids for update in updates])
        values = np.concatenate([update.row_update for update in updates])
        order = np.argsort(ids, kind="stable")
        owned, first, counts = np.unique(ids[order], return_index=True, return_counts=True)
        for count in np.unique(counts):
            alike = counts == count
            places = order[first[alike][:, None] + np.arange(count)]
            rows[owned[alike]] = self._middle(np.swapaxes(values[places], 0, 1))
        return rows

    def _middle(self, values):
        """Return the middle of float32 [num_clients, ...] over the clients."""
        raise NotImplementedError(f"algorithm {self.name} has no mean: it needs _middle")


class Median(_CoordinateWise):
    """The coordinate-wise median; of an even number of clients the median nearest to zero.

    All between the two middle values are medians. Their mean, the usual choice, would give a liar
    half of each row that it shares with one other client; nearest to zero, two must agree.

    Source: Yin et al. 2018 (arXiv:1803.01498), Definition 1, but for that choice.
    """

    name = "median"

    def _middle(self, values):
        return median_near_zero(np.sort(values, axis=0))


def median_near_zero(ordered):
    """Return the median nearest to zero of each column, values ascending along the first axis.

    >>> median_near_zero(np.array([[-1, 2, 1], [3, 4, 2], [5, 6, 9]])[[0, 2]])
    array([0, 2, 1])
    """
    num = len(ordered)
    return np.clip(0, ordered[(num - 1) // 2], ordered[num // 2]).astype(ordered.dtype)


class TrimmedMean(_CoordinateWise):
    """The mean of each coordinate without a share of the clients at each end, rounded up.

    Where that would leave nobody, as of two clients, the median nearest to zero.

    Source: Yin et al. 2018 (arXiv:1803.01498), Definition 2, but for few clients.
    """

    name = "trimmed_mean"

    def __init__(self, server_optimizer, liar_share, client_rule=DEFAULT_RULE):
        super().__init__(server_optimizer, client_rule)
        self.liar_share = liar_share

    def _middle(self, values):
        num, ordered = len(values), np.sort(values, axis=0)
        cut = int(np.ceil(self.liar_share * num))
        if 2 * cut >= num:
            return median_near_zero(ordered)
        return ordered[cut : num - cut].mean(axis=0, dtype=np.float32)


class Krum(FedSubAvg):
    """Multi-Krum: the weighted mean of the clients whose updates lie closest together.

    With n clients, f of them taken to lie, each client's score is the sum of squared distances to
    its n - f - 2 nearest others; the n - f lowest scores stay.

    Source: Blanchard et al. 2017 (arXiv:1703.02757), section 4 and its multi-Krum. There all
        clients send all weights; here distances are over the weights that all share, since each
        client has other rows.
    """

    name = "krum"

    def __init__(self, server_optimizer, liar_share, client_rule=DEFAULT_RULE, owners=True):
        super().__init__(server_optimizer, client_rule)
        self.liar_share, self.owners = liar_share, owners

    def start(self, weights, row_ids=None):
        return UpdateList(weights)

    def mean_update(self, total):
        """Return name -> float32 array, the shapes of the weights; see FedAvg.mean_update."""
        updates = sorted(total.updates, key=lambda update: update.client)
        kept = UpdateSum(total._weights)
        for place in self.choose(updates):
            kept.add(updates[place])
        return super().mean_update(kept)

    def choose(self, updates):
        """Return which updates stay, int, ascending; all where fewer than 4 are given."""
        num = len(updates)
        if num < 4:
            return np.arange(num)
        flat = np.stack([np.concatenate([w.ravel() for w in u.dense.values()]) for u in updates])
        flat = flat.astype(np.float64)
        norms = (flat**2).sum(axis=1)
        distances = np.maximum(norms[:, None] + norms - 2 * flat @ flat.T, 0)
        np.fill_diagonal(distances, np.inf)
        num_liars = min(int(np.ceil(self.liar_share * num)), (num - 3) // 2)
        nearest = np.sort(distances, axis=1)[:, : num - num_liars - 2]
        return np.sort(np.argsort(nearest.sum(axis=1), kind="stable")[: num - num_liars])

    def mean_rows(self, total):
        mean = FedSubAvg.mean_rows if self.owners else FedAvg.mean_rows
        return mean(self, total)
