"""Means of each coordinate by itself: the median and the trimmed mean (Yin et al. 2018).

They do not weight by examples: a malicious client could claim any number. A table row is combined
over its owners.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, Total
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.algorithms.update_list import UpdateList, rows_by_owners
from fedgru.core.types import AnyInts, Floats, Weights


class CoordinateWise(FedAvg):
    """Combine the clients' numbers in each coordinate separately; in rows only the owners'."""

    over_owners = True

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        return UpdateList(weights)

    def mean_update(self, total: UpdateList) -> Weights:
        """Return name -> float32 array, the shapes of the weights; see FedAvg.mean_update."""
        return combine(total.in_order, total.weights["rows"], self.middle)

    def middle(self, values: Floats) -> Floats:
        """Return the robust mean of float32 [num_clients, ...] over the clients."""
        raise NotImplementedError(f"algorithm {self.name} has no mean: it needs middle")


def combine(
    updates: Sequence[ClientUpdate], table: Floats, middle: Callable[[Floats], Floats]
) -> Weights:
    """Combine updates coordinate by coordinate; a row without owners does not change.

    Args:
        updates: ClientUpdates, at least one.
        table: float32 [num_rows, G * hidden_dim], for its shape.
        middle: function of float32 [num_clients, ...], which returns one value for each coordinate.
    """
    rows = np.zeros_like(table)
    for row_ids, _, values in rows_by_owners(updates):
        rows[row_ids] = middle(np.swapaxes(values, 0, 1))
    dense = {name: middle(np.stack([u.dense[name] for u in updates])) for name in updates[0].dense}
    return {"rows": rows, **dense}


class Median(CoordinateWise):
    """The coordinate-wise median; of an even number of clients the median nearest to zero.

    All values between the two middle values are medians. The usual choice is their mean, but then a
    malicious client decides half of each row that it shares with one other client. With the median
    nearest to zero, a row of two owners moves only as far as both agree.

    Source: Yin et al. 2018 (arXiv:1803.01498), Definition 1, except for that choice.
    """

    name = "median"

    def middle(self, values: Floats) -> Floats:
        return median_near_zero(np.sort(values, axis=0))


def median_near_zero(ordered: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the median nearest to zero of each column, values ascending along the first axis.

    >>> median_near_zero(np.array([[-1, 2, 1], [3, 4, 2], [5, 6, 9]])[[0, 2]])
    array([0, 2, 1])
    """
    num = len(ordered)
    return np.clip(0, ordered[(num - 1) // 2], ordered[num // 2]).astype(ordered.dtype)


class TrimmedMean(CoordinateWise):
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

    def middle(self, values: Floats) -> Floats:
        num, ordered = len(values), np.sort(values, axis=0)
        cut = int(np.ceil(self.liar_share * num))
        if 2 * cut >= num:
            return median_near_zero(ordered)
        return ordered[cut : num - cut].mean(axis=0, dtype=np.float32)
