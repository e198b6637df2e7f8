"""Federated averaging (McMahan et al. 2017) with any server optimizer (Reddi et al. 2021)."""

from collections.abc import Sized
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.private import Private
from fedgru.algorithms.server_optimizers import ServerOptimizer, Slots
from fedgru.algorithms.simulated import Simulated
from fedgru.core.errors import TrainingError
from fedgru.core.types import AnyFloats, AnyInts, Floats, Ints, Weights


@dataclass(frozen=True)
class ClientUpdate:
    """What one client sends back: its update and three sums.

    Attributes:
        client: index of the client.
        num_examples: targets trained on, counting each local epoch, not padding.
        dense: name -> float32 array, client weights minus the received weights, for every weight
            except `rows`.
        row_ids: int32 [num_own], the table rows that the client owns; distinct.
        row_update: float32 [num_own, G * hidden_dim], the update of those rows; the update of all
            other rows is zero.
        loss_sum: float, negative log-likelihood summed over the targets trained on, nats.
        num_correct: float, number of these targets that were ranked first.
        protected: float [3], of the protected head: its loss summed in nats, its number of
            correct answers, and the number of its examples; zeros without a head.
        num_steps: local steps of all epochs; 0 where the engine does not say.
        extra: what else the client sends, name -> float32 array like `dense`, with `rows` like
            `row_update`; None for nothing. Only some algorithms ask for it.
        measured: what the client found at the received weights before training, if the algorithm
            asked; for some its mean train loss in nats.
    """

    client: int
    num_examples: int
    dense: Weights
    row_ids: AnyInts
    row_update: Floats
    loss_sum: float
    num_correct: float
    protected: AnyFloats = field(default_factory=lambda: np.zeros(3))
    num_steps: int = 0
    extra: Weights | None = None
    measured: Any = None


@dataclass(frozen=True)
class NoUpdate:
    """Replaces a ClientUpdate if a real client sent none, or one that cannot be read.

    Attributes:
        client: index of the client.
        why: one of the reasons in `fedgru.algorithms.faults`.
    """

    client: int
    why: str


@dataclass(frozen=True)
class ServerState:
    """What the server keeps between rounds.

    Attributes:
        weights: name -> float32 array.
        optimizer: name of a slot -> {name of a weight -> array}; scalars under "step".
        round_num: rounds done; 0 before training.
        simulated: Simulated, in a run with simulated time; else None.
        private: Private, in a run with differential privacy; else None.
    """

    weights: Weights
    optimizer: Slots
    round_num: int
    simulated: Simulated | None = None
    private: Private | None = None


def counted_once(update: ClientUpdate) -> ClientUpdate:
    """Return a ClientUpdate that counts as one example, the mean of its client's."""
    return replace(
        update,
        num_examples=1,
        loss_sum=update.loss_sum / update.num_examples,
        num_correct=update.num_correct / update.num_examples,
    )


class Total(Sized, Protocol):
    """The sum of the updates of a cohort, or of a part of it; its length is the number of clients.

    UpdateSum is one, `fedgru.algorithms.update_list.UpdateList` another.
    """

    def add(self, update: ClientUpdate) -> None:
        """Add one client's update."""

    def merge(self, other: Any) -> None:
        """Add the Total of a part of the cohort, made by the same algorithm."""


