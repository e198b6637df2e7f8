"""Robust means for cohorts with malicious clients: median, trimmed mean, Krum.

They need each update separately, so memory holds all updates of a cohort. The median and the
trimmed mean do not weight by examples: a malicious client could claim any number. All of them
average a table row over its owners. If a row has only one or two owners, no rule can find out
which client is malicious.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, UpdateSum, check_fits
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.core.types import AnyInts, Floats, Ints, Weights

DEFAULT_LIAR_SHARE = 0.2


class UpdateList:
    """A cohort's updates, one by one."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.updates: list[ClientUpdate] = []
        self.num_examples = 0

    def __len__(self) -> int:
        return len(self.updates)

    def add(self, update: ClientUpdate) -> None:
        """Add one ClientUpdate; errors as `UpdateSum.add`."""
        check_fits(update, self._weights)
        self.updates.append(update)
        self.num_examples += update.num_examples

    def merge(self, other: "UpdateList") -> None:
        """Add the updates of another UpdateList."""
        self.updates += other.updates
        self.num_examples += other.num_examples

    def __getstate__(self) -> dict[str, Any]:
        # only a part goes to another process; it is merged where the weights are
        return self.__dict__ | {"_weights": None}


class _CoordinateWise(FedAvg):
    """Combine the clients' numbers in each coordinate separately; in rows only the owners'."""

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> UpdateList:
        return UpdateList(weights)

    def mean_update(self, total: UpdateList) -> Weights:
        """Return name -> float32 array, the shapes of the weights; see FedAvg.mean_update."""
        updates = sorted(total.updates, key=lambda update: update.client)
        mean = {
            name: self._middle(np.stack([update.dense[name] for update in updates]))
            for name in updates[0].dense
        }
        return {"rows": self._rows(updates, total._weights["rows"]), **mean}

    def _rows(self, updates: Sequence[ClientUpdate], table: Floats) -> Floats:
        """Combine the rows, all rows with the same number of owners at once."""
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

    def _middle(self, values: Floats) -> Floats:
        """Return the robust mean of float32 [num_clients, ...] over the clients."""
        raise NotImplementedError(f"algorithm {self.name} has no mean: it needs _middle")


class Median(_CoordinateWise):
    """The coordinate-wise median; of an even number of clients the median nearest to zero.

    All values between the two middle values are medians. The usual choice is their mean, but then a
    malicious client decides half of each row that it shares with one other client. With the median
    nearest to zero, a row of two owners moves only as far as both agree.

    Source: Yin et al. 2018 (arXiv:1803.01498), Definition 1, except for that choice.
    """

    name = "median"

    def _middle(self, values: Floats) -> Floats:
        return median_near_zero(np.sort(values, axis=0))


def median_near_zero(ordered: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the median nearest to zero of each column, values ascending along the first axis.

    >>> median_near_zero(np.array([[-1, 2, 1], [3, 4, 2], [5, 6, 9]])[[0, 2]])
    array([0, 2, 1])
    """
    num = len(ordered)
    return np.clip(0, ordered[(num - 1) // 2], ordered[num // 2]).astype(ordered.dtype)


class TrimmedMean(_CoordinateWise):
    """The mean of each coordinate without a share of the clients at each end, rounded up.

    If that leaves nobody, as with two clients, it is the median nearest to zero.

    Source: Yin et al. 2018 (arXiv:1803.01498), Definition 2, except for few clients.
    """

    name = "trimmed_mean"

    def __init__(
        self,
        server_optimizer: ServerOptimizer,
        liar_share: float,
        client_rule: ClientRule = DEFAULT_RULE,
    ) -> None:
        super().__init__(server_optimizer, client_rule)
        self.liar_share = liar_share

    def _middle(self, values: Floats) -> Floats:
        num, ordered = len(values), np.sort(values, axis=0)
        cut = int(np.ceil(self.liar_share * num))
        if 2 * cut >= num:
            return median_near_zero(ordered)
        return ordered[cut : num - cut].mean(axis=0, dtype=np.float32)


class Krum(FedSubAvg):
    """Multi-Krum: the weighted mean of the clients whose updates lie closest together.

    With n clients, of which f are assumed malicious, a client's score is the sum of its squared
    distances to its n - f - 2 nearest other clients. The n - f clients with the lowest scores stay.

    Source: Blanchard et al. 2017 (arXiv:1703.02757), section 4 and its multi-Krum. There all
        clients send all weights; here distances use only the weights that all clients share,
        because each client has other rows.
    """

    name = "krum"

    def __init__(
        self,
        server_optimizer: ServerOptimizer,
        liar_share: float,
        client_rule: ClientRule = DEFAULT_RULE,
        owners: bool = True,
    ) -> None:
        super().__init__(server_optimizer, client_rule)
        self.liar_share, self.owners = liar_share, owners

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> UpdateList:
        return UpdateList(weights)

    def mean_update(self, total: UpdateList) -> Weights:
        """Return name -> float32 array, the shapes of the weights; see FedAvg.mean_update."""
        updates = sorted(total.updates, key=lambda update: update.client)
        kept = UpdateSum(total._weights)
        for place in self.choose(updates):
            kept.add(updates[place])
        return super().mean_update(kept)

    def choose(self, updates: Sequence[ClientUpdate]) -> Ints:
        """Return the indices of the updates that stay, int, ascending; all of fewer than 4."""
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

    def mean_rows(self, total: UpdateSum) -> Floats:
        mean = FedSubAvg.mean_rows if self.owners else FedAvg.mean_rows
        return mean(self, total)
