"""FedBuff (Nguyen et al. 2022): the server averages updates as they come, a buffer at a time."""

from dataclasses import replace
from typing import Any

import numpy as np

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, ServerState, Total
from fedgru.algorithms.protocol import Algorithm
from fedgru.core.types import AnyInts, Weights


def staleness_weight(staleness: int) -> np.float32:
    """Return the factor of an update that was made from weights so many versions old.

    >>> float(staleness_weight(0)), float(staleness_weight(3))
    (1.0, 0.5)
    """
    return np.float32(1 / np.sqrt(1 + staleness))


class Buffer:
    """The updates since the last version, each times its staleness weight.

    Args:
        total: an empty Total of the server half.

    Attributes:
        staleness: versions between the weights that the next added update was made from, and now.
    """

    def __init__(self, total: Total) -> None:
        self.total, self.staleness = total, 0

    def __len__(self) -> int:
        return len(self.total)

    def add(self, update: ClientUpdate) -> None:
        """Add one client's update."""
        if self.staleness:
            factor = staleness_weight(self.staleness)
            dense = {name: factor * array for name, array in update.dense.items()}
            update = replace(update, dense=dense, row_update=factor * update.row_update)
        self.total.add(update)

    def merge(self, other: "Buffer") -> None:
        """See Total."""
        self.total.merge(other.total)


class FedBuff:
    """Any mean and server optimizer, of a buffer of updates that clients send at their own pace.

    A fixed number of clients trains at any time. Client i sends its update Delta_i, made from the
    weights of version v_i, and the server puts it in its buffer. With K updates in the buffer the
    server makes version t + 1 from version t:

        Delta = sum_i n_i * s(t - v_i) * Delta_i / sum_i n_i,    s(tau) = 1 / sqrt(1 + tau),

    and empties it; Delta goes through the server optimizer. Clients do not wait for each other:
    whoever is done is replaced at once. With K clients at a time that take equally long, all tau
    are 0, and this equals `server_half` bit by bit.

    `fedgru/training/asynchronous.py` says which client sends when.

    Args:
        server_half: FedAvg, or whatever has its methods.

    Source: Nguyen et al. 2022 (arXiv:2106.06639), Algorithm 1, with the polynomial staleness
        scaling of its experiments. There n_i is 1: clients count equally; here they count by their
        examples, as in FedAvg. Without secure aggregation.
    """

    name = "fed_buff"

    def __init__(self, server_half: Algorithm) -> None:
        self.server_half = server_half

    @property
    def client_rule(self) -> ClientRule:
        """That of the server half."""
        return self.server_half.client_rule

    def init(self, weights: Weights) -> ServerState:
        """See FedAvg.init."""
        return self.server_half.init(weights)

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Buffer:
        """See FedAvg.start."""
        return Buffer(self.server_half.start(weights, row_ids))

    def apply(self, state: ServerState, total: Any) -> ServerState:
        """See FedAvg.apply; `total` is a Buffer."""
        return self.server_half.apply(state, total.total)