class UpdateSum:
    """Sums of the cohort's updates, each times its client's number of examples.

    Args:
        weights: name -> float32 array.
        row_ids: int32 [num_kept], ascending: the only table rows that updates can have, which
            saves memory for a part of the cohort; all rows by default.
    """

    def __init__(self, weights: Weights, row_ids: AnyInts | None = None) -> None:
        table = weights["rows"]
        self.row_ids = row_ids
        num_rows = len(table) if row_ids is None else len(row_ids)
        self.num_clients = 0
        self.dense = {name: np.zeros_like(w) for name, w in weights.items() if name != "rows"}
        self.rows = np.zeros((num_rows, table.shape[1]), table.dtype)
        self.row_examples = np.zeros(num_rows, np.int64)
        self.num_examples = 0

    def add(self, update: ClientUpdate, factor: float = 1.0) -> None:
        """Add one ClientUpdate.

        Args:
            update: ClientUpdate.
            factor: how much it counts beside its examples.

        Raises:
            TrainingError: if its shapes differ from the weights, or it has no examples.
        """
        check_fits(update, self.dense)
        weight = np.float32(update.num_examples * factor)
        for name, total in self.dense.items():
            total += weight * update.dense[name]
        at = (
            update.row_ids
            if self.row_ids is None
            else np.searchsorted(self.row_ids, update.row_ids)
        )
        self.rows[at] += weight * update.row_update
        self.row_examples[at] += update.num_examples
        self.num_examples += update.num_examples
        self.num_clients += 1

    def merge(self, other: "UpdateSum") -> None:
        """Add an UpdateSum over some rows to this one over all rows."""
        for name, total in self.dense.items():
            total += other.dense[name]
        self.rows[other.row_ids] += other.rows
        self.row_examples[other.row_ids] += other.row_examples
        self.num_examples += other.num_examples
        self.num_clients += other.num_clients

    @property
    def divisor(self) -> float:
        """What a mean divides the sums by."""
        return self.num_examples

    @property
    def row_divisors(self) -> AnyFloats | Ints:
        """What a mean over owners divides the rows' sums by, [num_rows]; 0 without owners."""
        return self.row_examples

    def __len__(self) -> int:
        return self.num_clients


def check_fits(update: ClientUpdate, weights: Weights) -> None:
    """Raise a TrainingError unless an update has examples and the shapes of the weights."""
    if update.num_examples <= 0:
        raise TrainingError(f"client {update.client} sent an update of no examples.")
    for name, array in weights.items():
        if name != "rows" and update.dense[name].shape != array.shape:
            raise TrainingError(
                f"client {update.client} sent {name} of shape {update.dense[name].shape}, "
                f"expected {array.shape}."
            )


class FedAvg:
    """The plain weighted mean: each client counts by its examples, in every weight.

    Args:
        server_optimizer: SGD or Adam of `server_optimizers`.
        client_rule: ClientRule, what clients do in a round.

    Attributes:
        over_owners: whether a row is averaged over its owners, not over all clients.
    """

    name = "fed_avg"
    over_owners = False

    def __init__(
        self, server_optimizer: ServerOptimizer, client_rule: ClientRule = DEFAULT_RULE
    ) -> None:
        self.server_optimizer, self.client_rule = server_optimizer, client_rule

    def init(self, weights: Weights) -> ServerState:
        """Return the ServerState before round 1."""
        return ServerState(weights, self.server_optimizer.init(weights), 0)

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        """Return an object that collects the cohort's updates, by add(ClientUpdate).

        With `row_ids` (int32, ascending) it collects a part of the cohort whose updates have only
        these table rows; merge(part) adds it to the whole.
        """
        return UpdateSum(weights, row_ids)

    def mean_update(self, total: Any) -> Weights:
        """Average the cohort's updates.

        Args:
            total: from `start`, with at least one update.

        Returns:
            name -> float32 array, the shapes of the weights.

        Source: McMahan et al. 2017 (arXiv:1602.05629), Algorithm 1, server step. There weights
            are averaged, here updates; equal when server_lr is 1.
        """
        scale = np.float32(1.0 / total.divisor)
        return {"rows": self.mean_rows(total), **{n: s * scale for n, s in total.dense.items()}}

    def mean_rows(self, total: UpdateSum) -> Floats:
        """Average the rows' updates over the whole cohort; clients count 0 in rows of others."""
        return total.rows * np.float32(1.0 / total.divisor)

    def apply(self, state: ServerState, total: Any) -> ServerState:
        """Return the ServerState after one round; `total` is from `start`, with all updates."""
        weights, slots = self.server_optimizer.apply(
            state.weights, self.mean_update(total), state.optimizer
        )
        return ServerState(weights, slots, state.round_num + 1)
