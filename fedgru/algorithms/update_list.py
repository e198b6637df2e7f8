"""What robust means share: a cohort's updates one by one, their rows by owners, their distances."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, Total, UpdateSum, check_fits
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.core.types import AnyFloats, AnyInts, Doubles, Floats, Ints, Weights

VALUES_AT_ONCE = 1 << 22  # float64 values of rows whose inner products are computed together


class UpdateList:
    """A cohort's updates, one by one.

    Args:
        weights: name -> float32 array, what the clients received.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights: Weights | None = weights
        self.updates: list[ClientUpdate] = []
        self.num_examples = 0

    def __len__(self) -> int:
        return len(self.updates)

    @property
    def weights(self) -> Weights:
        """What the clients received."""
        assert self._weights is not None, "a part of a cohort is merged before its mean is taken"
        return self._weights

    @property
    def in_order(self) -> list[ClientUpdate]:
        """The updates in the order of their clients, whoever came first."""
        return sorted(self.updates, key=lambda update: update.client)

    def add(self, update: ClientUpdate) -> None:
        """Add one ClientUpdate; errors as `UpdateSum.add`."""
        check_fits(update, self.weights)
        self.updates.append(update)
        self.num_examples += update.num_examples

    def merge(self, other: "UpdateList") -> None:
        """Add the updates of another UpdateList."""
        self.updates += other.updates
        self.num_examples += other.num_examples

    def __getstate__(self) -> dict[str, Any]:
        # only a part goes to another process; it is merged where the weights are
        return self.__dict__ | {"_weights": None}


class EitherMean(FedSubAvg):
    """A weighted mean that averages a row over its owners, or over all clients.

    Args:
        server_optimizer, client_rule: as for FedAvg.
        owners: which of the two.
    """

    def __init__(
        self,
        server_optimizer: ServerOptimizer,
        client_rule: ClientRule = DEFAULT_RULE,
        owners: bool = True,
    ) -> None:
        super().__init__(server_optimizer, client_rule)
        self.over_owners = owners

    def mean_rows(self, total: UpdateSum) -> Floats:
        """See FedAvg.mean_rows and FedSubAvg.mean_rows."""
        mean = FedSubAvg.mean_rows if self.over_owners else FedAvg.mean_rows
        return mean(self, total)


class ListMean(EitherMean):
    """An EitherMean that needs the updates one by one: its total is an UpdateList."""

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        return UpdateList(weights)


class WeightedSum(UpdateSum):
    """An UpdateSum in which a client's factor counts in the divisors too.

    Args:
        weights: as for UpdateSum.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self._divisor = 0.0
        self._row_divisors: Doubles = np.zeros(len(self.rows))

    def add(self, update: ClientUpdate, factor: float = 1.0) -> None:
        """See UpdateSum.add."""
        super().add(update, factor)
        self._divisor += update.num_examples * factor
        self._row_divisors[update.row_ids] += update.num_examples * factor

    @property
    def divisor(self) -> float:
        return self._divisor

    @property
    def row_divisors(self) -> AnyFloats:
        return self._row_divisors


def norm(update: ClientUpdate) -> float:
    """Return the Euclidean norm of a whole update, rows included."""
    arrays = [update.row_update, *update.dense.values()]
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays)))


def rows_by_owners(updates: Sequence[ClientUpdate]) -> Iterator[tuple[AnyInts, Ints, Floats]]:
    """Yield the rows that are owned, all rows with the same number of owners at once.

    Args:
        updates: ClientUpdates.

    Yields:
        (row_ids, owners, values): int32 [num_rows]; int64 [num_rows, num_owners], places in
        `updates`, ascending; float32 [num_rows, num_owners, G * hidden_dim], their updates.
    """
    ids = np.concatenate([update.row_ids for update in updates])
    values = np.concatenate([update.row_update for update in updates])
    owners = np.repeat(np.arange(len(updates)), [len(update.row_ids) for update in updates])
    order = np.argsort(ids, kind="stable")
    owned, first, counts = np.unique(ids[order], return_index=True, return_counts=True)
    for count in np.unique(counts):
        alike = counts == count
        places = order[first[alike][:, None] + np.arange(count)]
        yield owned[alike], owners[places], values[places]


def inner_products(updates: Sequence[ClientUpdate]) -> Doubles:
    """Return the inner products of whole updates, float64 [num_updates, num_updates].

    A client's update is zero in the rows that it does not own: two clients' rows count where both
    own them.
    """
    products = np.zeros((len(updates), len(updates)))
    for name in updates[0].dense:
        flat = np.stack([update.dense[name].ravel() for update in updates]).astype(np.float64)
        products += flat @ flat.T
    for _, owners, values in rows_by_owners(updates):
        at_once = max(1, VALUES_AT_ONCE // max(values[0].size, 1))
        for begin in range(0, len(values), at_once):
            own, some = owners[begin : begin + at_once], values[begin : begin + at_once]
            some = some.astype(np.float64)
            shared = some @ np.swapaxes(some, 1, 2)
            np.add.at(products, (own[:, :, None], own[:, None, :]), shared)
    return products


def squared_distances(updates: Sequence[ClientUpdate]) -> Doubles:
    """Return the squared distances between whole updates, float64 [num_updates, num_updates]."""
    products = inner_products(updates)
    norms = np.diagonal(products)
    distances = np.maximum(norms[:, None] + norms - 2 * products, 0)
    np.fill_diagonal(distances, 0)
    return distances
